"""Updates that are not finite: when they are reported, when they end a run, and which tensor the message names.

An optimiser leaves out a seed whose gradient holds NaN or infinity and counts it (`Optimiser.skipped`). Everything here
happens when a run logs or writes a checkpoint, from those counts: a step costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deeprl_cli.algorithm import Metrics
from deeprl_cli.errors import TrainingError
from deeprl_cli.policy import Policy

LARGEST = 2.0**24  # the largest number to which a float32 can count
UPSTREAM = ("obs_statistics.", "reward_scaler.")  # what everything else is computed from


class FiniteWatch:
    """Watches the updates of all seeds of a run, from one log to the next. Seeds are meant by their index among these;
    `first`: how many of other runs stand before them on the axis."""

    def __init__(self, policy: Policy, seeds: Sequence[int], first: int = 0) -> None:
        self.policy, self.seeds, self.first = policy, list(seeds), first
        self._own = slice(first, first + len(self.seeds))
        self._before = self._counts()  # at the last log
        self._step = 0  # of the last log
        self._logs = [0] * len(self.seeds)  # logs in a row with skipped updates
        self._first: list[str | None] = [None] * len(self.seeds)  # what was found when that began, and where

    def _counts(self) -> Tensor:
        """(updates skipped, updates done) of each optimiser and seed, `(optimisers, 2, S)`."""
        counts = [
            torch.stack((o.skipped, o.steps * o.accumulate_steps + getattr(o, "accumulated", 0.0)))[:, self._own]
            for o in self.policy.algorithm.optimisers()
        ]
        return torch.stack(counts).cpu()

    def _since_log(self) -> tuple[list[int], list[bool]]:
        """Of each seed, the updates skipped since the last log, and whether some optimiser has done nothing else."""
        now = self._counts()
        skipped, done = (now - self._before).unbind(1)
        stuck = ((skipped > 0) & (done == 0) & (now[:, 1] < LARGEST)).any(0)
        return [int(count) for count in skipped.sum(0).tolist()], stuck.tolist()

    def log(self, step: int, metrics: Sequence[Metrics], steps: Sequence[int]) -> list[str]:
        """Look back from `step` to the last log, whose updates since had `metrics` at `steps`; warnings, a line each.

        A seed whose updates go on being skipped is named at the first, second, fourth, eighth … log.
        Raises TrainingError where every seed has had nothing but updates that weren't finite.
        """
        skipped, stuck = self._since_log()
        lines = []
        for seed, count in enumerate(skipped):
            if not count:
                self._logs[seed], self._first[seed] = 0, None
                continue
            self._logs[seed] += 1
            self._first[seed] = self._first[seed] or self._found(seed, step, metrics, steps)
            if self._logs[seed].bit_count() == 1:
                lines.append(
                    f"seed {self.seeds[seed]}: {count} updates skipped from step {self._step} to {step}, they weren't "
                    f"finite: {self._first[seed]}"
                )
        since, self._step, self._before = self._step, step, self._counts()
        if stuck and all(stuck):
            raise TrainingError(
                f"no update of any seed was finite from step {since} on; seed {self.seeds[0]}: {self._first[0]}"
            )
        return lines

    def check_parameters(self, step: int) -> None:
        """Raise TrainingError where no seed's parameters are finite, so that nothing is left to be kept."""
        bad = [self.bad_tensor(seed) for seed in range(len(self.seeds))]
        if all(bad):
            raise TrainingError(f"no seed's parameters are finite: {self._first[0] or f'{bad[0]}, at step {step}'}")

    @property
    def nothing_learned(self) -> bool:
        """Whether no seed has had a finite update since the last log, though there were some: the next one decides."""
        stuck = self._since_log()[1]
        return bool(stuck) and all(stuck)

    def _found(self, seed: int, step: int, metrics: Sequence[Metrics], steps: Sequence[int]) -> str:
        """The tensor where to look for the reason, and the step at which it was first seen."""
        steps = steps if len(steps) == len(metrics) else [step] * len(metrics)
        symptom, first = bad_metric(self.first + seed, metrics, steps) or ("its gradient isn't finite", step)
        return f"{self.bad_tensor(seed) or symptom}, first seen at step {first}"

    def bad_tensor(self, seed: int) -> str | None:
        """A statistic or parameter of the seed that holds NaN or infinity, in words; None if all are finite."""
        for kind, name, tensor in self._tensors(self.first + seed):
            if not tensor.isfinite().all():
                return f"{kind} {name} holds {'NaN' if tensor.isnan().any() else 'infinity'}"
        return None

    def _tensors(self, seed: int) -> Iterator[tuple[str, str, Tensor]]:
        for name, buffer in self.policy.named_buffers():
            if name.startswith(UPSTREAM):
                yield "statistic", name, buffer[seed]
        algorithm = self.policy.algorithm
        for name, stack in algorithm.stacks().items():
            for key, tensor in stack.tensors(seed):
                yield "parameter", f"{name}.{key}", tensor
        for name, parameter in algorithm.named_parameters(recurse=False):
            yield "parameter", name, parameter.detach()[seed]

    def skipped(self) -> list[int]:
        """For each seed, the number of updates skipped in the whole run."""
        return [int(count) for count in self._counts()[:, 0].sum(0).tolist()]

    def state_dict(self) -> dict[str, Any]:
        return {"before": self._before, "step": self._step, "logs": list(self._logs), "first": list(self._first)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state_dict()`. None (an older checkpoint) counts as a log at this moment."""
        if state is None:
            self._before = self._counts()
            return
        self._before, self._step = state["before"].clone(), state["step"]
        self._logs, self._first = list(state["logs"]), list(state["first"])


def bad_metric(seed: int, metrics: Sequence[Metrics], steps: Sequence[int]) -> tuple[str, int] | None:
    """The first of a seed's updates whose loss or gradient isn't finite: its name in words, and the step."""
    found: list[tuple[int, int, str]] = []
    for name in metrics[0] if metrics else ():
        values = torch.stack([update[name][seed] for update in metrics])
        bad = (~values.isfinite()).nonzero()
        if name.startswith(("loss/", "optim/")) and len(bad):
            index = int(bad[0])
            found.append((index, not name.startswith("loss/"), f"{name} is {values[index].item()}"))
    if not found:
        return None
    index, _, words = min(found)
    return words, steps[index]
