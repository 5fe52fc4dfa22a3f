"""Policies' distributions against torch.distributions, and tanh-Gaussian by integration (T13)."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import distributions as td

from deeprl_cli.rl.distributions import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    Bernoulli,
    Categorical,
    Gaussian,
    MultiCategorical,
    PolicyHead,
    SquashedGaussian,
    log_tanh_derivative,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def randn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 2


def test_categorical_is_torchs(generator):
    """Log-probability of every choice, entropy, mode; logits of any offset."""
    logits = randn(generator, 2, 5, 4)
    ours, theirs = Categorical(logits + 100), td.Categorical(logits=logits)
    for choice in range(4):
        action = torch.full((2, 5), choice)
        torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), logits.argmax(-1))


def test_categorical_samples_its_probabilities():
    """Over evenly spread ξ every choice comes as often as its probability says, to one count."""
    p = torch.tensor([0.1, 0.0, 0.25, 0.65], dtype=torch.float64)
    n = 1000
    noise = ((torch.arange(n) + 0.5) / n).double().unsqueeze(-1)
    actions = Categorical(p.clamp_min(1e-300).log().expand(n, 4)).sample(noise)
    counts = torch.bincount(actions, minlength=4)
    assert (counts - p * n).abs().max() <= 1
    assert counts[1] == 0


def test_categorical_at_the_edges_of_the_noise():
    """ξ=0 never gives a choice of probability 0; ξ just below 1 gives one that exists."""
    logits = torch.tensor([[-200.0, 0.0, 0.0]])
    assert Categorical(logits).sample(torch.tensor([[0.0]])).tolist() == [1]
    almost = torch.nextafter(torch.ones(1, 1), torch.zeros(1, 1))
    assert Categorical(logits).sample(almost).tolist() == [2]


def test_multicategorical_is_independent_categoricals(generator):
    """Sizes 3, 2, 4: sums of log-probabilities and entropies, each part sampled by its own noise."""
    logits = randn(generator, 6, 9)
    ours = MultiCategorical(logits, [3, 2, 4])
    parts = [td.Categorical(logits=part) for part in logits.split([3, 2, 4], -1)]
    noise = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    action = ours.sample(noise)
    assert action.shape == (6, 3)
    torch.testing.assert_close(ours.log_prob(action), sum(p.log_prob(action[:, i]) for i, p in enumerate(parts)))
    torch.testing.assert_close(ours.entropy(), sum(p.entropy() for p in parts))
    for i, part in enumerate(logits.split([3, 2, 4], -1)):
        assert torch.equal(action[:, i], Categorical(part).sample(noise[:, i : i + 1]))
        assert torch.equal(ours.mode()[:, i], part.argmax(-1))


def test_bernoulli_is_torchs(generator):
    """Independent yes/no choices, also at logits where the sigmoid rounds to 0 or 1."""
    logits = torch.cat((randn(generator, 50, 3), torch.full((1, 3), 60.0), torch.full((1, 3), -60.0))).double()
    ours, theirs = Bernoulli(logits), td.Bernoulli(logits=logits)
    action = ours.sample(torch.rand(52, 3, generator=generator, dtype=torch.float64))
    assert action.unique().tolist() == [0, 1]
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action.double()).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    assert torch.equal(ours.mode(), (logits > 0).long())


def test_bernoulli_samples_its_probabilities():
    """Over evenly spread ξ, yes comes as often as its probability says."""
    noise = ((torch.arange(1000) + 0.5) / 1000).unsqueeze(-1)
    actions = Bernoulli(torch.tensor([0.3]).logit().expand(1000, 1)).sample(noise)
    assert abs(int(actions.sum()) - 300) <= 1


def test_gaussian_is_torchs(generator):
    """Log-probability and entropy summed over dimensions; a sample is μ + σξ."""
    params = randn(generator, 5, 6)
    mean, log_std = params.chunk(2, -1)
    ours, theirs = Gaussian(params), td.Independent(td.Normal(mean, log_std.exp()), 1)
    noise = randn(generator, 5, 3)
    action = ours.sample(noise)
    torch.testing.assert_close(action, mean + log_std.exp() * noise)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), mean)


def log_density(mean, log_std, u):
    """log π of the squashed action whose pre-activation is `u` `(n,)`, from the class under test."""
    params = torch.tensor([mean, log_std], dtype=torch.float64).expand(len(u), 2)
    noise = ((u - mean) / math.exp(log_std)).unsqueeze(-1)
    action, log_pi = SquashedGaussian(params).rsample(noise)
    torch.testing.assert_close(action.squeeze(-1), u.tanh())
    return log_pi


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-0.4, -0.3)])
def test_tanh_gaussian_integrates_to_one(mean, log_std):
    """∫ p(a) da = 1 over (−1, 1)."""
    edges = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    mass = log_density(mean, log_std, middles.atanh()).exp().sum() * (edges[1] - edges[0])
    assert mass.item() == pytest.approx(1.0, abs=1e-4)


def test_tanh_gaussian_is_a_change_of_variables():
    """p(a) = N(u)·|du/da| with du/da taken numerically, for |u| < 4."""
    u = torch.linspace(-4, 4, 161, dtype=torch.float64)
    h = 1e-5
    slope = ((u + h).tanh() - (u - h).tanh()) / (2 * h)
    normal = td.Normal(torch.tensor(0.5, dtype=torch.float64), math.exp(0.3)).log_prob(u)
    torch.testing.assert_close(log_density(0.5, 0.3, u), normal - slope.log(), rtol=0, atol=1e-6)


def test_tanh_gaussian_sums_over_dimensions(generator):
    """The joint log-probability is torch's transformed distribution's."""
    params = randn(generator, 7, 4) / 4
    mean, log_std = params.chunk(2, -1)
    action, log_pi = SquashedGaussian(params).rsample(randn(generator, 7, 2))
    theirs = td.TransformedDistribution(td.Normal(mean, log_std.exp()), td.TanhTransform(cache_size=1))
    torch.testing.assert_close(log_pi, theirs.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_tanh_correction_far_out():
    """log(1 − tanh² u) at u=10 is −18.6137, in float32 and on both sides, where the difference itself is 0."""
    u = torch.tensor([10.0, -10.0])
    assert log_tanh_derivative(u).tolist() == pytest.approx([-18.6137, -18.6137], abs=1e-4)
    assert log_tanh_derivative(torch.tensor(0.0)).item() == pytest.approx(0.0, abs=1e-7)


def test_tanh_gaussian_bounds_its_deviation():
    """log σ is clamped to [−20, 2]; the reparameterised sample has gradients, the mode none of the noise."""
    params = torch.tensor([[0.3, 50.0], [0.3, -50.0]], requires_grad=True)
    pi = SquashedGaussian(params)
    assert pi.log_std.flatten().tolist() == [LOG_STD_MAX, LOG_STD_MIN] == [2.0, -20.0]
    assert pi.mode().flatten().tolist() == pytest.approx([math.tanh(0.3)] * 2)
    inside = torch.tensor([[0.3, -0.5]], requires_grad=True)
    action, log_pi = SquashedGaussian(inside).rsample(torch.tensor([[0.8]]))
    by_action = torch.autograd.grad(action.sum(), inside, retain_graph=True)[0].squeeze()
    slope = 1 - action.item() ** 2
    assert by_action.tolist() == pytest.approx([slope, slope * 0.8 * math.exp(-0.5)])
    assert torch.autograd.grad(log_pi.sum(), inside)[0].abs().min() > 0


@pytest.mark.parametrize(
    ("space", "size", "noise"),
    [
        (gym.spaces.Discrete(4), 4, (1,)),
        (gym.spaces.MultiDiscrete([3, 2]), 5, (2,)),
        (gym.spaces.MultiBinary(3), 3, (3,)),
        (gym.spaces.Box(-1, 1, (2,)), 2, (2,)),
    ],
)
def test_heads(space, size, noise, generator):
    """For every action space a distribution that samples members of it, with log-probability and entropy (S, B)."""
    head = PolicyHead(space)
    assert (head.size, head.noise.shape) == (size, noise)
    assert head.has_log_std == isinstance(space, gym.spaces.Box)
    pi = head(torch.randn(2, 5, size * (1 + head.has_log_std), generator=generator))
    action = pi.sample(head.noise.draw((2, 5), generator))
    assert action.shape == (2, 5, *space.shape)
    assert pi.log_prob(action).shape == pi.entropy().shape == (2, 5)
    for member in action.flatten(0, 1).numpy():
        assert space.contains(np.clip(member, -1, 1) if head.has_log_std else member.astype(space.dtype))


def test_no_head_for_other_spaces():
    """A space nothing is known for is refused."""
    with pytest.raises(ValueError, match="no policy distribution"):
        PolicyHead(gym.spaces.Text(3))
