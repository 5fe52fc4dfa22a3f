"""deeprl: deep reinforcement learning, from the command line and from Python.

    import deeprl_cli as deeprl

    run = deeprl.train("algo=sac env=Pendulum-v1", total_steps=20_000)
    run = deeprl.load("runs/sac/Pendulum-v1/<time>")
    action = run.policy.act(obs)

docs/python.md shows the rest. Nothing is loaded before it is used: torch comes with the first of these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeprl_cli.api.runs import Run, load
    from deeprl_cli.api.training import make_trainer, train
    from deeprl_cli.config.compose import load_config
    from deeprl_cli.deploy.trained import TrainedPolicy
    from deeprl_cli.errors import UserError
    from deeprl_cli.evaluation.evaluate import Evaluation
    from deeprl_cli.plugins.callback import Callback
    from deeprl_cli.plugins.plugin import Plugin

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Evaluation",
    "Plugin",
    "Run",
    "TrainedPolicy",
    "UserError",
    "load",
    "load_config",
    "make_trainer",
    "train",
]

_HOMES = {
    "Callback": "plugins.callback",
    "Evaluation": "evaluation.evaluate",
    "Plugin": "plugins.plugin",
    "Run": "api.runs",
    "TrainedPolicy": "deploy.trained",
    "UserError": "errors",
    "load": "api.runs",
    "load_config": "config.compose",
    "make_trainer": "api.training",
    "train": "api.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
