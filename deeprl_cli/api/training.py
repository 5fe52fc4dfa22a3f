"""Training from Python: a whole run, or a trainer whose loop the caller steps."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from deeprl_cli.api.runs import Run, load
from deeprl_cli.config.compose import load_config
from deeprl_cli.config.overrides import as_typed
from deeprl_cli.envs.place import staying
from deeprl_cli.errors import UserError, warn
from deeprl_cli.runs.folder import create_run_folder, write_summary
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.tracking import track
from deeprl_cli.runs.weights_chain import WeightsChain
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training import run as training
from deeprl_cli.training.assemble import assemble
from deeprl_cli.training.assemble import make_trainer as assemble_trainer
from deeprl_cli.training.asynchronous import workers_of
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.callbacks import Callbacks, make_callbacks
from deeprl_cli.training.launch import parallel
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Outlet
from deeprl_cli.training.summary import summarise

Overrides = str | Sequence[str] | RunConfig


def train(overrides: Overrides = "", *, quiet: bool = False, **values: Any) -> Run:
    """Train as `deeprl train <overrides>` does; the finished run.

    `overrides` is what would be typed, as one text or as a list; `values` are more of them, in Python's terms
    (`total_steps=20_000`, `**{"algo.lr": 1e-3}`). `quiet` prints nothing. Raises UserError for what can't be trained,
    KeyboardInterrupt after Ctrl-C: the run's last checkpoint is written then, and `deeprl resume` goes on.
    """
    cfg = configured(overrides, values)
    with open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if quiet:
            stack.enter_context(redirect_stdout(nowhere))
        try:
            folder = training.train(cfg)
        except SystemExit as stop:  # asked to by a signal, and cleanly ended
            if stop.code == 130:
                raise KeyboardInterrupt from None
            raise
    return load(folder, trust=True)  # the caller named its environment


def configured(overrides: Overrides, values: Mapping[str, Any]) -> RunConfig:
    """The checked configuration. Raises ConfigError for a key, a type or a range that is wrong."""
    if isinstance(overrides, RunConfig):
        if values:
            raise UserError(f"{next(iter(values))}: give it where the configuration is made, in load_config")
        return overrides
    if isinstance(overrides, str):
        overrides = shlex.split(overrides)
    return load_config([*overrides, *(f"{key}={as_typed(value)}" for key, value in values.items())])


@contextmanager
def make_trainer(overrides: Overrides = "", **values: Any) -> Iterator[Trainer]:
    """A trainer, for those who step its loop themselves; a context, which closes its environments in the end.

    `trainer.iterate()` collects and learns once, `trainer.steps` counts; `log`, `evaluate` and `checkpoint` write into
    the run's folder, `trainer.to.name`, when they are called; `run` does all of it to the end. `trainer.policy`
    acts, `trainer.algorithm` is what learns. Takes what `train` takes. Raises UserError.
    """
    cfg = configured(overrides, values)
    seen = preflight(cfg)
    cfg = dataclasses.replace(cfg, env=seen.env)
    if parallel(cfg) or workers_of(cfg) is not None:
        raise UserError("hardware=multiprocess: several processes step by themselves; use train(…), or hardware=cpu")
    with staying() as here, ExitStack() as stack:
        parts = assemble(cfg, seen.spec, None, stack, fresh=True)
        called = make_callbacks(cfg.callbacks)
        folder = create_run_folder(cfg, parts.hardware.resolved())
        stack.enter_context(locked(folder))
        home = here / folder
        tracking = track(cfg, home, folder.name, warn)
        logger = stack.enter_context(RunLogger(home, cfg.seed_list, cfg.log.event_files, None, tracking))
        nowhere = stack.enter_context(open(os.devnull, "w"))
        progress = stack.enter_context(Progress(cfg.total_steps, cfg.seeds, nowhere))
        callbacks = Callbacks(called, home, cfg.seed_list)
        outlet = Outlet(home, logger, WeightsChain(home, None), folder, callbacks)
        services = Services([outlet], progress, lambda: False)
        trainer, compiler = assemble_trainer(cfg, parts, services)
        trainer.begin()
        yield trainer
        (share,) = trainer.shares
        status = "finished" if trainer.steps >= cfg.total_steps or share.reason else "interrupted"
        seconds = compiler.seconds if compiler else 0.0
        summary = summarise(trainer, share, seconds, None, status)
        write_summary(home, summary)
        callbacks.end(trainer.steps, summary)
