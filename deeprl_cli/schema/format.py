"""The format of a run's `config.yaml`, and how an older one is brought up to date. No torch here.

A run keeps the configuration with which it was made. When a key is added, removed or renamed, FORMAT goes up by one,
and ADDED (or a function of MOVED) says what an older file means in today's words: what an addition does unless asked,
it did then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from deeprl_cli import __version__
from deeprl_cli.errors import UserError
from deeprl_cli.schema.course import loggers

KEY = "format"
FORMAT = 9  # files of format 1 don't say so

_NO_EXPLORATION = {
    "kind": "none",
    "sigma": 0.1,
    "sigma_schedule": "constant",
    "sigma_end": 0.0,
    "theta": 0.15,
    "dt": 0.01,
}
_NO_KL = {
    "mode": "none",
    "coef": 1.0,
    "adaptive": False,
    "target": None,
    "estimator": "exact",
    "where": "loss",
    "ref": "old",
    "importance_weight": False,
}
_IDENTITY = {
    "features": "identity",
    "bounds": None,
    "order": 3,
    "centres": 5,
    "width": 1.0,
    "tilings": 8,
    "bins": 8,
}
_NO_SDE = {"orthogonal": True, "log_std_init": 0.0, "sde": {"enabled": False, "sample_every": None}}
# format -> where -> the keys that it brought there, with the values that mean "as before". A place is a group ("" is
# the top), or one option of a group, `group=option`.
ADDED: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "": {"horizon": None, "init_from": None},
        "checkpoint": {"keep": 1},
        "algo": {"clip_value": None, "accumulate_steps": 1},
        "algo=dqn": {"tau": None, "td_target": "max", "td_gradient": "semi"},
        "algo=ppo": {
            "subepisodes_per_update": 1,
            "minibatch": "epochs",
            "updates": None,
            "objective": "clip",
            "clip_schedule": "constant",
            "advantage": "gae",
            "nstep": None,
            "kl": _NO_KL,
        },
        "algo=sac": {"tau": None, "critics": 2, "exploration": _NO_EXPLORATION},
        "algo=trpo": {"advantage": "gae", "nstep": None},
        "network=linear": _IDENTITY,
    },
    3: {"env": {"generators": "shared", "origin": None}, "eval": {"max_steps": 10_000}},
    4: {
        "": {"tuned": None, "name": None, "tags": []},
        "network=auto": {"hidden_critic": None},
        "network=mlp": {"hidden_critic": None},
        "network=cnn": {"hidden_critic": None},
        "algo=ppo": _NO_SDE,
        "algo=a2c": _NO_SDE,
        "algo=trpo": {**_NO_SDE, "sub_sampling": 1},
        "algo=sac": {
            "sde": {
                "enabled": False,
                "sample_every": None,
                "warm_up": False,
                "log_std_init": -3.0,
                "clip_mean": 2.0,
            }
        },
    },
    5: {
        "": {"stop": {"return": None, "evaluations": 1, "minutes": None, "plateau": None}, "callbacks": []},
        "env": {"wrappers": []},
        "checkpoint": {"history": 0},
        "eval": {"share": 0.15},
    },
    6: {"log": {"video_every": 0}},
    7: {"log": {"to": [], "project": None}},
    8: {"": {"typed": None}, "env": {"channels": "auto"}},
    9: {"eval": {"gradient_cost": 20.0}},
}


def _move_2(values: dict[str, Any]) -> None:
    """What format 2 has elsewhere, or no more."""
    algo: Any = values.get("algo")
    network: Any = values.get("network")
    if _is(algo, "ppo") and "target_kl" in algo:
        target = algo.pop("target_kl")
        algo["kl"] = {**_NO_KL, "mode": "none" if target is None else "stop", "target": target}
    if _is(algo, "trpo") and "target_kl" in algo:
        algo["max_kl"] = algo.pop("target_kl")
    if _is(network, "linear"):
        for key in ("hidden", "activation", "share"):  # a linear function has no layers to share
            network.pop(key, None)


def _move_8(values: dict[str, Any]) -> None:
    """TensorBoard is one of `log.to`."""
    log = values.get("log")
    if isinstance(log, dict) and isinstance(log.get("to"), list) and isinstance(log.get("tensorboard"), bool):
        log["to"] = loggers(log["to"], log["tensorboard"])
        log["tensorboard"] = None


MOVED: dict[int, Callable[[dict[str, Any]], None]] = {2: _move_2, 8: _move_8}


def up_to_date(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a config.yaml in today's format, without the number. Values aren't checked.

    Raises UserError where it is of a later format, or of none.
    """
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    written = values.pop(KEY, 1)
    if type(written) is not int or written < 1:
        raise UserError(f"{path}: damaged: its format is no number from 1 on")
    if written > FORMAT:
        resolved = values.get("resolved")
        by = str(resolved.get("deeprl"))[:20] if isinstance(resolved, dict) else "another"
        raise UserError(
            f"{path}: written in format {written} by deeprl {by}; this is {__version__}, reading up to format "
            f"{FORMAT}: upgrade deeprl-cli"
        )
    for newer in range(written + 1, FORMAT + 1):
        if newer in MOVED:
            MOVED[newer](values)
        for place, keys in ADDED.get(newer, {}).items():
            _add(values, place, keys)
    return values


def _add(values: dict[str, Any], place: str, keys: Mapping[str, Any]) -> None:
    group, _, option = place.partition("=")
    target = values.get(group) if group else values
    if isinstance(target, dict) and (not option or _is(target, option)):
        for key, value in keys.items():
            target.setdefault(key, deepcopy(value))


def _is(group: Any, option: str) -> bool:
    return isinstance(group, dict) and group.get("name") == option
