"""From the algorithm's actions to the environment's: index offsets, and Box rescaled from [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from deeprl_cli.envs.spec import Array
from deeprl_cli.errors import ConfigError

UNBOUNDED = 1e9  # environments write the largest float for a dimension without bounds


class ActionView:
    """The action space an algorithm sees, and the way back.

    `space`: see EnvSpec. `dtype`: the dtype actions arrive in. `record_dtype`: the narrowest dtype that holds an action
    without loss (for the history of an episode). Decoding is quickest for batches of `count` actions.
    Raises ConfigError for spaces no algorithm here can act in.
    """

    def __init__(self, env_id: str, space: gym.Space[Any], count: int = 1) -> None:
        self.dtype: np.dtype[Any] = np.dtype(np.int64)
        self.record_dtype = self.dtype
        self.source = space
        self.scalar = False  # one whole number per environment
        self._decode: Callable[[Array], Array] = _copied
        if isinstance(space, spaces.Discrete):
            self.scalar = True
            self.space: gym.Space[Any] = spaces.Discrete(int(space.n))
            self.record_dtype = np.min_scalar_type(int(space.n) - 1)
            start = int(space.start)
            self._decode = (lambda actions: actions + start) if start else _same  # handed over one number at a time
        elif isinstance(space, spaces.MultiDiscrete):
            self.space = spaces.MultiDiscrete(space.nvec.ravel())
            self.record_dtype = np.min_scalar_type(int(space.nvec.max()) - 1)
            self._decode = _shaped(space.shape, space.start if space.start.any() else None)
        elif isinstance(space, spaces.MultiBinary):
            self.space = spaces.MultiBinary(int(np.prod(space.shape)))
            self.record_dtype = np.dtype(np.uint8)
            self._decode = _shaped(space.shape, None)
        elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.dtype = self.record_dtype = np.dtype(np.float32)
            self.space, self._decode = _box(space, count)
        elif isinstance(space, spaces.Box):
            raise ConfigError(f"env.id={env_id}: actions are a Box of {space.dtype}; only float Boxes can be acted in")
        else:
            raise ConfigError(
                f"env.id={env_id}: can't act in a {type(space).__name__} action space; supported: Discrete, "
                "MultiDiscrete, MultiBinary, Box"
            )
        self.shape: tuple[int, ...] = self.space.shape or ()
        if 0 in self.shape:
            raise ConfigError(
                f"env.id={env_id}: an action holds no number (shape {space.shape}): nothing can be learnt"
            )

    def decode(self, actions: npt.ArrayLike) -> Array:
        """The environments' own actions (N, *env action) from the algorithm's (N, *action).

        A fresh array, for environments to do with as they please; single numbers are handed over one by one.
        """
        return self._decode(np.asarray(actions, self.dtype))

    def encode(self, action: npt.ArrayLike) -> Array:
        """The algorithm's action (*action) for one of the environment's own: the way back from `decode`."""
        own = np.asarray(action)
        if isinstance(self.source, spaces.Box):
            low, high = (bound.reshape(self.source.shape) for bound in bounds(self.source))
            finite = np.isfinite(low) & np.isfinite(high)
            with np.errstate(invalid="ignore"):  # of infinite bounds, not used
                own = np.where(finite, 2 * (own - low) / np.where(finite, high - low, 1) - 1, own)
        else:
            own = own - getattr(self.source, "start", 0)
        return own.astype(self.dtype).reshape(self.shape)


def _same(actions: Array) -> Array:
    return actions


def _copied(actions: Array) -> Array:
    """What an environment does to its action is its own affair; the policy's array isn't."""
    return actions.copy()


def _shaped(shape: tuple[int, ...], start: Array | None) -> Callable[[Array], Array]:
    """Actions (N, k) in the environment's shape (N, *shape), counted from `start`."""

    def decode(actions: Array) -> Array:
        shaped = actions.reshape(len(actions), *shape)
        return shaped.copy() if start is None else shaped + start

    return decode if len(shape) != 1 or start is not None else _copied


def bounds(space: spaces.Box[Any]) -> tuple[Array, Array]:
    """Of each dimension, infinite where the environment wrote a number for want of a bound."""
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    return np.where(low <= -UNBOUNDED, -np.inf, low), np.where(high >= UNBOUNDED, np.inf, high)


class Rescaling:
    """The affine map from a Box as the algorithm sees it to the environment's own, a row of numbers for each dimension.

    Clipping to `low` and `high` after it equals clipping to [-1, 1] before it, and keeps rounding inside the bounds.
    """

    def __init__(self, space: spaces.Box[Any]) -> None:
        low, high = bounds(space)
        self.finite = finite = np.isfinite(low) & np.isfinite(high)
        scale = np.where(finite, (np.where(finite, high, 0) - np.where(finite, low, 0)) / 2, 1)
        offset = np.where(finite, (np.where(finite, high, 0) + np.where(finite, low, 0)) / 2, 0)
        # a float64 environment is given float64 bounds: rounding them to float32 could leave the Box
        self.dtype = np.promote_types(np.float32, space.dtype)
        self.scale, self.offset, self.low, self.high = (x.astype(self.dtype) for x in (scale, offset, low, high))
        self.scaled, self.shifted = bool(np.any(scale != 1)), bool(np.any(offset != 0))
        self.bounded = bool(np.any(np.isfinite(low) | np.isfinite(high)))


def _box(space: spaces.Box[Any], count: int) -> tuple[spaces.Box[Any], Callable[[Array], Array]]:
    """The Box as seen by the algorithm, and its decoder."""
    own = Rescaling(space)
    low, high = bounds(space)
    seen = spaces.Box(
        np.where(own.finite, -1, low).astype(np.float32),
        np.where(own.finite, 1, high).astype(np.float32),
        dtype=np.float32,
    )
    dtype, scaled, shifted, bounded, shape = own.dtype, own.scaled, own.shifted, own.bounded, space.shape
    rows = (own.scale, own.offset, own.low, own.high)
    # for tiny batches broadcasting costs more than the arithmetic: keep the constants in the batch's own shape
    tiled = tuple(np.tile(row, (count, 1)) for row in rows)

    def decode(actions: Array) -> Array:
        scale, offset, lowest, highest = tiled if len(actions) == count else rows
        out: Array = actions * scale if scaled else actions.astype(dtype)
        if shifted:
            out = out + offset
        if bounded:
            out = np.maximum(np.minimum(out, highest), lowest)
        out = out.astype(space.dtype, copy=False)  # one narrower than 32 bits holds no action that isn't
        return out if len(shape) == 1 else out.reshape(len(out), *shape)

    return seen, decode
