"""What an algorithm may know of an environment (`EnvSpec`), and one step of N environments (`Step`). No torch.

Shapes: N = S*B environments, seed-major (n = s*B + b); `*obs` and `*action` as in the spaces of EnvSpec.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SMALLEST_PICTURE = 36  # lines and columns of what the convolutions for screens read; smaller ones are boards


class Image(gym.spaces.Box[Any]):
    """A Box of bytes with three axes that says where its channels are, however many frames are stacked in them."""

    def __init__(self, low: Array, high: Array, *, channels_last: bool) -> None:
        super().__init__(low, high, dtype=np.uint8)
        self.channels_last = channels_last


@dataclass(frozen=True)
class Picture:
    """An image inside a row of numbers: `shape` of one frame, flattened at each of `starts` (the frames of a stack,
    oldest first), its pixels up to `brightest`. `name`: where it stands in a Dict or Tuple, `left.camera`."""

    name: str
    starts: tuple[int, ...]
    shape: tuple[int, int, int]
    channels_last: bool
    brightest: float

    def pixels(self) -> list[range]:
        """Which numbers of the row they are."""
        size = math.prod(self.shape)
        return [range(start, start + size) for start in self.starts]


class Parts(gym.spaces.Box[Any]):
    """A row of numbers of which some are pixels: the parts of a Dict or Tuple, one behind the other."""

    def __init__(self, low: Array, high: Array, dtype: Any, pictures: Sequence[Picture]) -> None:
        super().__init__(low, high, dtype=dtype)
        self.pictures = tuple(pictures)

    def is_pixel(self) -> npt.NDArray[np.bool_]:
        """Of each number of the row."""
        found = np.zeros(self.shape, np.bool_)
        for picture in self.pictures:
            for pixels in picture.pixels():
                found[pixels.start : pixels.stop] = True
        return found


def channels_last(space: gym.Space[Any]) -> bool:
    """(H, W, C), as gymnasium's environments give images, against (C, H, W). Where the space doesn't say it, there are
    no more channels than lines."""
    shape, known = space.shape or (), getattr(space, "channels_last", None)
    return bool(shape[2] <= shape[0] if known is None else known)


def outside(space: gym.Space[Any], counted: Array) -> npt.NDArray[np.bool_]:
    """Which of the numbers `counted` from 0 are no choices of a Discrete or MultiDiscrete space; none of another's."""
    sizes: Any = np.inf
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        sizes = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
    found: npt.NDArray[np.bool_] = (counted < 0) | (counted >= sizes)
    return found


@dataclass(frozen=True)
class EnvSpec:
    """The spaces of one environment as the algorithm sees them, not as the environment declares them.

    Observations: Box uint8 images, Box float32 vectors (always 1-D; Parts where they hold images), Discrete from 0, 1-D
    MultiDiscrete from 0.
    Actions: Discrete from 0, 1-D MultiDiscrete from 0, 1-D MultiBinary, 1-D Box float32 in [-1, 1] where both bounds of
    a dimension are finite (else the environment's own bounds).
    """

    id: str
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]


@dataclass(slots=True)
class Step:
    """One step of N environments. Every array is fresh: the caller owns it for good.

    Where no episode ended, `next_obs` is the very same array object as `obs`; don't write into either.
    """

    obs: Array  # (N, *obs) what to act on next: the first observation of the new episode where one ended
    next_obs: Array  # (N, *obs) the true next observation of this transition: the final one where an episode ended
    reward: npt.NDArray[np.float32]  # (N,) what to learn from (sign only under Atari reward clipping)
    terminated: npt.NDArray[np.bool_]  # (N,) no bootstrap: a terminal state, or a lost life in Atari training
    truncated: npt.NDArray[np.bool_]  # (N,) cut short (time limit): bootstrap from next_obs
    weight: npt.NDArray[np.float32]  # (N,) 0 for the dummy transition of a NEXT_STEP back-end, else 1
    episode_end: npt.NDArray[np.bool_]  # (N,) the true episode ended (a lost life doesn't end it)
    episode_return: npt.NDArray[np.float32]  # (N,) undiscounted, unclipped return; valid where episode_end, else 0
    episode_length: npt.NDArray[np.int64]  # (N,) steps of the finished episode; valid where episode_end, else 0
