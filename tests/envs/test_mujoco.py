"""MuJoCo's own words: none about its models, each about the simulation once, and no file of them."""

import subprocess
import sys

import pytest

pytest.importorskip("mujoco")

PROGRAM = """
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import bare_env

for _ in range(2):
    env = bare_env(load_config(["algo=ppo", "env=HalfCheetah-v5"]).env)  # whose model has a setting that is deprecated
    env.reset(seed=0)
    env.unwrapped.data.qvel[:] = 1e12
    env.step(env.action_space.sample())
    env.close()
"""


def test_no_word_about_a_model_and_each_about_the_simulation_once(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("MuJoCo: Nan, Inf or huge value in QVEL")
    assert not list(tmp_path.iterdir())


def test_who_has_asked_to_hear_them_goes_on(tmp_path):
    asked = "import mujoco\nmujoco.set_mju_user_warning(lambda text: print('mine:', text.split()[1]))\n"
    command = [sys.executable, "-c", asked + PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["mine: attribute", "mine: Inf"] * 2
    assert done.stderr == ""
