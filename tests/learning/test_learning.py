"""Each algorithm learns something in seconds, through the path of `deeprl train`; margins wide enough not to flake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.training.run import train


class Reach(gym.Env):
    """Answer a random point of the square with itself: reward −|a − s|², ten steps. Random play earns about −13."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.steps = 0
        return self._next(), {}

    def step(self, action: np.ndarray):
        reward = -float(np.square(action - self.state).sum())
        self.steps += 1
        return self._next(), reward, self.steps == 10, False, {}

    def _next(self) -> np.ndarray:
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.state


gym.register("Reach-v0", Reach)
REACH = ["env=Reach-v0", "total_steps=1200", "algo.hidden=[64,64]", "algo.batch_size=64", "eval.every=400"]
JOBS = {
    "sac": (-3.0, [*REACH, "algo.lr_actor=1e-3", "algo.lr_critic=1e-3", "algo.lr_alpha=1e-3"]),
    "ddpg": (-3.0, REACH),
    "td3": (-3.0, REACH),
    # random play lasts about 22 steps on CartPole
    "ppo": (120.0, ["env=CartPole-v1", "total_steps=20000", "eval.every=10000"]),
    "dqn": (100.0, ["env=CartPole-v1", "total_steps=5000", "eval.every=1000"]),
    "grpo": (120.0, ["env=CartPole-v1", "total_steps=50000", "eval.every=25000"]),
    "reinforce": (120.0, ["env=CartPole-v1", "total_steps=20000", "eval.every=10000"]),
    "actor_critic": (120.0, ["env=CartPole-v1", "total_steps=25000", "eval.every=5000"]),
    "a2c": (120.0, ["env=CartPole-v1", "total_steps=25000", "eval.every=5000"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("algo", JOBS)
def test_learns(algo: str, tmp_path: Path) -> None:
    """The best policy of two seeds, evaluated afresh, is far above random play."""
    bar, overrides = JOBS[algo]
    common = ["seeds=2", "hardware.compile=false", "hardware.threads=1", "eval.final_episodes=20"]
    run = train(load_config([f"algo={algo}", *overrides, *common, f"run_dir={tmp_path / 'run'}"]))
    returns = read_summary(run)["eval"]["best_return_mean"]
    assert len(returns) == 2
    assert min(returns) > bar, returns
