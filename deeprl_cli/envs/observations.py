"""From an environment's observations to the algorithm's: one dtype and layout per kind of space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from deeprl_cli.envs.answers import NUMERIC, BadAnswer, described
from deeprl_cli.envs.spec import SMALLEST_PICTURE, Array, Image, Parts, Picture, channels_last, outside
from deeprl_cli.errors import ConfigError


class ObservationView:
    """How observations of `space` look to an algorithm.

    Images (uint8, 2-D or more) stay as they are, with a channel axis where they had none; Discrete and MultiDiscrete
    become int64 counted from 0; every other array becomes a 1-D float32 vector.
    `space`: the resulting space; `shape`, `dtype`: of one observation; `offset`: what to subtract, or None.
    `source_shape`, `declared`: the environment's own shape and dtype, which its observations are held against.
    """

    def __init__(self, env_id: str, space: gym.Space[Any], origin: Sequence[float] | None = None) -> None:
        self.env_id, self.source = env_id, space
        self.offset: Any = None
        self.origin: Array | None = None
        self.source_shape: tuple[int, ...] = space.shape or ()
        if isinstance(space, spaces.Discrete):
            self.space: gym.Space[Any] = spaces.Discrete(int(space.n))
            self.offset = int(space.start) or None
        elif isinstance(space, spaces.MultiDiscrete):
            self.space = spaces.MultiDiscrete(space.nvec.ravel())
            self.offset = space.start.ravel() if space.start.any() else None
        elif isinstance(space, spaces.MultiBinary):
            self.space = spaces.Box(0, 1, (int(np.prod(space.shape)),), np.float32)
        elif is_image(space):
            shape = space.shape if len(space.shape) > 2 else (*space.shape, 1)
            low, high = space.low.reshape(shape), space.high.reshape(shape)
            known = len(space.shape) <= 3  # of more axes nothing reads as a picture
            last = len(space.shape) == 2 or (known and channels_last(space))
            self.space = Image(low, high, channels_last=last) if known else spaces.Box(low, high, dtype=np.uint8)
        elif isinstance(space, spaces.Box):
            # float32 can't hold every bound of a wider dtype; past its range they are infinite, and that is no error
            with np.errstate(over="ignore"):
                zero = self._origin_for(space, origin)
                low, high = ((bound.astype(np.float64).ravel() - zero).astype(np.float32) for bound in _bounds(space))
            inside = space.pictures if isinstance(space, Parts) else ()
            self.space = Parts(low, high, np.float32, inside) if inside else spaces.Box(low, high, dtype=np.float32)
        else:
            raise ConfigError(f"env.id={env_id}: can't learn from a {type(space).__name__} observation space")
        self.shape: tuple[int, ...] = self.space.shape or ()
        self.dtype = np.dtype(self.space.dtype)
        if 0 in self.shape:
            raise ConfigError(f"env.id={env_id}: an observation holds no number (shape {self.source_shape})")
        self.reshapes = self.shape != self.source_shape
        # what is subtracted in 64 bits, before 32 would lose it
        self.raw_dtype = self.dtype if self.origin is None else np.dtype(np.float64)
        self.declared = np.dtype(space.dtype)  # of the environment's own observations
        self._kinds = "iub" if self.dtype.kind in "iu" else NUMERIC
        self.due = str(space) if self.source_shape == () else f"{self.declared} of shape {self.source_shape}"

    def _origin_for(self, space: spaces.Box[Any], origin: Sequence[float] | None) -> Any:
        if origin is None:
            return 0.0
        if len(origin) != math.prod(space.shape):
            raise ConfigError(
                f"env.origin has {len(origin)} numbers, and an observation of {self.env_id} {math.prod(space.shape)}: "
                "give one for each, or null"
            )
        self.origin = np.asarray(origin, np.float64)
        return self.origin

    def row(self, observation: Any) -> Array:
        """One observation of the environment, checked and converted, as a fresh array `*shape`. Raises BadAnswer."""
        return self.convert(self.checked(observation), 1)[0]  # type: ignore[no-any-return]

    def checked(self, observation: Any) -> Array:
        """The environment's observation in the shape `*shape`, its numbers untouched. Raises BadAnswer where it hasn't
        the shape or the kind of numbers that its space declares."""
        try:
            came = np.asarray(observation)
        except ValueError:  # a list of lists of several lengths
            came = np.asarray(None)
        if came.shape != self.source_shape or came.dtype.kind not in self._kinds:
            raise BadAnswer(
                f"returned {described(observation)} as its observation, where its space declares {self.due}"
            )
        if self.dtype == np.uint8 and came.dtype != np.uint8 and came.size and (came.min() < 0 or came.max() > 255):
            raise BadAnswer(f"returned pixels from {came.min()} to {came.max()}, where its space declares {self.due}")
        return came.reshape(self.shape)

    def check_choice(self, checked: Array) -> None:
        """Raises BadAnswer for a number that isn't of a Discrete or MultiDiscrete space."""
        if self.dtype.kind == "i":
            counted = checked.astype(np.int64) - (0 if self.offset is None else self.offset)
            if outside(self.space, counted).any():
                raise BadAnswer(f"returned {checked.tolist()}, which isn't of {self.source}")

    def convert(self, observations: Any, count: int) -> Array:
        """`count` observations of the environment, stacked, as a fresh array (count, *shape)."""
        return self.counted(np.array(observations, self.raw_dtype).reshape(count, *self.shape))

    def counted(self, raw: Array) -> Array:
        """Observations of `raw_dtype`, in the environment's own numbers, as the algorithm sees them. May write into
        `raw`, or give it back."""
        if self.offset is not None:
            raw -= self.offset
        if self.origin is not None:
            raw = raw - self.origin
        return raw.astype(self.dtype, copy=False)


