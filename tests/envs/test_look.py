"""A broken environment is refused before anything is made, in one line that says how it breaks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.errors import UserError
from deeprl_cli.training.run import train
from tests.envs.broken import Broken


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
        ("reset raises", r"its reset\(\) raises OSError: no such robot \(.*broken.py:\d+\)"),
        ("reset alone", r"its reset\(\) returned an array of float32 of shape \(3,\), where two values"),
        ("raises", r"its step\(\) raises ValueError: joint 3 broke \(.*broken.py:\d+\)"),
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
        ("enormous", "returned a reward beyond the largest number there is"),
        ("no numbers", r"an observation holds no number \(shape \(0,\)\)"),
        ("no actions", r"an action holds no number \(shape \(0,\)\)"),
        ("exits", r"can't be built: it ends the program, sys.exit\('no display'\)"),
        ("changes", r"declares other spaces once it is reset \(Box\(-1.0, 1.0, \(4,\)"),
        ("doubles", r"calls torch.set_default_dtype\(torch.float64\), which the networks would be trained with"),
        ("outside", r"the observation 3 lies outside of its space Discrete\(3\)"),
    ],
)
def test_what_is_found_beforehand(fault, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(load_config(broken(fault, run_dir=tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    assert torch.get_default_dtype() == torch.float32


def test_a_sound_one_passes():
    look(load_config(broken("none")).env)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(("fault", "what"), [("nan", "NaN or infinity in its observation"), ("reward", "reward")])
def test_what_breaks_later_names_environment_and_step(fault, what, backend, tmp_path):
    """Beyond the first steps: the run ends there, its last checkpoint whole."""
    options = {"algo.num_envs": 2, "env.backend": backend, "checkpoint.every": 4, "run_dir": tmp_path / "run"}
    cfg = load_config(broken(fault, 12, **options, **{"hardware.compile": "false", "eval.every": 0}))
    with pytest.raises(UserError, match=rf"environment 0 of seed 0 \(test/Broken-v0\), episode 0, step 12: .*{what}"):
        train(cfg)
    assert (tmp_path / "run" / "checkpoints" / "last" / "manifest.json").exists()


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("reset nan", r"its reset\(\) returned NaN or infinity in its observation"),
        ("reset exits", r"its reset\(\) ends the program, sys.exit\(5\)"),
    ],
)
def test_a_later_reset_that_breaks(fault, told, backend, opened):
    env = opened(make_vector_env(load_config(broken(fault, **{"env.backend": backend})).env, [7], 1, training=True))
    env.reset()
    for _ in range(19):
        env.step(np.zeros(1, np.int64))
    with pytest.raises(UserError, match=rf"environment 0 of seed 7 .*, episode 1, step 0: {told}"):
        env.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("fault", ["disk", "pipe", "end"])
def test_exceptions_that_would_be_taken_for_ours(fault, opened):
    """An environment's broken pipe isn't the end of who reads our output, nor its full disk ours."""
    env = opened(make_vector_env(load_config(broken(fault, 2)).env, [7], 1, training=True))
    env.reset()
    env.step([0])
    env.step([0])
    with pytest.raises(UserError, match=r"of seed 7 .*, step 2: its step\(\) raises .*broken.py:\d+\)$"):
        env.step([0])
