"""state_dict → load_state_dict: every environment goes on bit for bit, or says why not."""

from __future__ import annotations

import numpy as np
import pytest

from deeprl_cli.envs import replayed
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.testing import CHAIN_ID
from deeprl_cli.errors import UserError
from tests.envs.conftest import config

FIELDS = ["obs", "next_obs", "reward", "terminated", "truncated", "episode_return", "episode_length"]


def _play(env, rng, steps):
    space, rows = env.spec.action_space, []
    for _ in range(steps):
        if space.dtype == np.float32:
            actions = rng.uniform(-1.2, 1.2, (env.num_envs, *space.shape)).astype(np.float32)
        else:
            actions = rng.integers(space.n, size=env.num_envs)
        step = env.step(actions)
        rows.append([np.copy(getattr(step, name)) for name in FIELDS])
    return rows


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {"limit": 30}),
        ("Pendulum-v1", {"stack": 2}),
        (CHAIN_ID, {"slip": 0.3, "observation": "index"}),
        ("deeprl/PixelCatch-v0", {"stack": 2}),
    ],
)
def test_goes_on_bit_for_bit(backend, env_id, kwargs, opened):
    def make():
        return opened(make_vector_env(config(env_id, backend, **kwargs), [1, 2], 2, training=True))

    env, rng = make(), np.random.default_rng(0)
    env.reset()
    _play(env, rng, 43)
    state, position = env.state_dict(), rng.bit_generator.state
    expected = _play(env, rng, 60)
    other = make()
    assert other.load_state_dict(state) == []
    assert np.array_equal(other.obs, state["obs"])
    rng.bit_generator.state = position
    for ours, theirs in zip(_play(other, rng, 60), expected, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))
    # and a second time, from the restored one
    again = make()
    assert again.load_state_dict(other.state_dict()) == []
    assert np.array_equal(again.obs, other.obs)


def test_across_backends(opened):
    """A checkpoint of one replayed back-end restores in the other."""
    env = opened(make_vector_env(config("CartPole-v1"), [1], 2, training=True))
    env.reset()
    _play(env, np.random.default_rng(0), 20)
    other = opened(make_vector_env(config("CartPole-v1", "async"), [1], 2, training=True))
    assert other.load_state_dict(env.state_dict()) == []
    assert np.array_equal(other.obs, env.obs)


def test_state_is_plain():
    env = make_vector_env(config("CartPole-v1"), [1], 2, training=True)
    assert env.state_dict()["obs"] is None
    env.load_state_dict(env.state_dict())
    env.reset()
    env.step(np.array([0, 1]))
    state = env.state_dict()
    assert state["actions"].dtype == np.uint8
    assert state["actions"].tolist() == [0, 1]
    for value in state.values():
        assert isinstance(value, (list, int, bool, str, np.ndarray))
    env.close()


def test_a_long_run_keeps_a_short_history(opened):
    env = opened(make_vector_env(config(CHAIN_ID, length=3), [0], 2, training=True))
    env.reset()
    for _ in range(5000):
        env.step(np.array([1, 0]))
    assert len(env._history._rows) == 256


def test_episodes_too_long_to_replay(opened, monkeypatch):
    monkeypatch.setattr(replayed, "LONGEST_REPLAY", 300)
    env = opened(make_vector_env(config(CHAIN_ID, limit=100_000), [0], 2, training=True))
    env.reset()
    for time in range(2000):
        env.step(np.array([0, time % 50 > 0]))  # environment 0 never ends, environment 1 often does
    assert len(env._history._rows) <= 1024
    state = env.state_dict()
    assert state["lengths"][0] == -1
    other = opened(make_vector_env(config(CHAIN_ID, limit=100_000), [0], 2, training=True))
    (note,) = other.load_state_dict(state)
    assert "environment 0 of seed 0" in note
    assert "fresh episode" in note
    assert other._episodes[0] == env._episodes[0] + 1
    assert np.array_equal(other.obs[1], env.obs[1])
    step = other.step(np.array([1, 1]))
    assert step.obs[0].argmax() == 1


def test_unrepeatable_environment_goes_on_with_a_word(opened):
    env = opened(make_vector_env(config("test/Unrepeatable-v0"), [4], 1, training=True))
    env.reset()
    env.step(np.array([0]))
    other = opened(make_vector_env(config("test/Unrepeatable-v0"), [4], 1, training=True))
    (note,) = other.load_state_dict(env.state_dict())
    assert note.startswith(
        "environment 0 of seed 4 (test/Unrepeatable-v0), episode 0, step 1: its actions led elsewhere"
    )
    assert other._episodes == [1 + env._episodes[0]]
    assert other.step(np.array([0])).weight.all()


def test_other_layout_is_refused(opened):
    env = opened(make_vector_env(config(CHAIN_ID), [4], 1, training=True))
    env.reset()
    other = opened(make_vector_env(config(CHAIN_ID), [4, 5], 1, training=True))
    with pytest.raises(UserError, match="seeds"):
        other.load_state_dict(env.state_dict())


@pytest.mark.parametrize("backend", ["native", "envpool"])
def test_next_step_back_ends_start_afresh(backend, opened):
    pytest.importorskip("envpool") if backend == "envpool" else None
    env = opened(make_vector_env(config("CartPole-v1", backend), [1], 2, training=True))
    first = env.reset().copy()
    env.step(np.array([0, 1]))
    other = opened(make_vector_env(config("CartPole-v1", backend), [1], 2, training=True))
    (note,) = other.load_state_dict(env.state_dict())
    assert "fresh episode" in note
    assert other.obs.shape == (2, 4)
    assert not np.array_equal(other.obs, first)  # not the starts already seen
