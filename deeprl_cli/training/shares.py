"""All runs that a trainer trains together: their logs and checkpoints, and the early end of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from deeprl_cli.algorithm import Metrics
from deeprl_cli.data.replay import Segments
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import TrainingError
from deeprl_cli.evaluation.evaluate import Evaluation, EvaluationStopped
from deeprl_cli.policy import Policy
from deeprl_cli.processes import ranks
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.failures import explained, first_line
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Share
from deeprl_cli.training.stack import of_watch, select, watches


class Shares:
    """The runs of `cfg`, in the order of their members. `left` `(S,)`: members whose run has ended before the others;
    they stay on the seed axis, and nothing that they do matters any more."""

    def __init__(self, cfg: RunConfig, policy: Policy, envs: Sequence[VectorEnv], to: Services) -> None:
        self.cfg, self.policy, self.envs, self.to = cfg, policy, envs, to
        self.all: list[Share] = []
        for job, outlet in zip(cfg.jobs, to.outlets, strict=True):
            self.all.append(Share(job, sum(share.job.seeds for share in self.all), outlet, policy))
        self.alone = len(self.all) == 1
        self.left = np.zeros(cfg.seeds, bool)
        self._looked_at = 0  # step at which it was asked whether weights are to be kept for good
        for part in envs:
            part.apart = not self.alone

    def __iter__(self) -> Iterator[Share]:
        return iter(self.all)

    @property
    def going(self) -> list[Share]:
        return [share for share in self.all if not share.left]

    def of(self, member: int) -> Share:
        return next(share for share in self.all if member in share.indices)

    # --- ends -----------------------------------------------------------------------------------------------------

    def end(self, share: Share, error: Exception, step: int) -> None:
        """One of several runs can't go on; the others do. Raises `error` if there is no other."""
        if share.left:
            return
        if len(self.going) == 1:
            raise error
        told = explained([share], step, error)
        self.leave(share, told)
        self.to.left(share)
        rest = len(self.going)
        self.to.progress.message(f"{first_line(told)} ({'the other goes' if rest == 1 else f'{rest} others go'} on)")

    def finish(self, share: Share, reason: str, step: int) -> None:
        """One of several runs has reached its goal, and the others go on. Raises EvaluationStopped where it was asked
        to stop before the run had its final evaluation: it then ends when it goes on."""
        share.reason = reason
        try:
            self.to.left(share)
        except EvaluationStopped:
            share.reason = None
            raise
        self.leave(share)
        self.to.progress.message(f"{share.outlet.name}: finished at step {step} ({reason})")

    @property
    def over(self) -> bool:
        """Whether all that go on have reached their goals."""
        return all(share.reason is not None for share in self.going)

    def leave(self, share: Share, failed: Exception | None = None) -> None:
        share.left, share.failed = True, failed
        self.left[share.members] = True
        for part in self.envs:
            part.leave(share.indices)

    def end_failures(self, envs: VectorEnv, step: int) -> None:
        """End the runs in which an environment raised an error."""
        failures, envs.failures = dict(envs.failures), {}
        for member, error in failures.items():
            self.end(self.of(member), error, step)

    # --- results --------------------------------------------------------------------------------------------------

    def log(
        self,
        x_axis: Sequence[int],
        values: Mapping[str, Sequence[float]],
        step: int = 0,
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        """A row of each run's curves, and of its chain of `weights`."""
        for share in self.going:
            share.log(x_axis, values)
            if weights is not None:
                share.chain(step, weights)
                own = {name: numbers[share.members] for name, numbers in values.items()}
                share.outlet.callbacks.log(step, x_axis[share.members], own)

    def evaluated(self, step: int, result: Evaluation, best: Sequence[float]) -> None:
        """Tell each run's callbacks of an evaluation of all members, the `best` of each so far included."""
        for share in self.going:
            share.outlet.callbacks.evaluation(step, result, share.members, best[share.members])

    def look_back(self, step: int, metrics: Sequence[Metrics], steps: Sequence[int]) -> None:
        """Warn of updates that weren't finite; a run that has had no others ends. Raises TrainingError for the last."""
        for share in self.going:
            try:
                for line in share.watch.log(step, metrics, steps):
                    self.to.progress.message(line if self.alone else f"{share.outlet.name}: {line}")
            except TrainingError as error:
                self.end(share, error, step)

    def keep_best(self, index: int, step: int, return_mean: float) -> None:
        """The weights of a member, by its place on the axis; on rank 0."""
        share = self.of(index)
        if not share.left and ranks.rank() == 0:
            share.keep_best(self.policy, index, step, return_mean)

    def history_due(self, step: int) -> bool:
        """Whether one of the steps at which weights are kept for good has been passed since this was asked before."""
        parts, total = self.cfg.checkpoint.history, self.cfg.total_steps
        before, self._looked_at = self._looked_at, step
        return parts * min(step, total) // total > parts * min(before, total) // total

    def keep_for_good(self, step: int) -> None:
        """The weights of all that go on; on rank 0."""
        for share in self.going if ranks.rank() == 0 else []:
            share.keep_for_good(self.policy, step)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def worth_keeping(self, shares: Sequence[Share], step: int) -> list[Share]:
        """Those that have learned something; one without finite parameters ends. Raises TrainingError."""
        kept = []
        for share in shares:
            try:
                share.watch.check_parameters(step)
            except TrainingError as error:
                self.end(share, error, step)
                continue
            if share.watch.nothing_learned:
                of = "" if self.alone else f"{share.outlet.name}: "
                self.to.progress.message(f"{of}step {step}: no update was finite since the last log: no checkpoint")
            else:
                kept.append(share)
        return kept

    def save(
        self, kept: Sequence[Share], state: dict[str, Any], segments: Callable[[slice], Segments], step: int
    ) -> None:
        """Each one's checkpoint of the trainer's `state`; on rank 0."""
        keep = self.cfg.checkpoint.keep
        for share in kept:
            if ranks.rank() > 0:
                share.checkpoint_step = step
            elif self.alone:
                share.save(state, segments(share.members), step, keep)
            else:  # two at least: a group goes on from a step that all its runs have kept
                share.save(select(state, share.members), segments(share.members), step, max(keep, 2))

    def watched(self) -> dict[str, Any]:
        return watches([share.watch.state_dict() for share in self.all])

    def restored(self, step: int, watched: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint of `step`, and from what `watched()` was then (the first versions had none)."""
        self._looked_at = step
        for share in self.all:
            share.checkpoint_step = step
            share.watch.load_state_dict(None if watched is None else of_watch(watched, share.members))
