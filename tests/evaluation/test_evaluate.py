"""Evaluation: which episodes count, and that seeds don't disturb each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.evaluation.evaluate import eval_envs, evaluate

SLIP = load_config(["env=deeprl/Chain-v0", "env.kwargs.slip=0.3", "env.kwargs.length=6", "algo=dqn", "tuned=none"])


class Walkers:
    """A policy of S seeds: seed s goes right where `right[s]`, else left. Counts what it was asked."""

    def __init__(self, *right):
        self.right, self.num_seeds, self.calls = right, len(right), 0
        self.algorithm = SimpleNamespace(configs=[SimpleNamespace(gamma=0.5)] * len(right))

    def act(self, obs, noise, *, evaluating):
        assert evaluating
        assert noise is None
        self.calls += 1
        return np.repeat(np.array(self.right, np.int64), len(obs) // self.num_seeds)

    def expected_return(self, obs):
        """1 at the start of an episode (state 0, one-hot), else 0."""
        return obs[:, 0].astype(np.float64)


@pytest.fixture
def played():
    """`played(policy, seeds, episodes)` evaluates three times on the same environments."""
    opened = []

    def play(policy, seeds, episodes, rounds=3):
        envs = eval_envs(SLIP, seeds, episodes if isinstance(episodes, int) else max(episodes))
        opened.append(envs)
        return [evaluate(policy, envs, episodes) for _ in range(rounds)]

    yield play
    for envs in opened:
        envs.close()


@pytest.mark.parametrize("episodes", [1, 7, 10, 23])
def test_counts_whole_episodes(played, episodes):
    """K episodes per seed, whatever K; an agent that goes left is cut after 20 steps with nothing."""
    (result,) = played(Walkers(1, 0), [0, 1], episodes, rounds=1)
    assert result.returns.shape == result.lengths.shape == (2, episodes)
    assert result.return_mean[0] > 0.5
    assert (result.lengths[0] >= 5).all()
    assert result.length_mean[1] > 15


def test_discounted_returns_and_what_was_expected_of_them():
    """Five states, no slip: the goal's 1 is four steps away, 0.5³ of it remain. Each episode is asked about at its
    start alone; its return isn't the sum of those before it."""
    envs = eval_envs(load_config(["env=deeprl/Chain-v0", "algo=dqn", "tuned=none"]), [0, 1], 4)
    try:
        result = evaluate(Walkers(1, 0), envs, 23)
    finally:
        envs.close()
    assert result.discounted.shape == result.expected.shape == (2, 23)
    assert result.discounted_mean == [0.125, 0.0]
    assert (result.expected == 1).all()
    assert result.overestimation == [0.875, 1.0]


def test_evaluations_differ_from_each_other(played):
    """Each evaluation plays new episodes."""
    first, second, third = played(Walkers(1), [0], 10)
    assert first.lengths.tolist() != second.lengths.tolist() != third.lengths.tolist()


def test_a_seed_plays_the_same_episodes_beside_another(played):
    """Every evaluation of a seed, not the first alone, is what it is without the other seeds."""
    together = played(Walkers(1, 0), [0, 1], 10)
    for index, right in enumerate((1, 0)):
        alone = played(Walkers(right), [index], 10)
        for ours, theirs in zip(together, alone, strict=True):
            assert ours.lengths[index].tolist() == theirs.lengths[0].tolist()


def test_each_seed_may_have_a_number_of_its_own(played):
    """Rows of fewer end in nothing, which no mean counts; the episodes are those of a seed alone."""
    (result,) = played(Walkers(1, 1), [0, 1], [3, 12], rounds=1)
    assert result.counts == [3, 12]
    assert result.returns.shape == (2, 12)
    assert np.isnan(result.returns[0, 3:]).all()
    assert (result.lengths[0, 3:] == 0).all()
    assert not np.isnan([result.return_mean, result.return_std, result.length_mean]).any()
    (alone,) = played(Walkers(1), [0], 3, rounds=1)
    assert result.lengths[0, :3].tolist() == alone.lengths[0].tolist()
    assert result.length_mean[0] == alone.length_mean[0]


def test_an_environment_that_has_played_its_share_stands_still(monkeypatch):
    """Three episodes in ten environments: seven are never stepped."""
    envs = eval_envs(load_config(["env=deeprl/Chain-v0", "algo=dqn", "tuned=none"]), [0], 10)
    masks = []
    step = envs.step
    monkeypatch.setattr(
        envs, "step", lambda actions, running=None: (masks.append(running.copy()), step(actions, running))[1]
    )
    evaluate(Walkers(1), envs, 3)
    envs.close()
    assert masks[0].tolist() == [True] * 3 + [False] * 7
