"""Small environments, registered as `deeprl/…`: one with known values, one to learn from pixels in minutes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import registry

from deeprl_cli.envs.arithqa import ARITH_QA_ID, ArithQA
from deeprl_cli.plugins.installed import register_environments

CHAIN_ID = "deeprl/Chain-v0"
PIXEL_CATCH_ID = "deeprl/PixelCatch-v0"


def register_own_envs() -> None:
    """Make our ids known to gymnasium, and those of plug-ins; may be called again."""
    own = (
        (CHAIN_ID, f"{__name__}:Chain", 20),
        (PIXEL_CATCH_ID, f"{__name__}:PixelCatch", None),
        (ARITH_QA_ID, f"{ArithQA.__module__}:{ArithQA.__name__}", None),
    )
    for env_id, entry_point, limit in own:
        if env_id not in registry:
            gym.register(env_id, entry_point, max_episode_steps=limit)
    register_environments()


class Chain(gym.Env[Any, Any]):
    """States 0 … length-1 in a row, start at 0. Action 1 goes right, 0 left (0 stays at the left end).

    Reaching the right end gives `goal_reward` and terminates; every other step gives `step_reward`. With probability
    `slip` an action is reversed. Registered with a time limit of 20 steps, which truncates.
    `observation`: "onehot" (float32 (length,)) or "index" (Discrete).
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium reads it from the class)

    def __init__(
        self,
        length: int = 5,
        goal_reward: float = 1.0,
        step_reward: float = 0.0,
        slip: float = 0.0,
        observation: str = "onehot",
    ) -> None:
        if length < 2 or observation not in ("onehot", "index"):
            raise ValueError("length must be at least 2, observation onehot or index")
        self.length, self.goal_reward, self.step_reward, self.slip = length, goal_reward, step_reward, slip
        self.action_space = spaces.Discrete(2)
        self._onehot = observation == "onehot"
        self.observation_space = spaces.Box(0, 1, (length,), np.float32) if self._onehot else spaces.Discrete(length)
        self._state = 0

    def values(self, gamma: float, right: float = 1.0) -> npt.NDArray[np.float64]:
        """V(s) (length,) of the policy going right with probability `right`, no time limit; V(terminal) = 0."""
        p = right * (1 - self.slip) + (1 - right) * self.slip
        moves, reward = np.zeros((self.length, self.length)), np.zeros(self.length)
        for state in range(self.length - 1):
            arrives = state + 1 == self.length - 1
            if not arrives:
                moves[state, state + 1] += p
            moves[state, max(state - 1, 0)] += 1 - p
            reward[state] = p * (self.goal_reward if arrives else self.step_reward) + (1 - p) * self.step_reward
        return np.asarray(np.linalg.solve(np.eye(self.length) - gamma * moves, reward), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = bool(action)
        if self.slip and self.np_random.random() < self.slip:
            right = not right
        self._state = self._state + 1 if right else max(self._state - 1, 0)
        over = self._state == self.length - 1
        return self._observe(), self.goal_reward if over else self.step_reward, over, False, {}

    def _observe(self) -> Any:
        if not self._onehot:
            return self._state
        observation = np.zeros(self.length, np.float32)
        observation[self._state] = 1
        return observation


class PixelCatch(gym.Env[npt.NDArray[np.uint8], Any]):
    """Catch a falling ball with a paddle, seen as a grayscale image (size, size, 1) uint8.

    A `grid` x `grid` board: the ball starts in a random column of the top row and falls one row a step; the paddle, in
    the bottom row, moves left, stays or moves right (actions 0, 1, 2). When the ball arrives the episode terminates
    with reward +1 (caught) or -1. An episode has grid-1 steps; the best policy always catches (return 1).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 (gymnasium reads it from the class)

    def __init__(self, size: int = 36, grid: int = 6, render_mode: str | None = None) -> None:
        if grid < 3 or size % grid:
            raise ValueError(f"size={size} must be a multiple of grid={grid}, and grid at least 3")
        self.size, self.grid, self.render_mode = size, grid, render_mode
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = spaces.Discrete(3)
        self._row = self._column = self._paddle = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        self._column, self._paddle = (int(value) for value in self.np_random.integers(self.grid, size=2))
        return self._observe(), {}

    def step(self, action: int) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._paddle = min(max(self._paddle + int(action) - 1, 0), self.grid - 1)
        self._row += 1
        arrived = self._row == self.grid - 1
        reward = 0.0 if not arrived else 1.0 if self._paddle == self._column else -1.0
        return self._observe(), reward, arrived, False, {}

    def render(self) -> Any:
        """The image enlarged, (8*size, 8*size, 3) uint8."""
        return self._observe().repeat(8, 0).repeat(8, 1).repeat(3, 2)

    def _observe(self) -> npt.NDArray[np.uint8]:
        cell = self.size // self.grid
        image = np.zeros((self.size, self.size, 1), np.uint8)
        image[-cell:, self._paddle * cell : (self._paddle + 1) * cell] = 128
        image[self._row * cell : (self._row + 1) * cell, self._column * cell : (self._column + 1) * cell] = 255
        return image
