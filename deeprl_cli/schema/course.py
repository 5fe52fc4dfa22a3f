"""What happens to a run beside its learning: how it is evaluated, ended, kept and logged.

As in `run.py`, fields carry types and ranges only: each default stands once, in `configs/train.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from deeprl_cli.schema.typed import Choice, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """A run settles `every=auto` and records the number; `RunConfig.eval_every` has it. `episodes=auto` goes by `share`
    (`training/evaluating.py`)."""

    every: NonNegativeInt | Literal["auto"]
    episodes: PositiveInt | Literal["auto"]
    share: PositiveFloat
    final_episodes: PositiveInt
    max_steps: PositiveInt


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    every: NonNegativeInt
    keep: PositiveInt
    history: NonNegativeInt
    replay: bool


@dataclass(kw_only=True, slots=True)
class StopConfig:
    """What ends a run before its `total_steps`; null: nothing."""

    return_: float | None
    evaluations: PositiveInt
    minutes: PositiveFloat | None
    plateau: PositiveInt | None


NEVER: dict[str, Any] = {"return_": None, "evaluations": 1, "minutes": None, "plateau": None}


@dataclass(kw_only=True, slots=True)
class LogConfig:
    every: PositiveInt
    tensorboard: bool
    video_every: NonNegativeInt
    to: list[Annotated[str, Choice(("wandb", "mlflow", "trackio"), "trackers")]]
    project: str | None
