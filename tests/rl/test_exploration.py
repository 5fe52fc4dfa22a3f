"""ε-soft policies (T5)."""

from __future__ import annotations

import math

import pytest
import torch

from deeprl_cli.config import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.exploration import EpsilonConfig, epsilon, epsilon_greedy


def within_binomial_bound(count, n, p):
    """Five standard deviations: a false alarm in a million."""
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1e-9


def test_frequencies():
    """Greedy 1 − ε + ε/K, others ε/K each, per seed with its own ε; ε=0 never strays."""
    n, k = 40_000, 4
    q = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(3, n, k)
    eps = torch.tensor([0.0, 0.3, 1.0])
    noise = torch.rand(3, n, 2, generator=torch.Generator().manual_seed(0))
    actions = epsilon_greedy(q, eps, noise)
    assert (actions[0] == 1).all()
    for s, e in enumerate(eps.tolist()):
        for action in range(k):
            p = e / k + (1 - e) * (action == 1)
            assert within_binomial_bound(int((actions[s] == action).sum()), n, p), (e, action)


def test_random_actions_are_in_range_at_the_edge():
    """The largest float below 1 still names an action."""
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
    noise = torch.tensor([[[0.0, 0.0], [0.0, largest]]])
    for k in (2, 3, 7, 18, 1000):
        assert epsilon_greedy(torch.zeros(1, 2, k), torch.ones(1), noise).tolist() == [[0, k - 1]]


@pytest.mark.parametrize(
    ("schedule", "start", "end", "fraction", "points"),
    [
        ("constant", 0.3, 0.1, 0.5, {0: 0.3, 0.5: 0.3, 1: 0.3}),
        ("linear", 1.0, 0.2, 0.5, {0: 1.0, 0.25: 0.6, 0.5: 0.2, 1: 0.2}),
        ("exponential", 1.0, 0.01, 0.5, {0: 1.0, 0.25: 0.1, 0.5: 0.01, 1: 0.01}),
    ],
)
def test_schedules(schedule, start, end, fraction, points):
    """ε at the start, half way, at the end of its fraction, and after it."""
    config = EpsilonConfig(schedule=schedule, start=start, end=end, fraction=fraction)
    for progress, expected in points.items():
        assert epsilon(config, progress) == pytest.approx(expected)


@pytest.mark.parametrize("key", ["start", "end"])
def test_an_exponential_schedule_needs_positive_ends(key):
    """0 would divide by zero, or be jumped to: refused before the run, with what to write instead."""
    with pytest.raises(ConfigError, match="linear"):
        load_config(["algo=dqn", "tuned=none", "algo.epsilon.schedule=exponential", f"algo.epsilon.{key}=0"])
