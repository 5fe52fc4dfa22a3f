"""Algorithm names to classes: an algorithm needs only `algos/<name>.py` and `configs/algo/<name>.yaml`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deeprl_cli import algos
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.plugins.files import is_source, load_source
from deeprl_cli.plugins.installed import load, names_beside
from deeprl_cli.schema.run import AlgoConfig, DemonstrationConfig, NetworkConfig, ReplayConfig, RolloutConfig, RunConfig
from deeprl_cli.schema.typed import build, check

if TYPE_CHECKING:
    from deeprl_cli.algorithm import Algorithm
    from deeprl_cli.envs.spec import EnvSpec

# What to use instead of an algorithm that can't take an environment's actions: those that do well without being tuned.
CHOICE = ("sac", "ppo", "dqn", "td3", "a2c", "trpo", "ddpg")
NAMED = 3
NEEDED = ("loop", "action_spaces", "reference", "Config")  # what a class of algorithms says of itself
SHARED = (AlgoConfig, RolloutConfig, ReplayConfig, DemonstrationConfig)  # fields of one name are of one type everywhere
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
    """`Algorithm.check` of the algorithm that `config` names. Where that can't take the actions, those that a person
    would choose are named, the best first, and an environment that it can take. Raises ConfigError."""
    from deeprl_cli.algorithm import ActionSpaceError

    try:
        get_algorithm(config.name).check(config, network, spec)
    except ActionSpaceError as error:
        fitting = [n for n in CHOICE if isinstance(spec.action_space, get_algorithm(n).action_spaces)][:NAMED]
        taken = next((env for kind, env in EXAMPLES.items() if kind in _names(get_algorithm(config.name))), None)
        instead = " or ".join(f"algo={name}" for name in fitting) or "another env"
        raise ConfigError(f"{error}: use {instead}{f', or env={taken}' if taken else ''}") from error


def _names(algorithm: type[Algorithm]) -> list[str]:
    return [space.__name__ for space in algorithm.action_spaces]


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """A whole run's plain values as dataclasses, its algorithm's part as the `Config` of that algorithm.

    Raises ConfigError for a key, a type or a range that is wrong, where possible before torch is loaded. What fields
    say of one another is for `validate`.
    """
    algo = values.get("algo")
    if not isinstance(algo, dict) or not isinstance(algo.get("name"), str):
        raise ConfigError("missing value for 'algo': choose one, for example algo=ppo")
    check(RunConfig, {key: value for key, value in values.items() if key != "algo"})
    for shared in SHARED:
        check(shared, algo, "algo")
    return build(RunConfig, {**values, "algo": build(get_algorithm(algo["name"]).Config, algo, "algo")})
