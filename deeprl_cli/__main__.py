"""`python -m deeprl_cli` is `deeprl`."""

from deeprl_cli.cli import main

if __name__ == "__main__":
    main()
