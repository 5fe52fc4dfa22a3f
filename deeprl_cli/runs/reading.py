"""Reading a run back: its folder and checked configuration, and whether opening it would run code."""

from __future__ import annotations

from pathlib import Path

from deeprl_cli.algos.registry import run_config
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.folder import find_run, read_config
from deeprl_cli.schema.named import names_of
from deeprl_cli.schema.run import RunConfig


def read_run(path: Path) -> tuple[Path, RunConfig]:
    """The run folder at or above `path`, and its checked configuration. Raises UserError where it isn't a run."""
    run = find_run(path)
    values = {key: value for key, value in read_config(run).items() if key != "resolved"}
    if not isinstance(values.get("algo"), dict) or "name" not in values["algo"]:
        raise UserError(f"{run / 'config.yaml'}: names no algorithm")
    try:
        return run, run_config(values)
    except ConfigError as error:
        raise ConfigError(f"{run / 'config.yaml'}: {error}") from error


def check_trust(run: Path, cfg: RunConfig, trusted: bool, *, training: bool = False) -> None:
    """Raise UserError where opening the run would run code that it names. `training`: to train on, which makes its
    callbacks, too; nothing else does."""
    found = code_named(cfg, training=training)
    if found and not trusted:
        raise UserError(f"{run}: {'; '.join(found)}, which runs code: where you trust it, give --trust")


def code_named(cfg: RunConfig, *, training: bool) -> list[str]:
    """What a run names that isn't deeprl's own, and whose code is run when it is opened; a reason for each."""
    module, colon, _ = cfg.env.id.partition(":")
    found = [f"its environment {cfg.env.id} imports the module '{module}'"] if colon else []
    for key, entries in (("env.wrappers", cfg.env.wrappers), ("callbacks", cfg.callbacks if training else [])):
        if entries:
            found.append(f"its {key} import {', '.join(names_of(entries))}")
    return found
