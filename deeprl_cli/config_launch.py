"""Hydra's launchers and shell completion: the two further things it is asked for, beside composing (`config.py`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from deeprl_cli import config_search
from deeprl_cli.config import ROOT, Sweep, build_run_config, hydra_at_our_folder, one_line, plain
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema import RunConfig


def launch(sweep: Sweep, folder: Path, job: Callable[[RunConfig, str], Any]) -> list[Any]:
    """Run `job(configuration, overrides)` for each through the Hydra launcher chosen with `hydra/launcher=`.

    What each returned, or the exception it raised. `job` must be a module's own function: launchers send it by name.

    The master configuration is composed from Hydra's settings alone: a key that fits only some of the jobs' algorithms
    is looked at in the jobs themselves.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    quoted = str(folder).replace("'", "\\'")
    settings = [*sweep.hydra, f"hydra.sweep.dir='{quoted}'"]
    with hydra_at_our_folder() as loader:
        try:
            master = loader.load_configuration(ROOT, settings, RunMode.MULTIRUN)
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(loader, Callbacks(master)),
                task_function=partial(_launched, job),
                config=master,
            )
        except (HydraException, OmegaConfBaseException, RuntimeError, ImportError) as error:
            raise ConfigError(one_line(str(error))) from None
        return [result._return_value for result in launcher.launch(sweep.jobs, initial_job_idx=0)]


def _launched(job: Callable[[RunConfig, str], Any], composed: DictConfig) -> Any:
    from hydra.core.hydra_config import HydraConfig

    return job(build_run_config(plain(composed)), " ".join(HydraConfig.get().overrides.task))


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
