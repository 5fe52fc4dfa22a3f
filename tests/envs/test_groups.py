"""Groups of environments in a row: one reset for all of them, and chances in common or each its own."""

from __future__ import annotations

import numpy as np
import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.errors import ConfigError
from deeprl_cli.training.preflight import preflight
from tests.envs.conftest import config

FROZEN_LAKE = {"map_name": "8x8", "is_slippery": True}


def grouped(own_noise, env_id="CartPole-v1", seeds=(1, 2), **kwargs):
    return make_vector_env(config(env_id, **kwargs), seeds, 4, training=True, groups_of=2, own_noise=own_noise)


@pytest.mark.parametrize("own_noise", [False, True])
def test_a_group_starts_alike_and_groups_differ(own_noise):
    """Environments 0 and 1 of a seed share their first observation, in every episode; 2 and 3 have another."""
    env = grouped(own_noise)
    first = [env.reset()]
    for _ in range(2):
        ended = np.zeros(8, bool)
        obs = np.zeros_like(first[0])
        while not ended.all():
            step = env.step(np.zeros(8, np.int64), ~ended)
            new = step.episode_end & ~ended
            obs[new], ended = step.obs[new], ended | new
        first.append(obs)
    for obs in first:
        assert np.array_equal(obs[0::2], obs[1::2])
        assert len(np.unique(obs[:, 0])) == 4
    assert not np.array_equal(first[0], first[1])


def walked(env, steps=40):
    """Positions (steps, 8) of environments that all do the same."""
    env.reset()
    return np.array([env.step(np.full(8, t % 3)).next_obs.copy() for t in range(steps)])


def test_equal_actions_meet_equal_chances_in_common_noise():
    """On ice: a group's environments slip alike; another group's do not."""
    states = walked(grouped(False, "FrozenLake-v1", **FROZEN_LAKE))
    assert np.array_equal(states[:, 0::2], states[:, 1::2])
    assert not np.array_equal(states[:, 0], states[:, 2])


def test_each_environment_has_chances_of_its_own_in_independent_noise():
    """On ice: a group's environments start alike and slip differently; a seed's are those it has alone."""
    states = walked(grouped(True, "FrozenLake-v1", **FROZEN_LAKE))
    assert not np.array_equal(states[:, 0], states[:, 1])
    assert not np.array_equal(states[:, 4], states[:, 5])
    alone = grouped(True, "FrozenLake-v1", seeds=(2,), **FROZEN_LAKE)
    alone.reset()
    expected = np.array([alone.step(np.full(4, t % 3)).next_obs.copy() for t in range(40)])
    assert np.array_equal(states[:, 4:], expected)


def test_independent_noise_is_replayed():
    """Brought back in mid-episode, it slips as it would have."""
    env, other = (grouped(True, "FrozenLake-v1", **FROZEN_LAKE) for _ in range(2))
    walked(env, 17)
    other.load_state_dict(env.state_dict())
    for t in range(30):
        assert np.array_equal(env.step(np.full(8, t % 4)).obs, other.step(np.full(8, t % 4)).obs)


def test_an_environment_that_ignores_its_generator_is_refused():
    """It couldn't be reseeded."""
    assert look(config("CartPole-v1")).reseedable
    assert not look(config("test/Unrepeatable-v0")).reseedable
    options = ["algo=grpo", "network=mlp", "algo.group_noise=independent"]
    preflight(load_config([*options, "env=FrozenLake-v1"]))
    with pytest.raises(
        ConfigError, match=r"algo\.group_noise=independent: test/Unrepeatable-v0 .*algo\.group_noise=common"
    ):
        preflight(load_config([*options, "env=test/Unrepeatable-v0"]))
