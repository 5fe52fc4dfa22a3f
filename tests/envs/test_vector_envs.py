"""What every back-end promises of a step: true next observations, ends apart, dummies of weight 0, true returns."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.testing import CHAIN_ID
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.errors import UserError
from tests.envs.conftest import config

REPLAYED = ["sync", "async"]


@pytest.mark.parametrize("backend", REPLAYED)
def test_chain_termination(backend, opened):
    env = opened(make_vector_env(config(CHAIN_ID, backend, length=4), [0], 2, training=True))
    obs = env.reset()
    assert obs.dtype == np.float32
    assert np.array_equal(obs, np.eye(4, dtype=np.float32)[[0, 0]])
    # environment 0 walks to the goal, environment 1 stays at the left end
    for position in (1, 2):
        step = env.step(np.array([1, 0]))
        assert step.obs[0].argmax() == position
        assert not np.any([step.terminated, step.truncated, step.episode_end])
        assert step.reward.tolist() == [0, 0]
        assert step.reward.dtype == step.weight.dtype == step.episode_return.dtype == np.float32
    step = env.step(np.array([1, 0]))
    assert step.next_obs[0].argmax() == 3  # the final observation …
    assert step.obs[0].argmax() == 0  # … and the first of the next episode
    assert step.terminated.tolist() == [True, False]
    assert step.truncated.tolist() == [False, False]
    assert step.episode_end.tolist() == [True, False]
    assert step.reward.tolist() == [1, 0]
    assert step.weight.tolist() == [1, 1]
    assert step.episode_return.tolist() == [1, 0]
    assert step.episode_length.tolist() == [3, 0]
    step = env.step(np.array([1, 0]))
    assert step.obs[0].argmax() == 1
    assert not step.terminated.any()


@pytest.mark.parametrize("backend", REPLAYED)
@pytest.mark.parametrize("stack", [1, 2])
def test_chain_time_limit(backend, stack, opened):
    cfg = config(CHAIN_ID, backend, limit=3, stack=stack, step_reward=-1.0)
    env = opened(make_vector_env(cfg, [0], 2, training=True))
    env.reset()
    for turn in range(2):
        for _ in range(2):
            assert not env.step(np.array([0, 1])).truncated.any()
        step = env.step(np.array([0, 1]))
        assert step.truncated.tolist() == [True, True], turn
        assert step.terminated.tolist() == [False, False]
        assert step.episode_return.tolist() == [-3, -3]
        assert step.episode_length.tolist() == [3, 3]
        assert step.next_obs[1].reshape(-1, 5)[-1].argmax() == 3
        assert step.obs[1].reshape(-1, 5)[-1].argmax() == 0


@pytest.mark.parametrize("backend", REPLAYED)
def test_goal_at_the_time_limit_is_both(backend, opened):
    env = opened(make_vector_env(config(CHAIN_ID, backend, limit=3, length=4), [0], 1, training=True))
    env.reset()
    for _ in range(3):
        step = env.step(np.array([1]))
    assert (step.terminated[0], step.truncated[0], step.episode_length[0]) == (True, True, 3)


def test_time_limit_of_environments_out_of_phase(opened):
    """The deadline is per episode, not per vector."""
    env = opened(make_vector_env(config(CHAIN_ID, limit=5, length=4), [0], 2, training=True))
    env.reset()
    ends = [[], []]
    for time in range(1, 15):
        step = env.step(np.array([1, 0]))
        for index in range(2):
            if step.episode_end[index]:
                ends[index].append((time, bool(step.truncated[index])))
    assert ends[0] == [(3, False), (6, False), (9, False), (12, False)]
    assert ends[1] == [(5, True), (10, True)]


def _transitions(env, steps, actions):
    """Concatenated arrays of a run: obs before, next_obs, reward, ends, by environment."""
    rows = []
    obs = env.reset()
    for time in range(steps):
        step = env.step(actions(time, obs))
        rows.append(
            (obs, step.next_obs, step.reward, step.terminated, step.truncated, step.episode_return, step.episode_length)
        )
        obs = step.obs
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _by_angle(time, obs):
    """A CartPole policy of the observation alone, so that runs of any layout agree; sometimes wrong."""
    return ((obs[:, 2] + 0.3 * np.sin(time * 0.7)) > 0).astype(np.int64)


@pytest.mark.parametrize("backend", REPLAYED)
def test_seeds_together_equal_each_alone(backend, opened):
    together = opened(make_vector_env(config("CartPole-v1", backend), [3, 4], 2, training=True))
    joint = _transitions(together, 120, _by_angle)
    for position, seed in enumerate([3, 4]):
        alone = opened(make_vector_env(config("CartPole-v1"), [seed], 2, training=True))
        for whole, part in zip(joint, _transitions(alone, 120, _by_angle), strict=True):
            assert np.array_equal(whole[:, 2 * position : 2 * position + 2], part)
    # and fewer environments per seed are the first of more
    narrow = opened(make_vector_env(config("CartPole-v1"), [4], 1, training=True))
    for whole, part in zip(joint, _transitions(narrow, 120, _by_angle), strict=True):
        assert np.array_equal(whole[:, 2:3], part)
    assert joint[6].any()  # some episodes ended on the way


def test_episodes_are_those_of_gymnasium(opened):
    """Same observations, rewards and ends as gym.make stepped by hand with the same seeds."""
    env = opened(make_vector_env(config("CartPole-v1", limit=15), [7], 1, training=False))
    plain = gym.make("CartPole-v1", max_episode_steps=15)
    episode, time, obs = 0, 0, env.reset()[0]
    expected, _ = plain.reset(seed=episode_seed(7, 0, 0, training=False))
    for _ in range(80):
        assert np.array_equal(obs, expected)
        action = int(time % 3 > 0)
        step = env.step(np.array([action]))
        expected, reward, terminated, truncated, _ = plain.step(action)
        assert np.array_equal(step.next_obs[0], expected)
        assert (step.reward[0], step.terminated[0], step.truncated[0]) == (reward, terminated, truncated)
        time += 1
        if terminated or truncated:
            episode, time = episode + 1, 0
            expected, _ = plain.reset(seed=episode_seed(7, 0, episode, training=False))
        obs = step.obs[0]
    assert episode > 3


def test_training_and_evaluation_differ():
    assert episode_seed(0, 0, 0, training=True) != episode_seed(0, 0, 0, training=False)
    seeds = [episode_seed(s, b, e, training=True) for s in range(3) for b in range(3) for e in range(70)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_obs_is_next_obs_unless_an_episode_ends(opened):
    env = opened(make_vector_env(config(CHAIN_ID), [0], 2, training=True))
    first = env.reset()
    kept = first.copy()
    step = env.step(np.array([1, 1]))
    assert step.obs is step.next_obs
    assert env.obs is step.obs
    for _ in range(10):
        env.step(np.array([1, 0]))
    assert np.array_equal(first, kept)  # the caller's for good


@pytest.mark.parametrize("backend", ["native", "envpool"])
def test_next_step_back_ends(backend, opened):
    pytest.importorskip("envpool") if backend == "envpool" else None
    env = opened(make_vector_env(config("CartPole-v1", backend, limit=12), [5, 6], 2, training=True))
    assert not env.replayable
    obs = env.reset()
    assert obs.shape == (4, 4)
    steps = returns = None
    dummy = np.zeros(4, bool)
    steps, returns, ended = np.zeros(4, int), np.zeros(4), 0
    for time in range(60):
        step = env.step(np.array([0, 1, time % 2, time % 2]))
        assert step.obs is step.next_obs
        assert np.array_equal(step.weight, (~dummy).astype(np.float32))
        assert not step.terminated[dummy].any()
        assert not step.reward[dummy].any()
        # a dummy arrives at a start, near zero
        assert (np.abs(step.obs[dummy]) <= 0.05 + 1e-6).all()
        steps += ~dummy
        returns += step.reward
        end = step.terminated | step.truncated
        assert np.array_equal(step.episode_end, end)
        assert np.array_equal(step.episode_length[end], steps[end])
        assert np.allclose(step.episode_return[end], returns[end])
        assert (steps <= 12).all()
        ended += end.sum()
        steps[end], returns[end], dummy = 0, 0, end
    assert ended > 8


@pytest.mark.parametrize("backend", ["native", "envpool"])
def test_next_step_seeds_together_equal_each_alone(backend, opened):
    pytest.importorskip("envpool") if backend == "envpool" else None
    together = opened(make_vector_env(config("CartPole-v1", backend), [3, 4], 2, training=True))
    joint = _transitions(together, 60, _by_angle)
    for position, seed in enumerate([3, 4]):
        alone = opened(make_vector_env(config("CartPole-v1", backend), [seed], 2, training=True))
        for whole, part in zip(joint, _transitions(alone, 60, _by_angle), strict=True):
            assert np.array_equal(whole[:, 2 * position : 2 * position + 2], part)


def test_envpool_continuous_actions(opened):
    pytest.importorskip("envpool")
    env = opened(make_vector_env(config("Pendulum-v1", "envpool"), [0], 3, training=True))
    env.reset()
    step = env.step(np.array([[-1.0], [0.0], [2.0]], np.float32))
    assert step.obs.dtype == np.float32
    assert env.spec.action_space == gym.spaces.Box(-1, 1, (1,))


def test_exceptions_say_which_environment(opened):
    env = opened(make_vector_env(config("test/Probe-v0", fail_at=3), [8, 9], 2, training=True))
    env.reset()
    for _ in range(2):
        env.step(np.zeros((4, 2), np.float32))
    with pytest.raises(ZeroDivisionError, match="physics") as caught:
        env.step(np.zeros((4, 2), np.float32))
    assert caught.value.__notes__ == ["raised by environment 0 of seed 8 (test/Probe-v0), episode 0, step 2"]


def test_exception_in_a_worker_arrives_whole(opened):
    env = opened(make_vector_env(config("test/Probe-v0", "async", fail_at=2), [8], 2, training=True))
    env.reset()
    env.step(np.zeros((2, 2), np.float32))
    with pytest.raises(RuntimeError, match=r"(?s)environment 0 of seed 8.*Traceback.*probes.*the physics blew up"):
        env.step(np.zeros((2, 2), np.float32))


def test_a_killed_worker_is_reported(opened):
    env = opened(make_vector_env(config(CHAIN_ID, "async"), [8], 2, training=True))
    env.reset()
    env._envs.processes[1].kill()
    env._envs.processes[1].join()
    with pytest.raises(UserError, match=r"environment 1 of seed 8.*exit code -9"):
        env.step(np.array([1, 1]))


def test_wrong_number_of_actions(opened):
    env = opened(make_vector_env(config(CHAIN_ID), [0], 2, training=True))
    env.reset()
    with pytest.raises(ValueError, match="3 actions for 2"):
        env.step(np.array([1, 1, 1]))


def test_chain_values():
    chain = gym.make(CHAIN_ID, length=4).unwrapped
    assert np.allclose(chain.values(0.5), [0.25, 0.5, 1, 0])
    left = gym.make(CHAIN_ID, length=3, step_reward=-1.0).unwrapped.values(0.5, right=0.0)
    assert np.allclose(left, [-2, -2, 0])


def test_pixel_catch_can_be_won(opened):
    env = opened(make_vector_env(config("deeprl/PixelCatch-v0"), [0], 4, training=True))
    obs = env.reset()
    assert env.spec.observation_space == gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    outcomes = []
    for _ in range(50):
        ball = (obs[..., 0] == 255).any(1).argmax(1)
        paddle = (obs[:, -1, :, 0] == 128).argmax(1)
        step = env.step(1 + np.sign(ball - paddle))
        outcomes.extend(step.episode_return[step.episode_end].tolist())
        obs = step.obs
    assert outcomes == [1.0] * 40
