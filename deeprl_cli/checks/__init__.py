"""What every algorithm must hold to, tried on short runs: `deeprl check-algorithm`, and `check_algorithm` for tests."""
