"""An environment that breaks its promises in mid-run, in the way that is asked for.

A module of its own, without torch: each process of env.backend=async imports it anew.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SPOILT: dict[str, Any] = {
    "shape": (np.zeros(1, np.float32), 0.0, False, False, {}),
    "axis": (np.zeros((1, 3), np.float32), 0.0, False, False, {}),
    "text": ("abc", 0.0, False, False, {}),
    "NaN": (np.full(3, np.nan, np.float32), 0.0, False, False, {}),
    "nothing": (None, 0.0, False, False, {}),
    "reward": (np.zeros(3, np.float32), np.inf, False, False, {}),
    "no reward": (np.zeros(3, np.float32), None, False, False, {}),
    "rewards": (np.zeros(3, np.float32), np.zeros(2), False, False, {}),
    "four": (np.zeros(3, np.float32), 0.0, False, {}),
    "info": (np.zeros(3, np.float32), 0.0, False, False, []),
    "flag": (np.zeros(3, np.float32), 0.0, False, None, {}),
    "last": (3.5, 0.0, True, False, {}),  # only where an episode ends
}


class Faulty(gym.Env):
    """Counts its steps, over all its instances; the step numbered `at` goes wrong in the way that `fault` says."""

    fault: ClassVar[str | None] = None
    at = 154  # six are taken by the look before the run; of two environments, the second
    steps = 0
    action_space = spaces.Discrete(2)

    def __init__(self, discrete: bool = False, fault: str | None = None, at: int = 0) -> None:
        self.discrete = discrete
        if fault is not None:  # in a process of its own, which nothing else has told
            Faulty.fault, Faulty.at = fault, at
        self.observation_space = spaces.Discrete(4) if discrete else spaces.Box(-1.0, 1.0, (3,))
        self.t = 0

    def observe(self) -> Any:
        return self.t % 4 if self.discrete else np.full(3, np.sin(self.t), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: int) -> Any:
        self.t += 1
        Faulty.steps += 1
        if Faulty.fault is not None and Faulty.steps == Faulty.at:
            if Faulty.fault == "raises":
                raise ZeroDivisionError("the physics blew up")
            if Faulty.fault == "outside":
                return 4, 0.0, False, False, {}
            return SPOILT[Faulty.fault]
        return self.observe(), float(action), self.t >= 9, False, {}
