"""What is found before torch is loaded, which takes seconds: wrong keys, values, ids, and kinds of actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deeprl_cli.algos.registry import check_actions, check_values
from deeprl_cli.config.compose import run_values
from deeprl_cli.envs.ids import check_id
from deeprl_cli.envs.look import Look, look
from deeprl_cli.schema.run import EnvConfig
from deeprl_cli.schema.typed import build


def early_values(overrides: Sequence[str], job: int = 0) -> dict[str, Any]:
    """The composed values of `deeprl train <overrides>`, checked in the order of what it costs: keys, the environment's
    id, types and ranges. `job`: its number in a sweep. Raises ConfigError."""
    values = run_values(overrides, job)
    check_id(values["env"])
    check_values(values)
    return values


def early_look(values: Mapping[str, Any], seen: Look | None = None) -> Look:
    """The environment of composed values, built and tried once (`seen`: it was already). Raises UserError, also where
    the algorithm can't take its kind of actions."""
    seen = seen or look(build(EnvConfig, values["env"], "env"))
    check_actions(values["algo"]["name"], seen.spec)
    return seen
