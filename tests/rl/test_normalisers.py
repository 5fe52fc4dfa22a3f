"""Running statistics against numpy over everything seen, and the reward's scale against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeprl_cli.rl.normalisers import CLIP, RewardScaler, RunningStatistics


def test_statistics_of_a_weighted_stream():
    """Mean, variance and count of all batches so far, per seed, with what has weight 0 left out."""
    rng = np.random.default_rng(0)
    statistics = RunningStatistics(2, (3,))
    seen = [[], []]
    for n in (1, 7, 1, 64, 5):
        x = rng.standard_normal((2, n, 3)).astype(np.float32) * 5 + 100
        weight = (rng.random((2, n)) < 0.7).astype(np.float32)
        statistics.update(torch.from_numpy(x), torch.from_numpy(weight))
        for s in range(2):
            seen[s] += list(x[s][weight[s] > 0])
            if seen[s]:
                every = np.array(seen[s], np.float64)
                np.testing.assert_allclose(statistics.mean[s], every.mean(0), rtol=1e-5)
                np.testing.assert_allclose(statistics.var[s], every.var(0), rtol=1e-3, atol=1e-3)
            assert statistics.count[s] == len(seen[s])


def test_one_by_one_equals_at_once():
    """Batches of one merge to the same statistics as one batch."""
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 200, 2)).astype(np.float32)) * 3 - 50
    ones, whole = RunningStatistics(1, (2,)), RunningStatistics(1, (2,))
    whole.update(x, torch.ones(1, 200))
    for i in range(200):
        ones.update(x[:, i : i + 1], torch.ones(1, 1))
    torch.testing.assert_close(ones.mean, whole.mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ones.var, whole.var, rtol=1e-3, atol=1e-3)


def test_nothing_seen_changes_nothing():
    """A batch of dummies leaves everything as it was, before and after real ones."""
    statistics = RunningStatistics(1, ())
    statistics.update(torch.full((1, 4), 9.0), torch.zeros(1, 4))
    assert (statistics.mean.item(), statistics.var.item(), statistics.count.item()) == (0, 1, 0)
    statistics.update(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2))
    statistics.update(torch.full((1, 4), 9.0), torch.zeros(1, 4))
    assert (statistics.mean.item(), statistics.var.item(), statistics.count.item()) == (2, 1, 2)


def test_normalise():
    """(x − mean)/√var per seed on any number of batch axes, clipped to ±10; a constant feature becomes 0."""
    statistics = RunningStatistics(2, (2,))
    x = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[10.0, 0.0], [30.0, 4.0]]])
    statistics.update(x, torch.ones(2, 2))
    expected = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]], [[-1.0, -1.0], [1.0, 1.0]]])
    torch.testing.assert_close(statistics.normalise(x), expected)
    deep = x.view(2, 1, 2, 1, 2).expand(2, 3, 2, 4, 2)
    torch.testing.assert_close(statistics.normalise(deep)[1, 2, :, 3], expected[1])
    assert statistics.normalise(torch.full((2, 1, 2), 1e6)).max() == CLIP == 10


def episodes(rng, steps, envs):
    """Rewards, ends, and weights of a NEXT_STEP back-end: after an end a dummy with reward 0."""
    reward = rng.standard_normal((steps, envs)) + 1
    ended = rng.random((steps, envs)) < 0.2
    weight = np.ones((steps, envs))
    for t in range(1, steps):
        dummy = ended[t - 1] & (weight[t - 1] > 0)
        reward[t, dummy], ended[t, dummy], weight[t, dummy] = 0, False, 0
    return reward, ended, weight


@pytest.mark.parametrize("chunks", [[30], [1] * 30, [7, 1, 2, 20]])
def test_reward_scale_is_the_deviation_of_the_discounted_return(chunks):
    """G = r + γG, afresh after every end, in whatever pieces the steps come; dummies aren't returns."""
    gamma, envs = 0.9, 3
    rollouts = [episodes(np.random.default_rng(s), 30, envs) for s in (0, 1)]
    scaler = RewardScaler(2, envs)
    stacked = [torch.from_numpy(np.stack(field).astype(np.float32)) for field in zip(*rollouts, strict=True)]
    start = 0
    for length in chunks:
        scaler.update(*(field[:, start : start + length] for field in stacked), gamma)
        start += length
    for s, (reward, ended, weight) in enumerate(rollouts):
        returns, g = [], np.zeros(envs)
        for t in range(30):
            g = reward[t] + gamma * g
            returns += list(g[weight[t] > 0])
            g = np.where(ended[t], 0, g)
        assert scaler.statistics.count[s] == len(returns)
        assert scaler.statistics.var[s].item() == pytest.approx(np.var(returns), rel=1e-4)
        scaled = scaler.scale(torch.full((2, 4), 0.5))[s]
        assert scaled.tolist() == pytest.approx([0.5 / np.std(returns)] * 4, rel=1e-4)


def test_scaling_keeps_signs_and_clips():
    """No mean is subtracted: a reward of 0 stays 0; outliers end at ±10."""
    scaler = RewardScaler(1, 1)
    scaler.update(torch.tensor([[[5.0], [6.0]]]), torch.ones(1, 2, 1), torch.ones(1, 2, 1), 0.9)
    assert scaler.scale(torch.tensor([[0.0, 1e6, -1e6]])).tolist() == [[0.0, 10.0, -10.0]]
    assert (scaler.scale(torch.tensor([[1.0, -1.0]])).sign() == torch.tensor([[1.0, -1.0]])).all()
