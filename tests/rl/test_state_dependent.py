"""Generalised state-dependent exploration against numbers worked by hand and closed forms (Raffin et al. 2021)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from deeprl_cli.algos.registry import check_algorithm, get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.modules import (
    Flatten,
    Network,
    PolicyNetwork,
    PolicyStart,
    SquashedPolicyNetwork,
    state_dependent_log_std,
)
from deeprl_cli.rl.distributions import Gaussian, StateDependentGaussian
from deeprl_cli.rl.exploration import StateDependentNoise

PHI = torch.tensor([[1.0, 2.0], [0.0, -3.0]])  # (B, F)
SIGMA = torch.tensor([[0.5], [0.25]])  # (F, A)
BOX = EnvSpec("Test-v0", spaces.Box(-np.inf, np.inf, (4,)), spaces.Box(-1.0, 1.0, (2,)))


def test_the_variance_is_that_of_a_weighted_sum():
    """φ² σ²: 1·0.25 + 4·0.0625 = 0.5, and 9·0.0625 = 0.5625."""
    variance = (2 * state_dependent_log_std(PHI, SIGMA.log())).exp()
    torch.testing.assert_close(variance, torch.tensor([[0.5], [0.5625]]) + 1e-6)


def test_noise_is_a_matrix_times_features():
    """W = σ ⊙ ξ, ξ = (2, -4): W = (1, -1); φᵀW = 1 - 2 = -1, and 3."""
    noise = StateDependentNoise(1, 2, (2, 1), None)
    xi = torch.tensor([2.0, -4.0]).view(1, 1, 2, 1).expand(1, 2, 2, 1)
    got = noise(PHI.unsqueeze(0), SIGMA.log().unsqueeze(0), xi)
    torch.testing.assert_close(got, torch.tensor([[[-1.0], [3.0]]]))


@pytest.mark.parametrize(("every", "fresh"), [(None, [0, 4]), (3, [0, 3, 4]), (1, [0, 1, 2, 3, 4, 5])])
def test_a_matrix_stays_until_another_is_due(every, fresh):
    """Drawn for the first step of a rollout and every so many steps; four steps, an update, two more."""
    noise = StateDependentNoise(1, 1, (1, 1), every)
    one, used, last = torch.ones(1, 1, 1), [], None
    for step in range(6):
        if step == 4:
            noise.begin()
        value = float(noise(one, torch.zeros(1, 1, 1), torch.full((1, 1, 1, 1), float(step))))
        if value != last:
            used.append(step)
        last = value
    assert used == fresh


def test_matrices_are_each_environments_own_and_an_evaluation_moves_none():
    noise = StateDependentNoise(1, 2, (1, 1), None)
    xi = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    sigma = torch.zeros(1, 1, 1)
    assert noise(torch.ones(1, 2, 1), sigma, xi).flatten().tolist() == [1.0, 2.0]
    assert noise(torch.ones(1, 3, 1), sigma, torch.full((1, 3, 1, 1), 9.0)).flatten().tolist() == [9.0] * 3
    assert noise(torch.ones(1, 2, 1), sigma, -xi).flatten().tolist() == [1.0, 2.0]


def policy(**start):
    torch.manual_seed(0)
    return PolicyNetwork(
        lambda out, head_gain: Network(Flatten((4,), 1.0), 0, [3], out, "tanh"),
        2,
        log_std=True,
        start=PolicyStart(**start),
    )


def test_the_policys_density_is_that_of_its_noise():
    """Over many W, actions have the mean and the standard deviation that log π is computed from."""
    network, obs = policy(sde=True, log_std=-0.5), torch.tensor([[0.3, -1.0, 0.5, 2.0]])
    pi = Gaussian(network(obs))
    mean, features = network(obs, "explore").tensor_split([2], -1)
    xi = torch.randn(200_000, 3, 2, generator=torch.Generator().manual_seed(1))
    actions = mean + (features.unsqueeze(-1) * network.log_std.exp() * xi).sum(-2)
    torch.testing.assert_close(actions.mean(0), pi.mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(actions.std(0), pi.log_std[0].exp(), atol=0.01, rtol=0)
    expected = torch.distributions.Normal(pi.mean, pi.log_std.exp()).log_prob(actions[:5]).sum(-1)
    torch.testing.assert_close(pi.log_prob(actions[:5]), expected)


def test_features_learn_from_the_mean_alone():
    """SB3's rule for on-policy algorithms: no gradient reaches φ through σ; log σ has its own."""
    network, obs = policy(sde=True), torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(
        Gaussian(network(obs)).entropy().sum(), list(network.parameters()), allow_unused=True
    )
    reached = {
        name for (name, _), g in zip(network.named_parameters(), gradients, strict=True) if g is not None and g.any()
    }
    assert reached == {"log_std"}


