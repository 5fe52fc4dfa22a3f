"""What Hydra is asked for beside composing (`config.py`): which launcher a sweep names, and shell completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from deeprl_cli import config_search
from deeprl_cli.config import ROOT, Sweep, hydra_at_our_folder, sweep_settings
from deeprl_cli.config_errors import unknown_option
from deeprl_cli.engines import ENGINES, Engine, make_engine
from deeprl_cli.errors import ConfigError

HERE = "basic"  # Hydra's name for one job after the other, in this process


def settings(sweep: Sweep) -> tuple[Path, Engine | None]:
    """The sweep's folder, not yet made, and what runs its jobs (`hydra/launcher=`); None: this process, one by one.

    Raises ConfigError for a launcher or an option that there isn't, or whose package is missing.
    """
    chosen = [text.partition("=")[2].strip("'\"") for text in sweep.launcher]
    name = chosen[-1] if chosen else HERE
    if name not in (HERE, *ENGINES):
        raise unknown_option("hydra/launcher", name, [HERE, *ENGINES])
    folder, options = sweep_settings(sweep)
    return folder, None if name == HERE else make_engine(name, options)


def shell_completion(arguments: Sequence[str]) -> None:
    """Hydra's `-sc install=bash|zsh|fish`, `uninstall=…` and, from the shell itself, `query=…` over COMP_LINE.

    COMP_LINE arrives with our verb in it, which Hydra must not take for an override.
    """
    shells = ("bash", "fish", "zsh")
    action, _, shell = arguments[0].partition("=") if len(arguments) == 1 else ("", "", "")
    if action not in ("install", "uninstall", "query") or shell not in shells:
        raise ConfigError(f"-sc takes install=SHELL or uninstall=SHELL, the shell one of {', '.join(shells)}")
    program, *words = os.environ.get("COMP_LINE", "deeprl").split(" ")
    if words and words[0] == "train":
        words = [word for word in words[1:] if not word.startswith("-") or word in ("-m", "--multirun")]
        os.environ["COMP_LINE"] = " ".join([program, *words])
    if sys.argv[0].endswith(".py"):
        sys.argv[0] = "deeprl"  # `python -m deeprl_cli`: Hydra would write a completion of python itself
    config_search.GymConfigSource.offer_ids = True
    try:
        with hydra_at_our_folder():
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            hydra.shell_completion(ROOT, list(arguments))
    finally:
        config_search.GymConfigSource.offer_ids = False