def _bounds(space: spaces.Box[Any]) -> tuple[Array, Array]:
    return space.low, space.high


FAR = 1e6  # beyond this, 32 bits tell numbers apart by sixteenths at best
FAR_ENOUGH = 1e3  # where only changes that are lost make a feature's zero another


def origin_given(origin: list[float] | Literal["auto"] | None) -> list[float] | None:
    """What observations are counted from; `auto` is settled by the look at an environment, before a run."""
    return None if origin == "auto" else origin


def origin_of(raw: Sequence[Array], declared: np.dtype[Any]) -> list[float] | None:
    """What to count each feature from, of observations in the environment's own numbers: 0 but where 32 bits would lose
    them, or a hundredth of how they change; None where all are 0."""
    if declared.itemsize <= 4 or declared.kind not in "fiu" or not raw:
        return None
    rows = np.stack([np.asarray(row, np.float64).ravel() for row in raw])
    first = rows[0]
    with np.errstate(over="ignore", invalid="ignore"):
        change = rows - first
        narrow = rows.astype(np.float32).astype(np.float64) - first.astype(np.float32).astype(np.float64)
        lost = (np.abs(narrow - change) > 0.01 * np.abs(change)).any(0)
        far = (np.abs(first) >= FAR) | ((np.abs(first) >= FAR_ENOUGH) & lost)
    return np.where(far, first, 0.0).tolist() if far.any() else None


def is_image(space: gym.Space[Any]) -> TypeGuard[spaces.Box[Any]]:
    """Whether a space is of pixels: uint8 with at least two axes."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


def flatten_nested(env_id: str, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` with Dict and Tuple observations, and images of floats, as one row of numbers; other spaces untouched.

    Raises ConfigError where a part has no vector form.
    """
    space = env.observation_space
    nested = isinstance(space, spaces.Dict | spaces.Tuple)
    for path, part in _leaves(space) if nested else ():
        if not part.is_np_flattenable:
            raise ConfigError(
                f"env.id={env_id}: the observation holds a {type(part).__name__} at '{path}', which has no vector form"
            )
    if nested or _of_floats(space):
        return Row(env_id, env)
    return env


class Layout(gym.Wrapper[Any, Any, Any, Any]):
    """The same observations, of whose images it is known where they have their channels."""

    def __init__(self, env: gym.Env[Any, Any], *, last: bool) -> None:
        super().__init__(env)
        self.observation_space = deepcopy(env.observation_space)
        for _, part in _leaves(self.observation_space):
            if isinstance(part, spaces.Box) and len(part.shape) == 3:
                part.channels_last = last  # type: ignore[attr-defined]


