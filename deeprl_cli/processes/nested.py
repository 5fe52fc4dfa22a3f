"""Tensors nested in tuples and dictionaries, as graphs take and return them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Layout = tuple[Any, ...]


def layout(arguments: Any) -> Layout:
    """Shapes, strides and types of all tensors in nested tuples and dictionaries: what a compiled graph depends on."""
    found: list[Any] = []
    for argument in arguments.values() if isinstance(arguments, dict) else arguments:
        if isinstance(argument, Tensor):
            found += (argument.shape, argument.stride(), argument.dtype)
        else:
            found.append(argument if argument is None else layout(argument))
    return tuple(found)


def divided(value: Any, count: int) -> list[Any]:
    """Tensors `(S, …)` in `count` equal parts of the seed axis: the same nesting once for each."""
    if value is None:
        return [None] * count
    if isinstance(value, Tensor):
        return list(value.split(len(value) // count))
    if isinstance(value, dict):
        columns = {key: divided(entry, count) for key, entry in value.items()}
        return [{key: column[n] for key, column in columns.items()} for n in range(count)]
    rows = list(zip(*(divided(entry, count) for entry in value), strict=True)) or [()] * count
    return [type(value)(*row) if hasattr(value, "_fields") else tuple(row) for row in rows]


def joined(values: Sequence[Any]) -> Any:
    """What `divided` divides into `values`."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, dict):
        return {key: joined([value[key] for value in values]) for key in first}
    if first is None:
        return None
    columns = [joined(column) for column in zip(*values, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)
