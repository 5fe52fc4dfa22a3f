"""`env.wrappers`: gymnasium wrappers by configuration, in every back-end that can have them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.commands.eval import Wanted, evaluate_run
from deeprl_cli.commands.resume import resume
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.own_terms import own_terms
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.folder import read_config
from tests.contract.harness import short_run, trained

HERE = "tests.envs.test_wrappers"


class Scaled(gym.RewardWrapper):
    def __init__(self, env, by=10.0):
        super().__init__(env)
        self.by = by

    def reward(self, reward):
        return reward * self.by


class Shortened(gym.ObservationWrapper):
    """The first two of the observation's numbers."""

    def __init__(self, env):
        super().__init__(env)
        low, high = env.observation_space.low[:2], env.observation_space.high[:2]
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation):
        return observation[:2]


def raises(env):
    raise ValueError("no joint 3")


def config(*overrides):
    return load_config(["env=CartPole-v1", "env.max_episode_steps=5", *overrides])


def returns(cfg):
    """Of the first episode of each of two environments, and the shape of what is observed."""
    envs = make_vector_env(cfg.env, [3], 2, training=True)
    try:
        envs.reset()
        found = {}
        while len(found) < 2:
            step = envs.step(np.zeros(2, np.int64))
            found |= {n: float(step.episode_return[n]) for n in np.flatnonzero(step.episode_end) if n not in found}
        return [found[0], found[1]], envs.spec.observation_space.shape
    finally:
        envs.close()


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_wrappers_are_put_around_each_environment(backend):
    plain, shape = returns(config(f"env.backend={backend}"))
    assert shape == (4,)
    wrappers = f"env.wrappers=[{HERE}.Shortened,{{class:{HERE}:Scaled,kwargs:{{by:0.5}}}},{HERE}:Scaled]"
    wrapped, shape = returns(config(f"env.backend={backend}", wrappers))
    assert shape == (2,)
    assert wrapped == [5 * value for value in plain]


def test_a_policys_own_terms_are_those_of_the_wrapped_environment():
    terms = own_terms(config(f"env.wrappers=[{HERE}.Shortened]").env)
    assert terms.spec.observation_space.shape == terms.view.source_shape == (2,)


def test_wrappers_are_remembered_and_need_leave(tmp_path, capsys):
    options = [f"env.wrappers=[{{class:{HERE}:Scaled,kwargs:{{by:-1.0}}}}]"]
    run, _ = trained(short_run("ppo", tmp_path / "run", *options))
    assert read_config(run)["env"]["wrappers"] == [{"class": f"{HERE}:Scaled", "kwargs": {"by": -1.0}}]
    with pytest.raises(UserError, match=r"its env.wrappers import tests.envs.*Scaled, which runs code.*--trust"):
        evaluate_run(run, Wanted(episodes=1))
    assert evaluate_run(run, Wanted(episodes=2, trust=True))[0]["mean"] < 0
    with pytest.raises(UserError, match=r"env.wrappers import"):
        resume(run, ["total_steps=300"])
    resume(run, ["total_steps=300"], trust=True)
    whole, _ = trained(short_run("ppo", tmp_path / "whole", *options, "total_steps=300", "horizon=240"))
    assert (run / "weights.sha256").read_text().splitlines()[-1] == (
        (whole / "weights.sha256").read_text().splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([f"env.wrappers=[{HERE}.Scaled]", "env.backend=native"], r"env.wrappers: env.backend=native steps all"),
        ([f"env.wrappers=[{HERE}.raises]"], r"env.wrappers\[0\].*around CartPole-v1: ValueError: no joint 3"),
        (["env.wrappers=[builtins:id]"], r"gives a int instead of an environment"),
        ([f"env.wrappers=[{{class:{HERE}:Scaled,kwargs:{{to:2}}}}]"], r"wrappers\[0\].kwargs: .*'to'.* are by"),
    ],
)
def test_what_is_no_wrapper_is_said_in_one_line(overrides, said):
    with pytest.raises(ConfigError, match=said):
        returns(config(*overrides))


def test_one_wrapper_is_written_as_a_list():
    with pytest.raises(ConfigError, match=r"must be a list, write 'env.wrappers=\[my:Wrapper\]'"):
        config("env.wrappers=my:Wrapper")
