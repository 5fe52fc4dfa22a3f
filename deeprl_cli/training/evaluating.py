"""How many episodes the evaluations on the way play: `eval.episodes=auto`.

Training is what the time is for. So evaluations may add `eval.share` of its work, and no more, and work is counted, not
timed: two machines evaluate alike. Each seed counts for itself: it is evaluated as it would be alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from deeprl_cli.evaluation.evaluate import Evaluation
from deeprl_cli.schema.course import EvalConfig

MOST = 10
GRADIENT_STEP = 20  # environment steps that take about as long as a gradient step of a small network


def most_episodes(cfg: EvalConfig) -> int:
    """The most that an evaluation may play, of each seed."""
    return MOST if cfg.episodes == "auto" else cfg.episodes


class Evaluating:
    """`played`: of each seed, the steps of all evaluations so far, and the mean length of the last one's episodes."""

    def __init__(self, cfg: EvalConfig, seeds: int) -> None:
        self.cfg = cfg
        self.played: list[list[float]] = [[0, 0.0] for _ in range(seeds)]

    def episodes(self, steps: Sequence[int], updates: Sequence[int]) -> list[int]:
        """How many each seed plays now, after so many environment steps and gradient steps. At least one; all of MOST
        in the first evaluation, of which nothing is known."""
        if isinstance(self.cfg.episodes, int):
            return [self.cfg.episodes] * len(self.played)
        found = []
        for done, learned, (played, length) in zip(steps, updates, self.played, strict=True):
            allowed = self.cfg.share * (done + GRADIENT_STEP * learned) - played
            found.append(max(1, min(MOST, int(allowed / length))) if length else MOST)
        return found

    def count(self, result: Evaluation) -> None:
        """Take an evaluation into account."""
        totals = result.lengths.sum(1).tolist()
        for row, total, length in zip(self.played, totals, result.length_mean, strict=True):
            if total:
                row[:] = [row[0] + total, length]
