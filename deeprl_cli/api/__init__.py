"""What Python programs use: `train`, `load`, `make_trainer`, and the `Run` they give. `deeprl_cli` names them."""
