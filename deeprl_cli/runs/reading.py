"""Reading a run back: its folder and checked configuration, and whether opening it would run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeprl_cli.algos.registry import run_config
from deeprl_cli.errors import ConfigError, UserError, warn
from deeprl_cli.plugins.files import digests, is_source
from deeprl_cli.plugins.installed import names
from deeprl_cli.runs.folder import find_run, read_config
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain


def read_run(path: Path, trust: bool = False) -> tuple[Path, RunConfig]:
    """The run folder at or above `path`, and its checked configuration. Raises UserError where it isn't a run, or where
    its algorithm is a file or module of the user's, which is imported for that, without `trust`."""
    run = find_run(path)
    recorded = read_config(run)
    values = {key: value for key, value in recorded.items() if key != "resolved"}
    if not isinstance(values.get("algo"), dict) or "name" not in values["algo"]:
        raise UserError(f"{run / 'config.yaml'}: names no algorithm")
    name, digest = values["algo"]["name"], _digests(recorded)
    if isinstance(name, str) and is_source(name) and not trust:
        told = f" (sha256 {digest[name][:12]}…)" if name in digest else ""
        raise UserError(f"{run}: its algorithm is {name}{told}, which runs code: where you trust it, give --trust")
    try:
        cfg = run_config(values)
    except ConfigError as error:
        raise ConfigError(f"{run / 'config.yaml'}: {error}") from error
    if trust:
        for changed in _changed(digest):
            warn(f"{run}: {changed} has changed since: what it does now isn't what was trained")
    return run, cfg


def _digests(recorded: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files of what the run names, as it remembers them."""
    code = recorded["resolved"].get("code")
    return {str(k): str(v) for k, v in code.items()} if isinstance(code, dict) else {}


def _changed(recorded: Mapping[str, str]) -> list[str]:
    """Those of the files that are others now; of one that can't be found whoever imports it says so."""
    return [name for name, digest in digests(recorded).items() if digest != recorded[name]]


def check_trust(run: Path, cfg: RunConfig, trusted: bool, *, training: bool = False) -> None:
    """Raise UserError where opening the run would run code that it names. `training`: to train on, which makes its
    callbacks, too; nothing else does."""
    found = code_named(to_plain(cfg), training=training)
    if found and not trusted:
        raise UserError(f"{run}: {'; '.join(found)}, which runs code: where you trust it, give --trust")


def code_named(values: Mapping[str, Any], *, training: bool) -> list[str]:
    """What a run's plain values name that isn't deeprl's own, and whose code is run when it is opened; a reason for
    each. Nothing is imported to tell."""
    algo, env = str(values["algo"]["name"]), values["env"]
    module, colon, _ = str(env["id"]).partition(":")
    found = [f"its algorithm is {algo}"] if is_source(algo) else []
    found += [f"its environment {env['id']} imports the module '{module}'"] if colon else []
    for key, entries in (
        ("env.wrappers", env.get("wrappers")),
        ("callbacks", values.get("callbacks") if training else []),
    ):
        named = [str(entry["class"] if isinstance(entry, Mapping) else entry) for entry in entries or []]
        outside = [name for name in named if name not in names("callbacks")]
        if outside:
            found.append(f"its {key} import {', '.join(outside)}")
    return found
