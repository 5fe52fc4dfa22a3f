"""From an environment's observations to the algorithm's: one dtype and layout per kind of space."""

from __future__ import annotations

from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from deeprl_cli.envs.spec import Array
from deeprl_cli.errors import ConfigError


class ObservationView:
    """How observations of `space` look to an algorithm.

    Images (uint8, 2-D or more) stay as they are, with a channel axis where they had none; Discrete and MultiDiscrete
    become int64 counted from 0; every other array becomes a 1-D float32 vector.
    `space`: the resulting space; `shape`, `dtype`: of one observation; `offset`: what to subtract, or None.
    """

    def __init__(self, env_id: str, space: gym.Space[Any]) -> None:
        self.env_id = env_id
        self.offset: Any = None
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
            self.space = spaces.Box(space.low.reshape(shape), space.high.reshape(shape), dtype=np.uint8)
        elif isinstance(space, spaces.Box):
            # float32 can't hold every bound of a wider dtype; past its range they are infinite, and that is no error
            with np.errstate(over="ignore"):
                low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
            self.space = spaces.Box(low, high, dtype=np.float32)
        else:
            raise ConfigError(f"env.id={env_id}: can't learn from a {type(space).__name__} observation space")
        self.shape: tuple[int, ...] = self.space.shape or ()
        self.dtype = np.dtype(self.space.dtype)
        self.reshapes = self.shape != self.source_shape

    def check(self, observation: Any) -> None:
        """Raise ConfigError where an environment's observation hasn't the shape its space declares."""
        if np.shape(observation) != self.source_shape:
            raise ConfigError(
                f"env.id={self.env_id}: an observation has shape {np.shape(observation)}, but its space declares "
                f"{self.source_shape}; the environment breaks its own contract"
            )

    def convert(self, observations: Any, count: int) -> Array:
        """`count` observations of the environment, stacked, as a fresh array (count, *shape)."""
        converted: Array = np.array(observations, self.dtype).reshape(count, *self.shape)
        if self.offset is not None:
            converted = converted - self.offset
        return converted


def is_image(space: gym.Space[Any]) -> TypeGuard[spaces.Box[Any]]:
    """Whether a space is of pixels: uint8 with at least two axes."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


def flatten_nested(env_id: str, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env` with Dict and Tuple observations flattened into a vector; other spaces untouched.

    Raises ConfigError where an image is inside (no convolution could read it flattened) or a part has no vector form.
    """
    if not isinstance(env.observation_space, spaces.Dict | spaces.Tuple):
        return env
    for path, part in _leaves(env.observation_space):
        if is_image(part):
            raise ConfigError(
                f"env.id={env_id}: the observation holds an image at '{path}' inside a {_kind(env)}; images are only "
                "supported as the whole observation: register a wrapped environment that returns it alone"
            )
        if not part.is_np_flattenable:
            raise ConfigError(
                f"env.id={env_id}: the observation holds a {type(part).__name__} at '{path}', which has no vector form"
            )
    return FlattenObservation(env)


def _kind(env: gym.Env[Any, Any]) -> str:
    return type(env.observation_space).__name__


def _leaves(space: gym.Space[Any], path: str = "") -> list[tuple[str, gym.Space[Any]]]:
    parts: list[tuple[Any, gym.Space[Any]]]
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        parts = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [leaf for key, part in parts for leaf in _leaves(part, f"{path}.{key}" if path else str(key))]


class StackedChannels(gym.ObservationWrapper[Any, Any, Any]):
    """Frames stacked in front, (k, H, W, C), moved to the channels: (H, W, k*C), oldest frame first."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Box)
        low, high = (self.observation(bound) for bound in (env.observation_space.low, env.observation_space.high))
        self.observation_space = spaces.Box(low, high, dtype=np.uint8)

    def observation(self, observation: Array) -> Array:
        k, height, width, channels = observation.shape
        return np.moveaxis(observation, 0, 2).reshape(height, width, k * channels)
