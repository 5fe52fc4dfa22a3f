"""Several runs that train as one: their members stand side by side on the seed axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deeprl_cli.schema.members import Member, own_values
from deeprl_cli.schema.run import RunConfig


@dataclass(kw_only=True, slots=True)
class GroupConfig(RunConfig):
    """The runs `stacked`. What isn't a member's own is the same in all of them, and stands here as in the first."""

    stacked: list[RunConfig]

    @property
    def seed_list(self) -> list[int]:
        return [seed for job in self.stacked for seed in job.seed_list]

    @property
    def jobs(self) -> Sequence[RunConfig]:
        return self.stacked

    @property
    def members(self) -> list[Member]:
        values = [run_values(job) for job in self.stacked]
        differ = [key for key in values[0] if any(other[key] != values[0][key] for other in values)]
        return [
            Member(f"{number}/{seed}", seed, {key: own[key] for key in differ})
            for number, (job, own) in enumerate(zip(self.stacked, values, strict=True))
            for seed in job.seed_list
        ]


def run_values(cfg: RunConfig) -> dict[str, Any]:
    """The values of a run that its members may have of their own, by key; but for seeds."""
    return {f"algo.{key}": value for key, value in own_values(cfg.algo).items()} | {"env.kwargs": cfg.env.kwargs}


def as_one(jobs: Sequence[RunConfig]) -> RunConfig:
    """One configuration of several that differ in `run_values` and seeds alone; of one, itself."""
    if len(jobs) == 1:
        return jobs[0]
    first = {field.name: getattr(jobs[0], field.name) for field in dataclasses.fields(RunConfig)}
    return GroupConfig(**{**first, "seeds": sum(job.seeds for job in jobs)}, stacked=list(jobs))
