"""Environments that edit, reuse, leave, print, draw from elsewhere or don't let go.

A module of their own, without torch: each process of env.backend=async imports it anew.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)


class Odd(gym.Env[Any, Any]):
    """Ten steps; `way` says what is odd about it."""

    def __init__(self, way: str = "none", action: str = "discrete", when: str = "step") -> None:
        self.way, self.when, self.count = way, when, 0
        self.observation_space: gym.Space[Any] = VECTOR
        self.action_space: gym.Space[Any] = {
            "discrete": spaces.Discrete(2),
            "multi": spaces.MultiDiscrete([3, 3]),
            "binary": spaces.MultiBinary(4),
            "matrix": spaces.MultiBinary((2, 2)),
            "box": spaces.Box(-1.0, 1.0, (2,)),
            "huge": spaces.Box(-3.4e38, 3.4e38, (2,), np.float32),
        }[action]
        if way == "pixels":
            self.observation_space = spaces.Box(0, 255, (40, 40, 3), np.uint8)
        if way == "far":
            self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.buffer = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        if way == "leaves" and when == "init":
            os.chdir(tempfile.mkdtemp())

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self.way == "leaves" and self.when == "reset":
            os.chdir(tempfile.mkdtemp())
        self.t = 0
        return self.see(), {}

    def see(self) -> Any:
        if self.way == "numpy":
            return np.random.uniform(-1, 1, 3).astype(np.float32)
        if self.way == "python":
            return np.array([random.random() for _ in range(3)], np.float32)
        if self.way == "late" and self.t > 5:  # later than a look at it can see
            return np.array([random.random() for _ in range(3)], np.float32)
        if self.way == "clock":
            return np.full(3, time.perf_counter() % 1, np.float32)
        drawn = self.np_random.uniform(-1, 1, 3)
        if self.way == "far":
            return np.array([1.7e9 + self.t, 1e6 + 0.01 * drawn[0], 7.0])
        if self.way == "pixels":
            self.buffer[:] = int(100 + 100 * drawn[0])
            return self.buffer
        self.buffer[:] = drawn
        return self.buffer if self.way == "reuses" else self.buffer.copy()

    def step(self, action: Any) -> Any:
        self.t += 1
        self.count += 1
        reward = float(np.sum(action)) if np.abs(np.asarray(action, np.float64)).max() < 1e6 else -1e9
        if self.way == "edits" and isinstance(action, np.ndarray):
            action[...] = 0
        return self.see(), reward, self.t >= 10, False, None if self.way == "silent" else {}

    def close(self) -> None:
        if self.way == "raises" and self.count:
            raise ValueError("close went wrong")
        if self.way == "sleeps" and self.count:
            time.sleep(1000)


class Endless(Odd):
    """Ends by one action only, which the greedy policy may never take."""

    def step(self, action: Any) -> Any:
        observation, _, _, _, info = super().step(action)
        return observation, 1.0, False, False, info


class Lonely(Odd):
    """One at a time."""

    alive = 0

    def __init__(self) -> None:
        super().__init__()
        if Lonely.alive:
            raise RuntimeError("port 5005 is already in use\nsecond line")
        Lonely.alive += 1
        self.open = True

    def close(self) -> None:
        Lonely.alive -= self.open
        self.open = False


for name, creator in (("test/Odd-v0", Odd), ("test/Endless-v1", Endless), ("test/Lonely-v0", Lonely)):
    if name not in gym.registry:
        gym.register(name, creator)