class Row(FlattenObservation):
    """Observations as one row of numbers, in which the images are known. Each part is held against its own space before
    it is flattened, which would take another shape, a choice that there isn't or a wide number for what is due."""

    def __init__(self, env_id: str, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        flat, pictures, start = self.observation_space, [], 0
        self._views = {}
        for path, part in _leaves(env.observation_space):
            self._views[path] = ObservationView(env_id, part)
            if is_image(part) or _of_floats(part):
                pictures += [_picture(path, start, part)] if len(part.shape) <= 3 else []
            start += spaces.flatdim(part)
        if pictures:
            assert isinstance(flat, spaces.Box)
            self.observation_space = Parts(flat.low, flat.high, flat.dtype, pictures)

    def observation(self, observation: Any) -> Array:
        """Raises BadAnswer."""
        for path, part in _parts(self.env.observation_space, observation):
            try:
                self._views[path].check_choice(self._views[path].checked(part))
            except BadAnswer as error:
                raise BadAnswer(f"{error}, at '{path}'" if path else str(error)) from None
        row: Array = super().observation(observation)
        return row


def _of_floats(space: gym.Space[Any]) -> TypeGuard[spaces.Box[Any]]:
    """Whether it is an image of floats: three axes, bounded, not a board."""
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or len(space.shape) != 3:
        return False
    return sorted(space.shape)[1] >= SMALLEST_PICTURE and bool(np.isfinite(space.high).all())


def _picture(path: str, start: int, space: spaces.Box[Any]) -> Picture:
    lines, columns, *channels = space.shape
    last = not channels or channels_last(space)
    return Picture(
        path,
        (start,),
        (lines, columns, channels[0] if channels else 1),
        last,
        max(float(np.abs(space.high).max()), 1.0),
    )


def _parts(space: gym.Space[Any], value: Any, path: str = "") -> list[tuple[str, Any]]:
    """What an observation holds for each of the space's leaves. Raises BadAnswer where one isn't there."""
    keys: list[Any]
    if isinstance(space, spaces.Dict):
        keys, fits = list(space.spaces), isinstance(value, Mapping) and space.spaces.keys() <= value.keys()
    elif isinstance(space, spaces.Tuple):
        keys = list(range(len(space.spaces)))
        fits = isinstance(value, tuple | list) and len(value) == len(keys)
    else:
        return [(path, value)]
    if not fits:
        kind, there = type(space).__name__, f", at '{path}'" if path else ""
        came = f"a dictionary of {', '.join(map(str, value))}" if isinstance(value, Mapping) else described(value)
        due = f"a {kind} of {', '.join(map(str, keys))}{there}"
        raise BadAnswer(f"returned {came} as its observation, where its space declares {due}")
    return [found for key in keys for found in _parts(space[key], value[key], f"{path}.{key}" if path else str(key))]


def _leaves(space: gym.Space[Any], path: str = "") -> list[tuple[str, gym.Space[Any]]]:
    parts: list[tuple[Any, gym.Space[Any]]]
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        parts = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [leaf for key, part in parts for leaf in _leaves(part, f"{path}.{key}" if path else str(key))]


class Frames(gym.ObservationWrapper[Any, Any, Any]):
    """Observations checked and copied, for a stack to keep: an environment may fill one array again and again."""

    def __init__(self, env_id: str, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._view = ObservationView(env_id, env.observation_space)

    def observation(self, observation: Any) -> Array:
        checked = self._view.checked(observation).reshape(self._view.source_shape)
        return np.array(checked, self._view.declared)


class StackedParts(gym.ObservationWrapper[Any, Any, Any]):
    """Rows stacked in front, (k, F), as one row of k*F numbers; of an image, the frames are known."""

    def __init__(self, env: gym.Env[Any, Any], frame: Parts) -> None:
        super().__init__(env)
        stack = env.observation_space
        assert isinstance(stack, spaces.Box)
        frames, size = stack.shape
        pictures = [
            replace(picture, starts=tuple(start + k * size for k in range(frames) for start in picture.starts))
            for picture in frame.pictures
        ]
        self.observation_space = Parts(stack.low.ravel(), stack.high.ravel(), stack.dtype, pictures)

    def observation(self, observation: Array) -> Array:
        return observation.reshape(-1)


class StackedChannels(gym.ObservationWrapper[Any, Any, Any]):
    """Frames stacked in front moved to the channels, oldest frame first: (k, H, W) as they are, (k, H, W, C) to
    (H, W, k*C), (k, C, H, W) to (k*C, H, W)."""

    def __init__(self, env: gym.Env[Any, Any], frame: gym.Space[Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Box)
        self._flat = len(frame.shape or ()) == 2
        self.last = not self._flat and channels_last(frame)
        low, high = (self.observation(bound) for bound in (env.observation_space.low, env.observation_space.high))
        self.observation_space = Image(low, high, channels_last=self.last)

    def observation(self, observation: Array) -> Array:
        if self._flat:
            return observation
        if self.last:
            k, height, width, channels = observation.shape
            return np.moveaxis(observation, 0, 2).reshape(height, width, k * channels)
        return observation.reshape(-1, *observation.shape[2:])
