"""All runs that a trainer trains as one: each one's logs and checkpoints, and the end of one without the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from deeprl_cli.algorithm import Metrics
from deeprl_cli.data.replay import Segments
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import TrainingError
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
        for part in envs:
            part.apart = not self.alone

    def __iter__(self) -> Iterator[Share]:
        return iter(self.all)

    @property
    def going(self) -> list[Share]:
        return [share for share in self.all if share.failed is None]

    def of(self, member: int) -> Share:
        return next(share for share in self.all if member in share.indices)

    # --- ends -----------------------------------------------------------------------------------------------------

    def end(self, share: Share, error: Exception, step: int) -> None:
        """One of several runs can't go on, and the others do. Raises `error` where there is no other."""
        if share.failed is not None:
            return
        if len(self.going) == 1:
            raise error
        told = explained([share], step, error)
        self.leave(share, told)
        self.to.failed(share)
        rest = len(self.going)
        self.to.progress.message(f"{first_line(told)} ({'the other goes' if rest == 1 else f'{rest} others go'} on)")

    def leave(self, share: Share, failed: Exception) -> None:
        share.failed = failed
        self.left[share.members] = True
        for part in self.envs:
            part.leave(share.indices)

    def end_failures(self, envs: VectorEnv, step: int) -> None:
        """End the runs of which an environment has raised."""
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

    def look_back(self, step: int, metrics: Sequence[Metrics], steps: Sequence[int]) -> None:
        """Warn of updates that weren't finite; a run that has had no others ends. Raises TrainingError for the last."""
        for share in self.going:
            try:
                for line in share.watch.log(step, metrics, steps):
                    self.to.progress.message(line if self.alone else f"{share.outlet.name}: {line}")
            except TrainingError as error:
                self.end(share, error, step)

    def keep_best(self, index: int, step: int, return_mean: float) -> None:
        """The weights of a member, by its place on the axis."""
        share = self.of(index)
        if share.failed is None:
            share.keep_best(self.policy, index, step, return_mean)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def worth_keeping(self, step: int) -> list[Share]:
        """The runs that have learned something; one without finite parameters ends. Raises TrainingError."""
        kept = []
        for share in self.going:
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
        for share in self.all:
            share.checkpoint_step = step
            share.watch.load_state_dict(None if watched is None else of_watch(watched, share.members))
