"""What a row of a suite should be, and whether its folder holds that, a part of it, or something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeprl_cli import __version__
from deeprl_cli.bench.suite import Row
from deeprl_cli.config.compose import compose_values
from deeprl_cli.config.files import GROUPS
from deeprl_cli.config.messages import dotted_keys
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.folder import read_summary


def plan_of(row: Row, out: Path) -> dict[str, Any]:
    """All that a row's result depends on: its whole configuration, the run it starts from, and our version.

    Raises ConfigError where it can't be configured so.
    """
    config = compose_values(row.train_overrides)
    if row.policy == "best" and not (config.get("eval") or {}).get("every"):
        raise ConfigError("policy: best needs evaluations to choose by, and eval.every=0: leave it out")
    for key in ("run_dir", "checkpoint"):  # no part in the result
        config.pop(key, None)
    plan = {"deeprl": __version__, "train": row.train_overrides, "config": config}
    return {**json.loads(json.dumps(plan, default=str)), "started_from": source_of(row, out)}


def source_of(row: Row, out: Path) -> str | None:
    """A digest of how the row that this one starts from has ended; None where it starts from none, or that hasn't."""
    if row.init_from is None:
        return None
    try:
        return hashlib.sha256((out / row.init_from / "run" / "summary.json").read_bytes()).hexdigest()
    except OSError:
        return None


def stale(folder: Path, plan: Mapping[str, Any]) -> str | None:
    """Why the row in `folder` must run: empty when it never has; None when it needn't, for it finished as planned."""
    try:
        before = json.loads((folder / "row.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(before, dict) or not isinstance(before.get("config"), dict):
        return "row.json is damaged"
    if before.get("deeprl") != plan["deeprl"]:
        return f"its result is of deeprl {before.get('deeprl')}, this is {plan['deeprl']}"
    try:
        summary = read_summary(folder / "run")
    except UserError:
        return "has not come to its end"
    if summary.get("status") != "finished":
        return f"{summary.get('status')} last time"
    changes = _changes(before, plan)
    if changes:
        return f"changed since it ran ({changes})"
    if before.get("started_from") != plan["started_from"]:
        return "the run it starts from is another now"
    evaluation = summary.get("eval")
    lists = [
        evaluation.get(key) if isinstance(evaluation, dict) else None for key in ("return_mean", "best_return_mean")
    ]
    times = [summary.get(key) for key in ("steps_per_second", "wall_seconds")]
    seeds = plan["config"]["seeds"]
    if not all(isinstance(values, list) and len(values) == seeds for values in lists) or None in times:
        return "its summary.json is damaged"
    return None


def half_done(folder: Path, plan: Mapping[str, Any]) -> bool:
    """Whether the run in `folder` was broken off, and can go on to what is planned now."""
    try:
        before = json.loads((folder / "row.json").read_text(encoding="utf-8"))
        same = all(before[key] == plan[key] for key in ("deeprl", "started_from"))
        same = same and not _changes(before, plan)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    try:
        broken_off = read_summary(folder / "run").get("status") == "interrupted"
    except UserError:
        broken_off = True  # killed, before there was one
    return same and broken_off and (folder / "run" / "checkpoints" / "last").is_dir()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`algo.lr: 0.001 -> 0.01`, the first three of them. A key that came with a later deeprl, and that the row doesn't
    set, means what was done then."""
    was, is_now = _leaves(before["config"]), _leaves(now["config"])
    typed = {override.partition("=")[0].lstrip("+~") for override in now["train"]}
    new = {
        key
        for key in is_now
        if key not in was and not any(f"{key}.".startswith(f"{t}.") for t in typed.difference(GROUPS))
    }
    keys = [key for key in {**was, **is_now} if key not in new and was.get(key) != is_now.get(key)]
    told = [f"{key}: {was.get(key)} -> {is_now.get(key)}" for key in keys[:3]]
    return ", ".join(told) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in dotted_keys(values):
        value: Any = values
        for part in key.split("."):
            value = value[part] if isinstance(value, Mapping) and part in value else None
        if not isinstance(value, Mapping):
            found[key] = value
    return found
