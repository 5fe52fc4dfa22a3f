"""Algorithm names to classes: a file `algos/<name>.py` and a `configs/algo/<name>.yaml` are all it takes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from deeprl_cli import algos
from deeprl_cli.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import gymnasium as gym

    from deeprl_cli.algorithm import Algorithm


def algorithm_names() -> list[str]:
    """Names of all algorithms, without importing any."""
    return sorted(module.name for module in pkgutil.iter_modules(algos.__path__))


def algorithms_for(action_space: gym.Space[Any]) -> list[str]:
    """Names of the algorithms that take this action space."""
    return [name for name in algorithm_names() if isinstance(action_space, get_algorithm(name).action_spaces)]


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
