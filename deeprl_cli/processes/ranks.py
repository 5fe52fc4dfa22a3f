"""Ranks: processes that train one agent together, each on its share of the environments. The one place that knows
torch.distributed.

Everything here is the identity in a process that is alone, decided when a graph is traced: its graphs hold none of it.
R ranks; rank r has the r-th of R equal parts of every seed's environments and of every minibatch, in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Fields = TypeVar("Fields", bound=tuple[Tensor, ...])
Anything = TypeVar("Anything")

PATIENCE = timedelta(days=7)  # ranks wait for an evaluation, however long; of one that died the connection tells
_rank, _size = 0, 1
_control: dist.ProcessGroup | None = None  # for numbers and objects on the processor, whatever the gradients are on
_lost = False


class RankLost(Exception):  # noqa: N818 - whoever died has, or is, the error
    """Another rank is gone, in the middle of something done together."""


def rank() -> int:
    """Which of them this process is; 0 does what only one should: logs, evaluations, checkpoints."""
    return _rank


def size() -> int:
    """R; 1 in a process that is alone."""
    return _size


def lost() -> bool:
    """Whether something done together failed. (Out of a compiled graph, an exception's type doesn't come through.)"""
    return _lost


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be the rank that torch's launcher says, in its environment variables, that this process is."""
    global _rank, _size, _control, _lost
    _lost = False
    local = int(os.environ["LOCAL_RANK"])
    on_cuda = device == "cuda"
    if on_cuda:
        torch.cuda.set_device(local)
    with _together():
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            timeout=PATIENCE,
            device_id=torch.device("cuda", local) if on_cuda else None,
        )
        _control = dist.new_group(backend="gloo", timeout=PATIENCE) if on_cuda else dist.group.WORLD
    _rank, _size = dist.get_rank(), dist.get_world_size()
    try:
        yield
    finally:
        _rank, _size, _control = 0, 1, None
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    global _lost
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo's and nccl's, which have no type of their own
        _lost = True
        raise RankLost(str(error).splitlines()[0]) from error


# --- shares ---------------------------------------------------------------------------------------------------------


def share_size(count: int) -> int:
    """How many of `count` a rank has."""
    return count // _size


def share(x: Tensor, dim: int = 1) -> Tensor:
    """This rank's part of `x` along `dim`."""
    if _size == 1:
        return x
    part = share_size(x.shape[dim])
    return x.narrow(dim, _rank * part, part)


def share_of(samples: Fields) -> Fields:
    """This rank's part of a tuple of tensors `(S, N, …)`."""
    return samples if _size == 1 else type(samples)(*(share(field) for field in samples))


def pooled(samples: Fields, num_envs: int) -> Fields:
    """The samples of all ranks in the order of one process: each holds `(S, T·B/R, …)` of the `num_envs` B."""
    if _size == 1:
        return samples
    own = share_size(num_envs)

    def pool(x: Tensor) -> Tensor:
        parts = gathered(x.unflatten(1, (-1, own)))  # (R, S, T, B/R, …)
        return parts.movedim(0, 2).flatten(1, 3)

    return type(samples)(*(pool(field) for field in samples))


# --- reductions, inside graphs and outside --------------------------------------------------------------------------

# Operators of our own: torch's functional collectives take a process group, which inductor's C++ wrapper can't pass.


@torch.library.custom_op("deeprl::summed", mutates_args=(), schema="(Tensor x) -> Tensor")
def _summed(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(x)
    return x


@_summed.register_fake
def _summed_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("deeprl::gathered", mutates_args=(), schema="(Tensor x) -> Tensor")
def _gathered(x: Tensor) -> Tensor:
    out = x.new_empty((_size, *x.shape))
    with _together():
        dist.all_gather(list(out.unbind()), x.contiguous())
    return out


@_gathered.register_fake
def _gathered_like(x: Tensor) -> Tensor:
    return x.new_empty((_size, *x.shape))


def average(x: Tensor) -> Tensor:
    """The mean of what the ranks have, the same on each; nothing to differentiate through."""
    return x if _size == 1 else _summed(x) / _size


def average_all(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """`average` of each, in one message."""
    if _size == 1:
        return tensors
    if len(tensors) == 1:
        return [average(tensors[0])]
    flat = average(torch.cat([x.reshape(-1) for x in tensors]))
    parts = flat.split([x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]


def gathered(x: Tensor) -> Tensor:
    """What each rank has, `(R, …)`."""
    return x.unsqueeze(0) if _size == 1 else _gathered(x)


def merged_moments(n: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count `(S,)`, mean and variance `(S, *shape)` of all ranks' samples from each one's (Chan et al. 1979)."""
    if _size == 1:
        return n, mean, var
    packed = gathered(torch.cat([x.reshape(len(n), -1) for x in (n, mean, var)], 1))
    width = (packed.shape[-1] - 1) // 2
    counts, means, variances = packed.split((1, width, width), -1)
    total = counts.sum(0)
    weights = counts / total.clamp_min(1.0)
    whole = (weights * means).sum(0)
    spread = (weights * (variances + (means - whole).square())).sum(0)
    return total.squeeze(-1), whole.view(mean.shape), spread.view(var.shape)


# --- between the ranks' loops ---------------------------------------------------------------------------------------


def collected(thing: Anything) -> list[Anything]:
    """Every rank's, on every rank."""
    if _size == 1:
        return [thing]
    found: list[Any] = [None] * _size
    with _together():
        dist.all_gather_object(found, thing, group=_control)
    return found


def delivered(thing: Anything) -> list[Anything]:
    """Every rank's, on rank 0; nothing elsewhere."""
    if _size == 1:
        return [thing]
    found: list[Any] | None = [None] * _size if _rank == 0 else None
    with _together():
        dist.gather_object(thing, found, dst=0, group=_control)
    return found or []


def told(thing: Anything) -> Anything:
    """Rank 0's, on every rank."""
    if _size == 1:
        return thing
    box = [thing]
    with _together():
        dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def any_of(flag: bool) -> bool:
    """Whether it is true of any rank."""
    if _size == 1:
        return flag
    count = torch.tensor([float(flag)])
    with _together():
        dist.all_reduce(count, group=_control)
    return bool(count.item() > 0)
