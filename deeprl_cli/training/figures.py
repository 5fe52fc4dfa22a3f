"""Small calculations that the loops share: the next multiple, and the values in a row of the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.training.together import Episode


def next_multiple(steps: int, every: int) -> int:
    """The first multiple of `every` after `steps`; 0 if `every` is 0."""
    return (steps // every + 1) * every if every else 0


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of an empty list."""
    return sum(values) / len(values) if values else float("nan")


def of_optimiser(optimiser: Optimiser) -> dict[str, list[float]]:
    """What is logged about an optimiser: a number for each seed."""
    names = {"optim/lr": optimiser.lr, "optim/updates": optimiser.steps, "optim/skipped": optimiser.skipped}
    return {name: values.tolist() for name, values in names.items()}


def silenced(values: Mapping[str, list[float]], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Set these seeds to NaN."""
    return {name: [math.nan if s in seeds else n for s, n in enumerate(numbers)] for name, numbers in values.items()}


def of_episodes(episodes: Sequence[Episode], num_seeds: int) -> tuple[dict[str, list[float]], list[int]]:
    """What is logged about episodes that have ended, a number for each seed; and how many episodes each seed had."""
    returns: list[list[float]] = [[] for _ in range(num_seeds)]
    lengths: list[list[float]] = [[] for _ in range(num_seeds)]
    for seed, episode_return, length in episodes:
        returns[seed].append(episode_return)
        lengths[seed].append(length)
    values = {"rollout/return_mean": [mean(r) for r in returns], "rollout/length_mean": [mean(n) for n in lengths]}
    return values, [len(r) for r in returns]
