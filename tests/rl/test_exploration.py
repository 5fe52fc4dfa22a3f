"""ε-soft policies (T5), and noise on continuous actions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.exploration import EpsilonConfig, Exploration, ExplorationConfig, epsilon, epsilon_greedy


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


def exploration(kind, *, seeds=1, num_envs=2, size=1, schedule="constant", end=0.0, sigma=0.5, theta=0.15, dt=0.04):
    config = ExplorationConfig(kind=kind, sigma=sigma, sigma_schedule=schedule, sigma_end=end, theta=theta, dt=dt)
    hp = SimpleNamespace(
        **{f"exploration_{name}": getattr(config, name) for name in ("sigma", "sigma_end", "theta", "dt")}
    )
    return Exploration(config, hp, seeds, num_envs, size)


def test_gaussian_noise_by_hand():
    """a + σξ, cut to [−1, 1]; every seed has its own σ."""
    noise = exploration("gaussian", seeds=2)
    noise.sigma.copy_(torch.tensor([0.5, 0.1]))
    action = torch.tensor([[[0.2], [-0.9]], [[0.2], [-0.9]]])
    xi = torch.tensor([[[1.0], [-1.0]], [[1.0], [-2.0]]])
    torch.testing.assert_close(noise(action, xi), torch.tensor([[[0.7], [-1.0]], [[0.3], [-1.0]]]))


def test_none_is_none():
    """Only the bounds remain."""
    assert exploration("none")(torch.tensor([[[0.3], [1.5]]]), torch.ones(1, 2, 1)).tolist() == [
        [[pytest.approx(0.3)], [1.0]]
    ]


def test_ornstein_uhlenbeck_by_hand():
    """θ=.5, dt=.04, σ=.5: x ← .98x + .5·.2·ξ from 0; an ended episode's starts again, the others go on."""
    noise = exploration("ou", theta=0.5)
    zero, xi = torch.zeros(1, 2, 1), torch.tensor([[[1.0], [2.0]]])
    torch.testing.assert_close(noise(zero, xi), torch.tensor([[[0.1], [0.2]]]))
    torch.testing.assert_close(noise(zero, xi), torch.tensor([[[0.198], [0.396]]]))
    noise.episodes_ended(torch.tensor([[False, True]]))
    torch.testing.assert_close(noise(zero, -xi), torch.tensor([[[0.98 * 0.198 - 0.1], [-0.2]]]))
    assert list(noise.state_dict()) == ["sigma", "x"]


def test_ornstein_uhlenbeck_settles():
    """Its spread becomes that of the process: Var x = σ²dt / (1 − (1 − θdt)²); neighbours in time hang together."""
    noise = exploration("ou", num_envs=20_000, sigma=0.1, theta=0.5, dt=0.4)
    generator = torch.Generator().manual_seed(0)
    zero = torch.zeros(1, 20_000, 1)
    xs = torch.stack([noise(zero, torch.randn(zero.shape, generator=generator)).flatten() for _ in range(60)])
    variance = 0.1**2 * 0.4 / (1 - 0.8**2)
    assert xs[-1].var().item() == pytest.approx(variance, rel=0.05)
    assert (xs[-1] * xs[-2]).mean().item() == pytest.approx(0.8 * variance, rel=0.05)
    assert xs[-1].mean().abs() < 5 * (variance / 20_000) ** 0.5


def test_another_batch_has_no_memory():
    """An evaluation with noise, whatever its size, starts at 0 each time and leaves the training's process alone."""
    noise = exploration("ou")
    noise(torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
    before = noise.x.clone()
    for _ in range(2):
        torch.testing.assert_close(noise(torch.zeros(1, 5, 1), torch.ones(1, 5, 1)), torch.full((1, 5, 1), 0.1))
    assert torch.equal(noise.x, before)


def test_sigma_schedule():
    """linear goes from sigma to sigma_end, of each seed by its own progress; constant stays."""
    linear, constant = exploration("gaussian", schedule="linear", end=0.1, seeds=2), exploration("gaussian", end=0.1)
    linear.set_progress(torch.tensor([0.0, 0.5]))
    assert linear.sigma.tolist() == pytest.approx([0.5, 0.3])
    for noise in (linear, constant):
        noise.set_progress(1.0)
    assert linear.sigma.tolist() == pytest.approx([0.1, 0.1])
    assert constant.sigma.tolist() == [0.5]
