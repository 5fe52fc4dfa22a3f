"""For population-based training: checkpoints of runs that go on with another run's weights, or with other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.policy import make_policy
from deeprl_cli.runs.checkpoint import Checkpoint
from deeprl_cli.schema.group import as_one
from deeprl_cli.schema.run import RunConfig


def grafted(
    points: Sequence[Checkpoint],
    before: Sequence[RunConfig],
    after: Sequence[RunConfig],
    sources: Mapping[int, int],
    spec: EnvSpec,
) -> list[Checkpoint]:
    """Checkpoints of runs of as many members each, that were trained with `before` and go on with `after`.

    `sources` (places): whose networks, optimiser and normalisers one takes over, in the place of its own; environments,
    replay memory and noise stay its own.
    """
    states = [dict(points[sources.get(place, place)].state["policy"]) for place in range(len(points))]
    had = [before[sources.get(place, place)] for place in range(len(points))]
    # the same seeds on both sides, so that only the values make a difference at the start
    had = [replace(job, seed=own.seed) for job, own in zip(had, after, strict=True)]
    former, later = (make_policy(as_one(jobs), spec).state_dict() for jobs in (had, after))
    first = 0
    for state, job in zip(states, after, strict=True):
        members = slice(first, first + job.seeds)
        first += job.seeds
        for name, value in later.items():
            if isinstance(value, Tensor) and value.ndim and not value[members].equal(former[name][members]):
                state[name] = value[members].clone()
    return [replace(point, state={**point.state, "policy": state}) for point, state in zip(points, states, strict=True)]
