"""What a callback is: a class of the user's that is told how a run gets on, and can't change its numbers.

    class Tell(deeprl_cli.Callback):
        def on_evaluation(self, event):
            print(event.step, event.return_mean)

What it is told is plain Python, and a copy: no network, no environment, no generator. docs/extending.md has an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Numbers = tuple[float, ...]  # one for each seed


@dataclass(frozen=True, slots=True)
class Event:
    """`run`: the run's folder. `step`: environment steps of one seed. `seeds`: those that train together."""

    run: Path
    step: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Logged(Event):
    """A row of the curves. `steps`: of each seed, where episodes make them differ. `values`: by the metric's name."""

    steps: tuple[int, ...]
    values: Mapping[str, Numbers]


@dataclass(frozen=True, slots=True)
class Evaluated(Event):
    """An evaluation on the way. `returns` and `lengths`: of each seed, of each episode. `best`: the highest mean so
    far of each seed, this one included."""

    returns: tuple[Numbers, ...]
    lengths: tuple[Numbers, ...]
    return_mean: Numbers
    best: Numbers


@dataclass(frozen=True, slots=True)
class Saved(Event):
    """A checkpoint that is whole, in the folder `path`."""

    path: Path


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """`status`: finished, interrupted or failed; `reason`: which `stop.…` ended it early; `summary`: that of
    `summary.json`, which is written by now."""

    status: str
    reason: str | None
    summary: Mapping[str, Any]


class Callback(Protocol):
    """One or more of these methods; those that a class doesn't have aren't called."""

    def on_log(self, event: Logged) -> None:
        """A row has been written to the curves, every `log.every` steps."""

    def on_evaluation(self, event: Evaluated) -> None:
        """The run has been evaluated, every `eval.every` steps."""

    def on_checkpoint(self, event: Saved) -> None:
        """A checkpoint has been written."""

    def on_end(self, event: Ended) -> None:
        """The run has ended, however it did; nothing follows."""


METHODS = ("on_log", "on_evaluation", "on_checkpoint", "on_end")
