"""An environment that is broken, in the way that is asked for.

A module of its own, without torch: each process of env.backend=async imports it anew.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

GOOD = np.zeros(3, np.float32)
MISREAD = {  # exceptions that elsewhere say that our disk is full, that nobody reads our output, or that all is over
    "disk": OSError(28, "No space left on device"),
    "pipe": BrokenPipeError(32, "Broken pipe"),
    "end": GeneratorExit(),
}


class Broken(gym.Env[Any, Any]):
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, fault: str = "none", at: int = 0) -> None:
        self.fault, self.at, self.time = fault, at, 0
        index = fault == "outside"
        self.observation_space = spaces.Discrete(3) if index else spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.good: Any = 0 if index else GOOD
        self.resets = 0
        if fault == "no numbers":
            self.observation_space = spaces.Box(-1, 1, (0,), np.float32)
        if fault == "no actions":
            self.action_space = spaces.Box(-1, 1, (0,), np.float32)
        if fault == "exits":
            sys.exit("no display")
        if fault == "doubles":
            import torch

            torch.set_default_dtype(torch.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time, self.resets = 0, self.resets + 1
        if self.fault == "changes":
            self.observation_space = spaces.Box(-1, 1, (4,), np.float32)
        if self.fault == "reset exits" and self.resets > 1:
            sys.exit(5)
        if self.fault == "reset nan" and self.resets > 1:
            return np.array([0, np.nan, 0], np.float32), {}
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
            "enormous": (GOOD, 10**400, False, False, {}),
        }
        if self.time > self.at and self.fault == "raises":
            raise ValueError("joint 3 broke")
        if self.time > self.at and self.fault in MISREAD:
            raise MISREAD[self.fault]
        return (
            answers.get(self.fault, None if self.fault == "nothing" else (self.good, 0.0, False, False, {}))
            if (self.time > self.at)
            else (self.good, 0.0, False, False, {})
        )
