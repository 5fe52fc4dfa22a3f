"""The runs that a trainer trains together (mostly one): the members of each, and where its results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from deeprl_cli.data.replay import Segments
from deeprl_cli.policy import Policy
from deeprl_cli.runs.checkpoint import save_checkpoint
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.tensor_files import save_weights
from deeprl_cli.runs.weights import best_path, history_path
from deeprl_cli.runs.weights_chain import WeightsChain
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.callbacks import Callbacks
from deeprl_cli.training.finite import FiniteWatch

T = TypeVar("T")


class Outlet:
    """Where one run's results go; `name` is its folder as the user typed it."""

    def __init__(
        self,
        run_dir: Path,
        logger: RunLogger,
        chain: WeightsChain,
        name: Path | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.run_dir, self.logger, self.chain, self.name = run_dir, logger, chain, name or run_dir
        self.callbacks = callbacks or Callbacks([], run_dir, [])


class Share:
    """One run's `members` of the seed axis. `left`: it has ended before the others, for what `failed` says, or for its
    goal; `reason` is why it ends before its `total_steps`."""

    def __init__(self, job: RunConfig, first: int, outlet: Outlet, policy: Policy) -> None:
        self.job, self.outlet, self.members = job, outlet, slice(first, first + job.seeds)
        self.watch = FiniteWatch(policy, job.seed_list, first)
        self.checkpoint_step: int | None = None  # of the last checkpoint on the disk
        self.left = False
        self.failed: Exception | None = None
        self.reason: str | None = None

    @property
    def indices(self) -> range:
        return range(self.members.start, self.members.stop)

    def log(self, x_axis: Sequence[int], values: Mapping[str, Sequence[float]]) -> None:
        """This run's part of the values of all members."""
        self.outlet.logger.log(x_axis[self.members], {name: numbers[self.members] for name, numbers in values.items()})

    def chain(self, step: int, weights: Sequence[Tensor]) -> None:
        """A link of its chain of weights, of which all members' are given."""
        self.outlet.chain.extend(step, [tensor[self.members] for tensor in weights])

    def keep_best(self, policy: Policy, index: int, step: int, return_mean: float) -> None:
        """The weights of one of its members, by its place on the axis."""
        seed = self.job.seed_list[index - self.members.start]
        note = {"step": step, "return_mean": return_mean}
        save_weights(best_path(self.outlet.run_dir, seed), policy.weights(index), note)

    def keep_for_good(self, policy: Policy, step: int) -> None:
        """The weights of its members, at a step of the trainer's."""
        for index, seed in zip(self.indices, self.job.seed_list, strict=True):
            save_weights(history_path(self.outlet.run_dir, step, seed), policy.weights(index), {"step": step})

    def save(self, state: dict[str, Any], segments: Segments, step: int, keep: int) -> None:
        """Its checkpoint. `state` and `segments` are of its members alone."""
        state |= {"log": self.outlet.logger.flush(), "chain": self.outlet.chain.state_dict()}
        save_checkpoint(self.outlet.run_dir / "checkpoints" / "last", state, segments, keep=keep)
        self.checkpoint_step = step
        self.outlet.callbacks.checkpoint(step, self.outlet.run_dir / "checkpoints" / "last")
