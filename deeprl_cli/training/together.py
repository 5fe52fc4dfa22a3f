"""What several ranks put together when they log and write checkpoints. With one process, nothing changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deeprl_cli.envs.replayed import joined, part
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import TrainingError
from deeprl_cli.processes import ranks

Episode = tuple[int, float, int]  # seed index, return, length
LOOK_EVERY = 64  # steps of each environment between looks at whether another rank was asked to stop


def pooled_log(
    episodes: list[Episode], values: dict[str, list[float]], weights: Iterable[Tensor]
) -> tuple[list[Episode], dict[str, list[float]]]:
    """The episodes of all ranks, and the means of their metrics.

    Raises TrainingError where the ranks' weights, which the same gradients have moved, are no longer the same.
    """
    if ranks.size() == 1:
        return episodes, values
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    found = ranks.collected((episodes, values, digest.hexdigest()))
    if len({theirs for _, _, theirs in found}) > 1:
        raise TrainingError(
            "the ranks' weights differ: their processors or libraries round differently; run all ranks on "
            "machines of one kind"
        )
    means = {
        name: [sum(of_seed) / len(found) for of_seed in zip(*(theirs[name] for _, theirs, _ in found), strict=True)]
        for name in values
    }
    return [episode for theirs, _, _ in found for episode in theirs], means


def pooled_pending(
    episodes: list[Episode], updates: Sequence[Mapping[str, Tensor]]
) -> tuple[list[Episode], dict[str, Tensor]]:
    """What waits for the next log, for a checkpoint: all episodes on rank 0, and the ranks' means of the metrics. Kept
    one by one: the mean of means that a resumed run would log isn't the mean."""
    metrics = {name: torch.stack([update[name] for update in updates]) for name in (updates or [{}])[0]}
    if ranks.size() == 1:
        return episodes, metrics
    means = dict(zip(metrics, ranks.average_all(list(metrics.values())), strict=True)) if metrics else metrics
    return [episode for theirs in ranks.delivered(episodes) for episode in theirs], means


def one_by_one(metrics: Mapping[str, Tensor], device: torch.device) -> list[dict[str, Tensor]]:
    """The updates' metrics again, from what `pooled_pending` made of them."""
    columns = {name: values.to(device).unbind() for name, values in metrics.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def own_pending(episodes: list[Episode]) -> list[Episode]:
    """This rank's of the episodes that wait for the next log: rank 0 has them all."""
    return episodes if ranks.rank() == 0 else []


def pooled_envs(envs: VectorEnv) -> dict[str, Any]:
    """On rank 0 the state of all ranks' environments, as one process would have it."""
    state = envs.state_dict()
    if ranks.size() == 1:
        return state
    states = ranks.delivered(state)
    return joined(states) if states else {}


def own_envs(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """This rank's share of what `pooled_envs` gave, however many ranks there were then."""
    return state if ranks.size() == 1 else part(state, ranks.rank(), ranks.size())
