"""What happens to a run beside its learning: how it is evaluated, ended, kept and logged.

As in `run.py`, fields carry types and ranges only: each default stands once, in `configs/train.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from deeprl_cli.schema.typed import Choice, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

TENSORBOARD = "tensorboard"


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """A run settles `every=auto` and records the number; `RunConfig.eval_every` has it. `episodes=auto` goes by `share`
    (`training/evaluating.py`)."""

    every: NonNegativeInt | Literal["auto"]
    episodes: PositiveInt | Literal["auto"]
    share: PositiveFloat
    gradient_cost: NonNegativeFloat
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
    """`to` is what counts; `tensorboard`, as earlier commands have it, puts it into the list or takes it out."""

    every: PositiveInt
    tensorboard: bool | None
    video_every: NonNegativeInt
    to: list[Annotated[str, Choice((TENSORBOARD, "wandb", "mlflow", "trackio"), "trackers")]]
    project: str | None

    def __post_init__(self) -> None:
        self.to = loggers(self.to, self.tensorboard)
        self.tensorboard = None

    @property
    def event_files(self) -> bool:
        return TENSORBOARD in self.to

    @property
    def trackers(self) -> list[str]:
        return [name for name in self.to if name != TENSORBOARD]


def loggers(to: list[str], tensorboard: bool | None) -> list[str]:
    """The list with TensorBoard or without, where that is said; each name once."""
    named = [name for name in to if name != TENSORBOARD] if tensorboard is False else to
    return list(dict.fromkeys([*[TENSORBOARD] * bool(tensorboard), *named]))
