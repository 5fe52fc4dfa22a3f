"""Environments that other processes can find by their module's name."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Probe(gym.Env):
    """Reports the last action it was given; observation, actions and failures by argument."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, kind="box", fail_at=None, action="box", reward=1.5):
        self.kind, self.fail_at, self.reward = kind, fail_at, reward
        self.steps = 0
        self.action_space = {
            "box": lambda: spaces.Box(np.float32([0, -4]), np.float32([1, 2])),
            "matrix": lambda: spaces.Box(-3.0, 3.0, (2, 2), np.float64),
            "unbounded": lambda: spaces.Box(-np.inf, np.inf, (2,)),
            "shifted": lambda: spaces.Discrete(3, start=5),
            "multi": lambda: spaces.MultiDiscrete([3, 4]),
            "binary": lambda: spaces.MultiBinary(3),
            "nested": lambda: spaces.Dict(a=spaces.Discrete(2)),
            "bytes": lambda: spaces.Box(0, 255, (2,), np.uint8),
        }[action]()
        image = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.observation_space = {
            "box": lambda: spaces.Box(-10.0, 10.0, (2, 3), np.float64),
            "dict": lambda: spaces.Dict(b=spaces.Box(-1.0, 1.0, (2,)), a=spaces.Discrete(3)),
            "tuple": lambda: spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]),
            "pixels": lambda: spaces.Dict(camera=image, speed=spaces.Box(-1.0, 1.0, (1,))),
            "image": lambda: image,
            "gray": lambda: spaces.Box(0, 255, (8, 8), np.uint8),
            "shifted": lambda: spaces.Discrete(4, start=3),
            "multi": lambda: spaces.MultiDiscrete([3, 4], start=[1, 2]),
            "text": lambda: spaces.Text(5),
            "liar": lambda: spaces.Box(-1.0, 1.0, (3,)),
        }[kind]()

    def observe(self):
        if self.kind == "liar":
            return np.zeros(1, np.float32)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        self.last_action = action
        if self.steps == self.fail_at:
            raise ZeroDivisionError("the physics blew up")
        return self.observe(), self.reward, False, False, {"noise": 1}


class Unrepeatable(gym.Env):
    """Its dynamics ignore the seed."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.random.default_rng().random(1, np.float32), {}

    def step(self, action):
        return np.random.default_rng().random(1, np.float32), 0.0, False, False, {}


for name, creator in (("test/Probe-v0", Probe), ("test/Probe-v3", Probe), ("test/Unrepeatable-v0", Unrepeatable)):
    if name not in gym.registry:
        gym.register(name, creator)