def test_starts():
    assert policy(log_std=-2.0).log_std.tolist() == [-2.0, -2.0]
    assert policy(log_std=-2.0, sde=True).log_std.shape == (3, 2)
    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    torch.testing.assert_close(policy(orthogonal=False).actor.layers[0].weight, plain.weight)


@pytest.mark.parametrize("name", ["ppo", "a2c", "trpo"])
def test_algorithms_start_as_they_are_told(name):
    cfg = load_config([f"algo={name}", "tuned=none", "algo.log_std_init=-1.5", "algo.orthogonal=false"])
    algorithm = get_algorithm(name)(cfg.algo, cfg.network, BOX, [0])
    network = algorithm.model if algorithm.joint else algorithm.actor
    assert (network.views()["log_std"] == -1.5).all()
    head = network.views()["actor.head.weight"][0]
    assert head.abs().max() > 0.05  # torch's; orthogonal ones of gain 0.01 are far smaller
    critic = network.views()["critic.head.weight"] if algorithm.joint else algorithm.critic.views()["head.weight"]
    assert not torch.isclose(critic.norm(), torch.tensor(1.0), atol=1e-4)


def test_squashed_log_probability():
    """A = F = 1, φ = 2, σ = 0.5, ξ = 1: u = 0.1 + 1; log N(u) at one standard deviation, less log(1 - tanh² u)."""
    s = math.log(math.sqrt(4 * 0.25 + 1e-6))
    params = torch.tensor([[0.1, s, 2.0]])
    action, log_p = StateDependentGaussian(params, torch.tensor([[0.5]]).log()).rsample(torch.ones(1, 1))
    assert action.item() == pytest.approx(math.tanh(1.1), abs=1e-6)
    expected = -0.5 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(1.1) ** 2)
    assert log_p.item() == pytest.approx(expected, abs=1e-5)


def test_one_matrix_for_a_whole_minibatch():
    """SAC's: equal states get equal noise, and gradients reach σ, the features, and the layers below through it."""
    torch.manual_seed(0)
    network = SquashedPolicyNetwork(lambda out: Network(Flatten((4,), 1.0), 0, [3], out, "relu"), 2, -1.0, 2.0)
    obs = torch.randn(1, 4).expand(6, 4)
    pi = StateDependentGaussian(network(obs), network.log_std)
    action, log_p = pi.rsample(torch.randn(3, 2))
    assert torch.equal(action, action[:1].expand_as(action))
    gradients = torch.autograd.grad((action.sum() + log_p.sum()), list(network.parameters()))
    assert all(g.any() for g in gradients)


def test_means_stay_where_tanh_is_not_flat():
    network = SquashedPolicyNetwork(lambda out: Network(Flatten((1,), 1.0), 0, [], out, "relu"), 1, -3.0, 2.0)
    means = network(torch.tensor([[-1e4], [1e4]]))[:, 0]
    assert sorted(means.tolist()) == [-2.0, 2.0]


@pytest.mark.parametrize(
    ("overrides", "spec", "says"),
    [
        (["algo=ppo"], EnvSpec("T-v0", BOX.observation_space, spaces.Discrete(2)), "T-v0 has Discrete ones"),
        (
            ["algo=ppo", "network=tabular"],
            EnvSpec("T-v0", spaces.Discrete(3), BOX.action_space),
            "network=tabular has none",
        ),
        (["algo=sac", "network=linear", "network.features=identity"], BOX, None),
    ],
)
def test_where_it_means_nothing(overrides, spec, says):
    cfg = load_config([*overrides, "tuned=none", "algo.sde.enabled=true"])
    if says is None:
        check_algorithm(cfg.algo, cfg.network, spec)
        return
    with pytest.raises(ConfigError, match=says):
        check_algorithm(cfg.algo, cfg.network, spec)
