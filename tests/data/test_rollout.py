"""The rollout buffer: what is put at (t, seed, environment) is read there, in the algorithm's dtypes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.data.rollout import Rollout
from deeprl_cli.envs.spec import EnvSpec, Step

OBSERVATIONS = {
    "vector": (gym.spaces.Box(-1, 1, (3,)), torch.float32),
    "image": (gym.spaces.Box(0, 255, (4, 4, 1), np.uint8), torch.uint8),
    "discrete": (gym.spaces.Discrete(7), torch.int64),
}
ACTIONS = {
    "discrete": (gym.spaces.Discrete(4), torch.int64),
    "box": (gym.spaces.Box(-1, 1, (2,)), torch.float32),
    "multi": (gym.spaces.MultiDiscrete([3, 2]), torch.int64),
    "binary": (gym.spaces.MultiBinary(3), torch.int64),
}


def samples(space, n):
    return np.stack([space.sample() for _ in range(n)])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_reads_back_what_was_put(obs, action):
    """Two seeds of three environments over four steps: (S, T, B, …), seed-major; flags as 0 and 1."""
    (obs_space, obs_dtype), (action_space, action_dtype) = OBSERVATIONS[obs], ACTIONS[action]
    rollout = Rollout(EnvSpec("Test-v0", obs_space, action_space), 2, 4, 3)
    rng = np.random.default_rng(0)
    put = []
    for t in range(4):
        step = Step(
            obs=samples(obs_space, 6),
            next_obs=samples(obs_space, 6),
            reward=rng.random(6, np.float32),
            terminated=rng.random(6) < 0.5,
            truncated=rng.random(6) < 0.5,
            weight=(rng.random(6) < 0.5).astype(np.float32),
            episode_end=np.zeros(6, bool),
            episode_return=np.zeros(6, np.float32),
            episode_length=np.zeros(6, np.int64),
        )
        put.append((samples(obs_space, 6), samples(action_space, 6), step))
        rollout.put(t, *put[-1])
    data = rollout.read("cpu")
    assert data.obs.dtype == data.next_obs.dtype == obs_dtype
    assert data.action.dtype == action_dtype
    for t, (seen, acted, step) in enumerate(put):
        for n in range(6):
            s, b = divmod(n, 3)
            np.testing.assert_array_equal(data.obs[s, t, b], seen[n])
            np.testing.assert_array_equal(data.action[s, t, b], acted[n])
            np.testing.assert_array_equal(data.next_obs[s, t, b], step.next_obs[n])
            for name in ("reward", "terminated", "truncated", "weight"):
                field = getattr(data, name)
                assert field.dtype == torch.float32
                assert field[s, t, b] == float(getattr(step, name)[n])
