"""Atari: preprocessing, FIRE, lives as episodes in training, and returns that stay the game's own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.envs.atari import LIFE_LOST
from deeprl_cli.envs.make import build_env, env_spec, make_vector_env
from tests.envs.conftest import config

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

BREAKOUT = "ALE/Breakout-v5"


def _breakout(backend="sync", **atari):
    return config(BREAKOUT, backend, stack=4, atari=atari, repeat_action_probability=0.0)


def test_spaces(opened):
    spec = env_spec(_breakout())
    assert spec.observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert spec.action_space == gym.spaces.Discrete(4)
    one = env_spec(config("PongNoFrameskip-v4", atari={}))
    assert one.observation_space.shape == (1, 84, 84)
    raw = env_spec(config(BREAKOUT))
    assert raw.observation_space.shape == (210, 160, 3)
    # frames are in place: distinct, oldest first
    env = opened(make_vector_env(_breakout(), [0], 1, training=True))
    env.reset()
    frames = [env.step(np.array([time % 4])).next_obs for time in range(6)]
    assert np.array_equal(frames[-1][0, 0], frames[-4][0, 3])


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_lives_end_episodes_in_training_only(backend, opened):
    env = opened(make_vector_env(_breakout(backend), [0], 1, training=True))
    env.reset()
    terminations, true_reward = 0, []
    for time in range(900):
        step = env.step(np.array([2 + time // 7 % 2]))
        terminations += int(step.terminated[0])
        assert step.reward[0] in (-1, 0, 1)
        true_reward.append(float(step.reward[0]))
        if step.episode_end[0]:
            break
    assert terminations == 5  # one per life
    assert step.terminated[0]
    assert step.episode_length[0] == time + 1
    # a brick of the lowest rows is worth one point, so the sum of clipped rewards is the score
    assert step.episode_return[0] >= sum(true_reward)

    eval_env = opened(make_vector_env(_breakout(backend), [0], 1, training=False))
    eval_env.reset()
    for time in range(900):
        step = eval_env.step(np.array([1 + time // 7 % 3]))
        assert bool(step.terminated[0]) == bool(step.episode_end[0])
        if step.episode_end[0]:
            break
    assert step.episode_end[0]


def test_a_lost_life_goes_on_with_the_same_game():
    env = build_env(_breakout(), training=True)
    env.reset(seed=1)
    ale = env.unwrapped.ale
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(2)
    assert info[LIFE_LOST]
    assert ale.lives() == 4
    frame = ale.getEpisodeFrameNumber()
    env.reset()
    assert ale.lives() == 4
    assert ale.getEpisodeFrameNumber() == frame
    # FIRE was pressed: a ball is falling, and left alone the next life is lost soon
    for _ in range(200):
        _, _, terminated, _, info = env.step(0)
        if terminated:
            break
    assert terminated
    env.reset(seed=1)  # a seed asks for a new game
    assert ale.lives() == 5
    env.close()


def test_without_fire_nothing_happens():
    env = build_env(_breakout(fire_reset=False), training=True)
    env.reset(seed=1)
    assert not any(env.step(0)[2] for _ in range(200))
    env.close()


def test_time_limit_counts_agent_steps_of_the_whole_game(opened):
    cfg = _breakout()
    cfg.max_episode_steps = 60
    env = opened(make_vector_env(cfg, [0], 1, training=True))
    env.reset()
    lost = time = 0
    while time < 60:
        time += 1
        step = env.step(np.array([2]))
        lost += int(step.terminated[0])
        if step.truncated[0]:
            break
    assert lost >= 1  # a life was lost on the way, and the limit went on counting
    assert 50 <= time <= 60  # the moves after a lost life are the game's steps as well
    assert step.episode_end[0]


def test_replay_through_a_lost_life(opened):
    env = opened(make_vector_env(_breakout(), [0], 2, training=True))
    env.reset()
    rng, lost = np.random.default_rng(0), 0
    for _ in range(120):
        lost += int(env.step(rng.integers(4, size=2)).terminated.sum())
    assert lost
    for backend in ("sync", "async"):
        other = opened(make_vector_env(_breakout(backend), [0], 2, training=True))
        assert other.load_state_dict(env.state_dict()) == []
        assert np.array_equal(other.obs, env.obs)


def test_envpool_lives(opened):
    pytest.importorskip("envpool")
    cfg = config("Breakout-v5", "envpool", stack=4, atari={})
    env = opened(make_vector_env(cfg, [0], 1, training=True))
    assert env.reset().shape == (1, 4, 84, 84)
    terminations, weights = 0, 0.0
    for time in range(900):
        step = env.step(np.array([2 + time // 7 % 2]))
        terminations += int(step.terminated[0])
        weights += float(step.weight[0])
        if step.episode_end[0]:
            break
    assert terminations == 5
    assert step.episode_length[0] == weights
