"""What Hydra does for the shell: completion of overrides, and the scripts that ask for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra

from deeprl_cli.config.gym_ids import GymConfigSource
from deeprl_cli.config.hydra_compose import ROOT, hydra_at_our_folder
from deeprl_cli.errors import ConfigError


def shell_completion(arguments: Sequence[str]) -> None:
    """Hydra's `-sc install=bash|zsh|fish`, `uninstall=…` and, from the shell itself, `query=…` over COMP_LINE.

    COMP_LINE contains our verb. It is removed, or Hydra would take it for an override.
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
        sys.argv[0] = "deeprl"  # for `python -m deeprl_cli`, Hydra would complete the command `python`
    GymConfigSource.offer_ids = True
    try:
        with hydra_at_our_folder():
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            hydra.shell_completion(ROOT, list(arguments))
    finally:
        GymConfigSource.offer_ids = False
