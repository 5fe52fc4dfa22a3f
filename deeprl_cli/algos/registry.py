"""Algorithm names to classes: an algorithm needs only `algos/<name>.py` and `configs/algo/<name>.yaml`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deeprl_cli import algos
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.schema.run import AlgoConfig, DemonstrationConfig, NetworkConfig, ReplayConfig, RolloutConfig, RunConfig
from deeprl_cli.schema.typed import build, check

if TYPE_CHECKING:
    from deeprl_cli.algorithm import Algorithm
    from deeprl_cli.envs.spec import EnvSpec

# What to use instead of an algorithm that can't take an environment's actions: those that do well without being tuned.
CHOICE = ("sac", "ppo", "dqn", "td3", "a2c", "trpo", "ddpg")
NAMED = 3
SHARED = (AlgoConfig, RolloutConfig, ReplayConfig, DemonstrationConfig)  # fields of one name are of one type everywhere
EXAMPLES = {"Box": "Pendulum-v1", "Discrete": "CartPole-v1"}  # of environments with such actions


def algorithm_names() -> list[str]:
    """Names of all algorithms, without importing any."""
    modules = (module.name for module in pkgutil.iter_modules(algos.__path__))
    return sorted(name for name in modules if f"{algos.__name__}.{name}" != __name__)


def get_algorithm(name: str) -> type[Algorithm]:
    """The Algorithm class of `algos/<name>.py`. Raises ConfigError for a name that isn't there."""
    from deeprl_cli.algorithm import Algorithm

    if name not in algorithm_names():
        known = algorithm_names()
        raise ConfigError(f"unknown algorithm '{name}'{did_you_mean(name, known)} Known: {', '.join(known)}")
    module = importlib.import_module(f"{algos.__name__}.{name}")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Algorithm) and value.__module__ == module.__name__
    ]
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
