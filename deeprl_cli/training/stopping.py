"""What ends a run before its `total_steps`: a return, a plateau, or a time limit (`stop.…`).

All of it is told from the evaluations so far and the run's clock, both of which a checkpoint holds. So a run that was
interrupted ends where it would have ended, and one that goes on with other values of `stop` is judged by those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deeprl_cli.errors import ConfigError
from deeprl_cli.evaluation.evaluate import EvaluationStopped
from deeprl_cli.processes import ranks
from deeprl_cli.reports.intervals import iqm
from deeprl_cli.schema.course import StopConfig
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.share import Share
from deeprl_cli.training.shares import Shares
from deeprl_cli.training.together import LOOK_EVERY


def reached(stop: StopConfig, evaluations: Sequence[Sequence[float]]) -> str | None:
    """Why a run ends whose seeds had these mean returns in its evaluations, one list for each seed; None: it doesn't.

    Evaluations are compared by the IQM over seeds; an evaluation without a finite one reaches nothing.
    """
    found = iqm(np.array(evaluations, np.float64), 0).tolist()
    last = found[-stop.evaluations :]
    if stop.return_ is not None and len(last) == stop.evaluations and all(value >= stop.return_ for value in last):
        rows = f" in {stop.evaluations} evaluations in a row" if stop.evaluations > 1 else ""
        return f"stop.return={stop.return_:g}: IQM {found[-1]:.1f}{rows}"
    if stop.plateau is not None and found:
        best = int(np.argmax(np.nan_to_num(found, nan=-np.inf)))
        if len(found) - 1 - best >= stop.plateau:
            return f"stop.plateau={stop.plateau}: no IQM above {found[best]:.1f} in {stop.plateau} evaluations"
    return None


def out_of_time(stop: StopConfig, seconds: float) -> str | None:
    """Why a run ends that has taken so many seconds, or None."""
    if stop.minutes is None or seconds < 60 * stop.minutes:
        return None
    return f"stop.minutes={stop.minutes:g}: the time is over"


def ended_by(stop: StopConfig, state: Mapping[str, Any]) -> str | None:
    """Why a run that goes on from a trainer's `state` would end at once, or None."""
    try:
        found = reached(stop, state["evaluations"])
        return found or out_of_time(stop, state["clock"]["wall_seconds"])
    except (LookupError, TypeError, ValueError):
        return None  # of a first version, or damaged: whoever loads it says so


class Ending:
    """When a trainer's loop comes to its end: asked to, or with the goals of its runs reached. `asked` is agreed on by
    all ranks."""

    def __init__(self, cfg: RunConfig, shares: Shares) -> None:
        self.stop, self.total_steps, self.shares, self.asked = cfg.stop, cfg.total_steps, shares, False
        self._iterations = 0

    def due(self, stopping: Callable[[], bool], seconds: float, length: int) -> bool:
        """Whether it is now, at the end of an iteration of `length` steps, the run having taken so many `seconds`.
        Ranks, to end at the same step, ask one another now and then; the time is rank 0's."""
        if self.shares.over or self.asked:
            return True
        self._iterations += 1
        if ranks.size() > 1 and self._iterations % max(1, LOOK_EVERY // length):
            return False
        late = out_of_time(self.stop, seconds) if ranks.rank() == 0 else None
        if ranks.any_of(late is not None or stopping()):
            late = ranks.told(late)
            for share in self.shares.going:
                share.reason = share.reason or late
            self.asked = late is None
        return self.shares.over or self.asked

    def look(self, evaluations: Sequence[Sequence[float]], step: int, save: Callable[[Sequence[Share]], None]) -> None:
        """At the `evaluations` of all members: a run that has reached its goal ends, unless this is its end anyway. One
        of several does so at once, with its checkpoint and its final evaluation, and the others go on."""
        if step >= self.total_steps:
            return
        for share in self.shares.going:
            reason = reached(self.stop, evaluations[share.members])
            if reason is None or len(self.shares.going) == 1:
                share.reason = reason
                continue
            save([share])
            try:
                self.shares.finish(share, reason, step)
            except EvaluationStopped:
                self.asked = True
                return


def check_stop(cfg: RunConfig) -> None:
    """Raise ConfigError if a goal could never be noticed."""
    for key, goal in (("return", cfg.stop.return_), ("plateau", cfg.stop.plateau)):
        if goal is not None and not cfg.eval_every:
            raise ConfigError(
                f"stop.{key}={goal:g} needs evaluations, and with eval.every=0 there are none: give eval.every"
            )


def release(reason: str) -> str:
    """What to type so that a run that ended for this reason goes on: `stop.return=null`."""
    return f"{reason.partition('=')[0]}=null"
