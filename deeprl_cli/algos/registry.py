"""Algorithm names to classes: an algorithm needs only `algos/<name>.py` and `configs/algo/<name>.yaml`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deeprl_cli import algos
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.plugins.files import is_source, load_source
from deeprl_cli.plugins.installed import load, names_beside
from deeprl_cli.schema.run import AlgoConfig, DemonstrationConfig, NetworkConfig, ReplayConfig, RolloutConfig, RunConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat, PositiveInt, UnitInterval, build, check

if TYPE_CHECKING:
    from deeprl_cli.algorithm import Algorithm
    from deeprl_cli.envs.spec import EnvSpec


@dataclass(kw_only=True, slots=True)
class OftenGiven:
    """Fields that deeprl's algorithms declare themselves and that people often change, each of one type in all of them.
    So a wrong value is refused before the algorithm, and with it torch, is loaded."""

    lr: PerMember[PositiveFloat]
    lr_actor: PerMember[PositiveFloat]
    lr_critic: PerMember[PositiveFloat]
    lr_alpha: PerMember[PositiveFloat]
    ent_coef: PerMember[NonNegativeFloat]
    vf_coef: PerMember[NonNegativeFloat]
    clip_eps: PerMember[PositiveFloat]
    epochs: PositiveInt
    gae_lambda: PerMember[UnitInterval]
    normalize_advantage: bool
    rho: PerMember[UnitInterval | None]
    tau: PerMember[UnitInterval | None]
    target_every: PositiveInt
    policy_delay: PositiveInt


# What to use instead of an algorithm that can't take an environment's actions: those that do well without being tuned.
CHOICE = ("sac", "ppo", "dqn", "td3", "a2c", "trpo", "ddpg")
NAMED = 3
NEEDED = ("loop", "action_spaces", "reference", "Config")  # what a class of algorithms says of itself
SHARED = (AlgoConfig, RolloutConfig, ReplayConfig, DemonstrationConfig)  # fields of one name are of one type everywhere
# Deeprl's algorithms that take one kind of actions only, known here so that a wrong choice is refused before torch is
# loaded. All others of deeprl take any.
ONE_KIND = {"async_q": "Discrete", "ddpg": "Box", "dqn": "Discrete", "sac": "Box", "td3": "Box"}
EXAMPLES = {"Box": "Pendulum-v1", "Discrete": "CartPole-v1"}  # of environments with such actions


def algorithm_names() -> list[str]:
    """Names of all algorithms, plug-ins' included, without importing any."""
    own = own_names()
    return sorted([*own, *names_beside("algorithms", own)])


def own_names() -> list[str]:
    """Those of deeprl itself."""
    modules = (module.name for module in pkgutil.iter_modules(algos.__path__))
    return sorted(name for name in modules if f"{algos.__name__}.{name}" != __name__)


def get_algorithm(name: str) -> type[Algorithm]:
    """The Algorithm class of `algos/<name>.py`, of a plug-in, or of the user's own file or module (`./my_algo.py`,
    `my_package.my_algo`). Raises ConfigError for a name that isn't there, or what is no algorithm."""
    if name in own_names():
        return _in_module(importlib.import_module(f"{algos.__name__}.{name}"), f"algo={name}")
    if is_source(name):
        return _in_module(load_source(name, "algo"), f"algo={name}")
    if name in algorithm_names():
        return _algorithm(load("algorithms", name), f"algo={name}")
    known = algorithm_names()
    raise ConfigError(f"unknown algorithm '{name}'{did_you_mean(name, known)} Known: {', '.join(known)}")


def _in_module(module: ModuleType, key: str) -> type[Algorithm]:
    """The one that the module itself defines."""
    from deeprl_cli.algorithm import Algorithm

    defined = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    found = [value for value in defined if issubclass(value, Algorithm)]
    if len(found) != 1:
        how = f"{len(found)} classes that are" if found else "no class that is"
        raise ConfigError(f"{key}: {module.__name__} defines {how} a deeprl_cli.algorithm.Algorithm: it must be one")
    return _algorithm(found[0], key)


def _algorithm(found: Any, key: str) -> type[Algorithm]:
    from deeprl_cli.algorithm import Algorithm

    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"{key}: {found!r} is no subclass of deeprl_cli.algorithm.Algorithm")
    missing = [name for name in NEEDED if getattr(found, name, None) is None]
    if missing:
        raise ConfigError(
            f"{key}: {found.__name__} doesn't say what its {', '.join(missing)} are: see docs/extending.md"
        )
    return found


def check_algorithm(config: AlgoConfig, network: NetworkConfig, spec: EnvSpec) -> None:
    """`Algorithm.check` of the algorithm that `config` names. Raises ConfigError; for actions that it can't take, as
    `check_actions` does."""
    from deeprl_cli.algorithm import ActionSpaceError

    algorithm = get_algorithm(config.name)
    try:
        algorithm.check(config, network, spec)
    except ActionSpaceError as error:
        taken = [space.__name__ for space in algorithm.action_spaces]
        raise ConfigError(f"{error}: {_instead(taken, spec)}") from error


def check_actions(name: str, spec: EnvSpec) -> None:
    """Raise ConfigError where algorithm `name` takes one kind of actions and the environment has another, without
    loading torch. The message names algorithms that a person would choose, the best first, and an environment that
    fits."""
    taken = ONE_KIND.get(name)
    if taken is not None and taken not in _kinds(spec):
        kind = type(spec.action_space).__name__
        told = f"algo={name} takes {taken} actions, but {spec.id} has {kind} actions"
        raise ConfigError(f"{told}: {_instead([taken], spec)}")


def _instead(taken: Sequence[str], spec: EnvSpec) -> str:
    """`use algo=ppo or algo=dqn or algo=a2c, or env=Pendulum-v1`, for an algorithm that takes these actions."""
    fitting = [f"algo={name}" for name in CHOICE if ONE_KIND.get(name) in (None, *_kinds(spec))][:NAMED]
    env = next((env for kind, env in EXAMPLES.items() if kind in taken), None)
    return f"use {' or '.join(fitting)}{f', or env={env}' if env else ''}"


def _kinds(spec: EnvSpec) -> list[str]:
    """`Box`, and what else the environment's actions are a kind of."""
    return [kind.__name__ for kind in type(spec.action_space).__mro__]


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """A whole run's plain values as dataclasses, its algorithm's part as the `Config` of that algorithm.

    Raises ConfigError for a key, a type or a range that is wrong, where possible before torch is loaded. What fields
    say of one another is for `validate`.
    """
    check_values(values)
    algo = values["algo"]
    return build(RunConfig, {**values, "algo": build(get_algorithm(algo["name"]).Config, algo, "algo")})


def check_values(values: Mapping[str, Any]) -> None:
    """The part of `run_config` that needs no torch: all values of the run but those that an algorithm alone has."""
    algo = values.get("algo")
    if not isinstance(algo, dict) or not isinstance(algo.get("name"), str):
        raise ConfigError("missing value for 'algo': choose one, for example algo=ppo")
    check(RunConfig, {key: value for key, value in values.items() if key != "algo"})
    for shared in (*SHARED, *[OftenGiven] * (algo["name"] in own_names())):
        check(shared, algo, "algo")
