"""A broken environment is refused before anything is made, in one line that says how it breaks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.errors import UserError
from deeprl_cli.training.run import train

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


@pytest.fixture(autouse=True)
def registered():
    gym.register("test/Broken-v0", Broken, max_episode_steps=20)
    yield
    gym.registry.pop("test/Broken-v0")


def broken(fault: str, at: int = 0, **options: Any) -> list[str]:
    rest = [f"{key}={value}" for key, value in options.items()]
    return ["algo=dqn", "env=test/Broken-v0", f"env.kwargs.fault='{fault}'", f"env.kwargs.at={at}", *rest]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("reset raises", r"its reset\(\) raises OSError: no such robot \(.*test_look.py:\d+\)"),
        ("reset alone", r"its reset\(\) returned an array of float32 of shape \(3,\), where two values"),
        ("raises", r"its step\(\) raises ValueError: joint 3 broke \(.*test_look.py:\d+\)"),
        ("nan", "an observation holds NaN or infinity"),
        ("infinite", "an observation holds NaN or infinity"),
        (
            "shape",
            r"returned an array of float32 of shape \(1,\) as its observation, .* declares float32 of shape \(3,\)",
        ),
        ("reward", "a reward is nan"),
        ("no reward", "returned None as its reward, where one number is due"),
        ("four", r"where five values .* are due"),
        ("nothing", r"where five values .* are due"),
        ("outside", r"the observation 3 lies outside of its space Discrete\(3\)"),
    ],
)
def test_what_is_found_beforehand(fault, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(load_config(broken(fault, run_dir=tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_sound_one_passes():
    look(load_config(broken("none")).env)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(("fault", "what"), [("nan", "NaN or infinity in its observation"), ("reward", "reward")])
def test_what_breaks_later_names_environment_and_step(fault, what, backend, tmp_path):
    """Beyond the first steps: the run ends there, its last checkpoint whole."""
    options = {"algo.num_envs": 2, "env.backend": backend, "checkpoint.every": 4, "run_dir": tmp_path / "run"}
    cfg = load_config(broken(fault, 12, **options, **{"hardware.compile": "false", "eval.every": 0}))
    with pytest.raises(UserError, match=rf"environment 0 of seed 0 \(test/Broken-v0\), episode 0, step 13.*{what}"):
        train(cfg)
    assert (tmp_path / "run" / "checkpoints" / "last" / "manifest.json").exists()
