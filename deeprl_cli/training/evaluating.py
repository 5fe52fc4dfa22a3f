"""The evaluations on the way, and how many episodes they play: `eval.episodes=auto`.

Evaluations may add at most `eval.share` to the work of training. Work is counted, not timed, so that two machines
evaluate alike. Each seed is counted separately: it is evaluated as it would be alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.evaluation.evaluate import Evaluation, EvaluationStopped, evaluate
from deeprl_cli.policy import Policy
from deeprl_cli.schema.course import EvalConfig
from deeprl_cli.training.services import Services

MOST = 10


def most_episodes(cfg: EvalConfig) -> int:
    """How many episodes an evaluation may play at most, for each seed."""
    return MOST if cfg.episodes == "auto" else cfg.episodes


class Evaluating:
    """Plays on `envs`, which are None where nothing is evaluated on the way.

    `played`: of each seed, the steps of all evaluations so far, and the mean length of the last one's episodes.
    """

    def __init__(self, cfg: EvalConfig, seeds: int, envs: VectorEnv | None) -> None:
        self.cfg, self.envs = cfg, envs
        self.played: list[list[float]] = [[0, 0.0] for _ in range(seeds)]
        self._before_cut: dict[str, Any] | None = None  # where an evaluation that was interrupted begins again

    def play(self, policy: Policy, steps: Sequence[int], to: Services) -> Evaluation | None:
        """An evaluation after so many environment steps of each seed; None if it was asked to stop."""
        assert self.envs is not None
        before = self.envs.state_dict()
        updates = torch.stack([optimiser.steps for optimiser in policy.algorithm.optimisers()]).amax(0)
        counts = self.episodes(steps, [int(count) for count in updates])
        try:
            return evaluate(policy, self.envs, counts, None, to.stopping, to.progress.counted)
        except EvaluationStopped:
            self._before_cut = before
            return None

    def episodes(self, steps: Sequence[int], updates: Sequence[int]) -> list[int]:
        """How many each seed plays now, after so many environment steps and gradient steps. At least one; all of MOST
        in the first evaluation, of which nothing is known."""
        if isinstance(self.cfg.episodes, int):
            return [self.cfg.episodes] * len(self.played)
        found = []
        for done, learned, (played, length) in zip(steps, updates, self.played, strict=True):
            allowed = self.cfg.share * (done + self.cfg.gradient_cost * learned) - played
            found.append(max(1, min(MOST, int(allowed / length))) if length else MOST)
        return found

    def count(self, result: Evaluation) -> None:
        """Count an evaluation."""
        totals = result.lengths.sum(1).tolist()
        for row, total, length in zip(self.played, totals, result.length_mean, strict=True):
            if total:
                row[:] = [row[0] + total, length]

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint's entries."""
        envs = self._before_cut or (self.envs and self.envs.state_dict())
        return {"eval_envs": envs, "evaluated": [list(row) for row in self.played]}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """From a checkpoint, which in the first versions had no `evaluated`; exceptions to exactness, in words."""
        self.played = [list(row) for row in state.get("evaluated", self.played)]
        if self.envs is None or state["eval_envs"] is None:
            return []
        return self.envs.load_state_dict(state["eval_envs"])
