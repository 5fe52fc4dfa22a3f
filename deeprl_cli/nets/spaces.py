"""What networks need to know of an observation space: sizes, bounds, and how large a grid over it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from deeprl_cli.errors import ConfigError

MOST_ROWS = 1 << 20  # of a table: every gradient step moves all of it
MOST_FEATURES = 1 << 14  # each costs a product
UNBOUNDED = 1e9  # environments write the largest float for a dimension without bounds


def is_image(space: gym.Space[Any]) -> bool:
    """A Box of three axes of bytes."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == "uint8"


def sizes_of(space: gym.Space[Any]) -> list[int]:
    """How many values each component of a Discrete or MultiDiscrete has."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    assert isinstance(space, gym.spaces.MultiDiscrete)
    return [int(n) for n in space.nvec.flat]


def shown(space: gym.Space[Any]) -> str:
    """The space in one line, without the bounds of each dimension."""
    return f"Box{space.shape}" if isinstance(space, gym.spaces.Box) else " ".join(str(space).split())


def bounds_of(space: gym.spaces.Box[Any], given: Sequence[Sequence[float] | None] | None) -> list[tuple[float, float]]:
    """(low, high) of each dimension of a vector: those of `network.bounds`, else the space's.

    Raises ConfigError where `given` doesn't fit the space, or a dimension has finite bounds from neither.
    """
    lows, highs = ([float(bound) for bound in side.flat] for side in (space.low, space.high))
    own = list(zip(lows, highs, strict=True))
    if given is None:
        given = [None] * len(own)
    if len(given) != len(own):
        raise ConfigError(
            f"network.bounds has {len(given)} entries for {len(own)} dimensions: give [low, high] or null for each"
        )
    for dimension, pair in enumerate(given):
        if pair is not None and not (len(pair) == 2 and -math.inf < pair[0] < pair[1] < math.inf):
            raise ConfigError(f"network.bounds[{dimension}]={pair}: must be [low, high], low < high")
    bounds = [own[i] if pair is None else (pair[0], pair[1]) for i, pair in enumerate(given)]
    unbounded = [i for i, (low, high) in enumerate(bounds) if not high - low < UNBOUNDED]
    if unbounded:
        example = ",".join("[-3,3]" if i in unbounded else "null" for i in range(len(bounds)))
        raise ConfigError(
            f"dimension {', '.join(map(str, unbounded))} of the observation has no finite bounds to divide: "
            f"give network.bounds, for example 'network.bounds=[{example}]', or use network.features=identity"
        )
    return bounds


def per_dimension(value: int | list[int], dimensions: int, key: str) -> list[int]:
    """One number for each dimension; a single one stands for all. Raises ConfigError where a list doesn't fit."""
    values = [value] * dimensions if isinstance(value, int) else value
    if len(values) != dimensions:
        raise ConfigError(f"{key}={values} has {len(values)} entries for {dimensions} dimensions: give one for each")
    return values


def fits(count: int, most: int, chosen: str, what: str, instead: str) -> None:
    """Raise ConfigError where a grid over the space would hold more than `most`."""
    if count > most:
        raise ConfigError(f"{chosen} comes to {count:,} {what} here, more than {most:,}: use {instead}")
