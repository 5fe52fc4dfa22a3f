"""Algorithm names to classes: a file `algos/<name>.py` and a `configs/algo/<name>.yaml` are all it takes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deeprl_cli import algos
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.schema.run import AlgoConfig, NetworkConfig, RunConfig
from deeprl_cli.schema.typed import build

if TYPE_CHECKING:
    from deeprl_cli.algorithm import Algorithm
    from deeprl_cli.envs.spec import EnvSpec


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
    """`Algorithm.check` of the algorithm that `config` names. Where that can't take the actions, those that can are
    named. Raises ConfigError."""
    from deeprl_cli.algorithm import ActionSpaceError

    try:
        get_algorithm(config.name).check(config, network, spec)
    except ActionSpaceError as error:
        fitting = [n for n in algorithm_names() if isinstance(spec.action_space, get_algorithm(n).action_spaces)]
        raise ConfigError(f"{error}: use algo={' or algo='.join(fitting) or '(none takes them)'}") from error


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """A whole run's plain values as dataclasses, its algorithm's part as the `Config` of that algorithm.

    Raises ConfigError for a key, a type or a range that is wrong. What fields say of one another is for `validate`.
    """
    algo = values.get("algo")
    if not isinstance(algo, dict) or not isinstance(algo.get("name"), str):
        raise ConfigError("missing value for 'algo': choose one, for example algo=ppo")
    return build(RunConfig, {**values, "algo": build(get_algorithm(algo["name"]).Config, algo, "algo")})
