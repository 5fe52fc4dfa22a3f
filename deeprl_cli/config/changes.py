"""What may be changed when a run is continued: `deeprl resume RUN key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from deeprl_cli.config.files import GROUPS, config_dir, group_options
from deeprl_cli.config.messages import unknown_key
from deeprl_cli.config.overrides import parse
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import build, to_plain

FREE = (
    "total_steps",
    "horizon",
    "eval",
    "stop",
    "checkpoint",
    "log",
    "callbacks",
    "hardware",
)  # what may change when a run goes on


def changed(before: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration with `overrides`. Raises ConfigError for a key that would make it another run.

    Schedules keep the horizon the run started with, unless `horizon` is given.
    """
    values = to_plain(before)
    for override in parse(overrides):
        key, text = override.key_or_group, str(override.input_line)
        head, *rest = key.split(".")
        if head not in values:
            raise unknown_key(key, text.partition("=")[2], values, GROUPS, {})
        if head not in FREE:
            raise ConfigError(
                f"'{text}': {head} is what this run is, and stays; a run with another starts afresh: deeprl train … "
                f"(resume takes {', '.join(FREE)})"
            )
        if key in ("eval", "stop", "checkpoint", "log"):
            raise ConfigError(f"'{text}': give one of its keys, {key}.…")
        if key == "hardware":
            values["hardware"] = _of_hardware(str(override.value()), values["hardware"])
            continue
        place = values
        for name in [head, *rest][:-1]:
            place = place.get(name, {})
        if not isinstance(place, dict) or key.rpartition(".")[2] not in place:
            known = [head] if not rest else [f"{head}.{name}" for name in values[head]]
            raise ConfigError(f"unknown key '{key}': there are {', '.join(known)}")
        place[key.rpartition(".")[2]] = override.value()
    if values["total_steps"] != before.total_steps and values["horizon"] == before.horizon:
        values["horizon"] = before.horizon or before.total_steps
    if before.typed is not None:  # the later one wins
        values["typed"] = list({text.partition("=")[0]: text for text in [*before.typed, *overrides]}.values())
    values |= {"algo": before.algo, "env": before.env, "network": before.network}
    return build(RunConfig, values)


def _of_hardware(name: str, before: dict[str, Any]) -> dict[str, Any]:
    """The values of `hardware=name`: those it had before, and the defaults of what that had no need of."""
    if name not in group_options("hardware"):
        return {**before, "name": name}  # refused where it is built
    defaults = yaml.safe_load((config_dir() / "hardware" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: before.get(key, value) for key, value in defaults.items()} | {"name": name}
