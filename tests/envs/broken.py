"""An environment that is broken, in the way that is asked for.

A module of its own, without torch: each process of env.backend=async imports it anew.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

GOOD = np.zeros(3, np.float32)


class Broken(gym.Env[Any, Any]):
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, fault: str = "none", at: int = 0) -> None:
        self.fault, self.at, self.time = fault, at, 0
        index = fault == "outside"
        self.observation_space = spaces.Discrete(3) if index else spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.good: Any = 0 if index else GOOD

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        if self.fault == "reset raises":
            raise OSError("no such robot\nsecond line")
        return self.good if self.fault == "reset alone" else (self.good, {})

    def step(self, action: Any) -> Any:
        self.time += 1
        answers = {
            "nan": (np.array([0, np.nan, 0], np.float32), 0.0, False, False, {}),
            "infinite": (np.array([0, np.inf, 0], np.float32), 0.0, False, False, {}),
            "shape": (np.zeros(1, np.float32), 0.0, False, False, {}),
            "reward": (GOOD, float("nan"), False, False, {}),
            "no reward": (GOOD, None, False, False, {}),
            "four": (GOOD, 0.0, False, {}),
            "outside": (3, 0.0, False, False, {}),
        }
        if self.time > self.at and self.fault == "raises":
            raise ValueError("joint 3 broke")
        return (
            answers.get(self.fault, None if self.fault == "nothing" else (self.good, 0.0, False, False, {}))
            if (self.time > self.at)
            else (self.good, 0.0, False, False, {})
        )
