"""Soft actor-critic's signs and who learns from what (T3, T14)."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from deeprl_cli.algorithm import EnvSpec
from deeprl_cli.algos.registry import check_algorithm
from deeprl_cli.algos.sac import actor_objective, alpha_objective
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.targets import critic_losses, q_values
from tests.contract.harness import Learner, make_algorithm


def prepared(*options, log_std=0.0, q=0.0):
    """μ=0, log σ constant, both target critics constant q: so that log π and y can be computed by hand."""
    algorithm = make_algorithm("sac", seeds=[0], options=["algo.gamma=0.9", *options])
    with torch.no_grad():
        algorithm.actor.flat.zero_()
        algorithm.actor.views()["head.bias"][0, 2:] = log_std
        algorithm.critic_target.flat.zero_()
        algorithm.critic_target.views()["head.bias"][:] = q
    return algorithm


def one_batch(algorithm):
    (batch, *_) = Learner(algorithm).data()
    return batch


def target(algorithm, batch, alpha):
    xi = torch.full((1, batch.reward.shape[1], 2), 0.5)
    return algorithm.target(batch, xi, torch.tensor([alpha]))


def test_target_falls_when_log_pi_rises():
    """Narrower, log π is higher: y = r + γ(1−d)(q − α log π) falls by γα·Δlog π, where not terminated (T14)."""
    wide, narrow = prepared(log_std=-0.5), prepared(log_std=-2.0)
    batch = one_batch(wide)
    going_on = 1 - batch.terminated
    log_pi = [a.policy(batch.next_obs).rsample(torch.full((1, 8, 2), 0.5))[1] for a in (wide, narrow)]
    assert (log_pi[1] > log_pi[0]).all()
    fall = target(wide, batch, 0.3) - target(narrow, batch, 0.3)
    torch.testing.assert_close(fall, going_on * 0.9 * 0.3 * (log_pi[1] - log_pi[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target(wide, batch, 0.0), target(narrow, batch, 0.0))


def test_target_at_ends():
    """q=2, α=0: y = r + γ·2 in mid-episode and on truncation, r on termination (T3)."""
    algorithm = prepared(q=2.0)
    batch = one_batch(algorithm)
    flags = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    batch = batch._replace(terminated=flags, truncated=flags.roll(1))
    torch.testing.assert_close(target(algorithm, batch, 0.0), batch.reward + 1.8 * (1 - flags))


def test_target_takes_the_smaller_critic():
    """With critics of 2 and −1, y uses −1."""
    algorithm = prepared()
    with torch.no_grad():
        algorithm.critic_target.views()["head.bias"][0, :, 0] = torch.tensor([2.0, -1.0])
    batch = one_batch(algorithm)._replace(terminated=torch.zeros(1, 8))
    torch.testing.assert_close(target(algorithm, batch, 0.0), batch.reward - 0.9)


def test_a_single_critic():
    """critics=1: y and the actor follow that one, with nothing to take the smaller of."""
    algorithm = make_algorithm("sac", seeds=[0], options=["algo.gamma=0.9", "algo.critics=1"])
    assert algorithm.critic.flat.shape[:2] == (1, 1)
    with torch.no_grad():
        algorithm.critic_target.flat.zero_()
        algorithm.critic_target.views()["head.bias"][:] = 2.0
    batch = one_batch(algorithm)._replace(terminated=torch.zeros(1, 8))
    torch.testing.assert_close(target(algorithm, batch, 0.0), batch.reward + 1.8)
    before = [stack.flat.detach().clone() for stack in (algorithm.actor, algorithm.critic)]
    Learner(algorithm).learn()
    assert not torch.equal(algorithm.actor.flat, before[0])
    assert not torch.equal(algorithm.critic.flat, before[1])


@pytest.mark.parametrize(("log_std", "direction"), [(-5.0, 1), (0.0, -1)])
def test_alpha_rises_when_entropy_is_too_low(log_std, direction):
    """Against H̄ = −2: a nearly deterministic policy raises α, a wide one lowers it (T14)."""
    algorithm = prepared(log_std=log_std)
    before = algorithm.log_alpha.item()
    metrics = Learner(algorithm).learn()
    entropy = metrics["policy/entropy"].item()
    assert algorithm.hp.target_entropy == -2
    assert (entropy < -2) == (direction > 0)
    assert (algorithm.log_alpha.item() - before) * direction > 0


def test_a_fixed_alpha_stays():
    """alpha=0.2 is used as it is and never learned; alpha=0 switches the entropy off."""
    algorithm = make_algorithm("sac", options=["algo.alpha=0.2"])
    metrics = Learner(algorithm).learn()
    assert metrics["policy/alpha"].tolist() == pytest.approx([0.2] * 3)
    assert algorithm.log_alpha.exp().tolist() == pytest.approx([0.2] * 3)
    none = Learner(make_algorithm("sac", options=["algo.alpha=0"])).learn()
    assert none["policy/alpha"].tolist() == pytest.approx([0] * 3)


def test_losses_by_hand():
    """The actor gains Q and entropy; α's gradient is H − H̄."""
    y, weight = torch.tensor([[2.0, 4.0]]), torch.ones(1, 2)
    log_pi = torch.tensor([[-1.0, 3.0]])
    assert actor_objective(y, log_pi, torch.tensor([0.5]), weight).tolist() == pytest.approx([3 - 0.5 * 1])
    log_alpha = torch.tensor([0.7], requires_grad=True)
    (slope,) = torch.autograd.grad(alpha_objective(log_alpha, torch.tensor([-3.0]), -2.0).sum(), log_alpha)
    assert slope.tolist() == [-1]


def test_actor_gradient_is_the_chain_rule_and_leaves_the_critic_alone():
    """With SGD: Δθ = lr·∇_θ mean(min Q(s, ã_θ) − α log π), critics fixed; they follow their own loss alone."""
    options = ["algo.optim=sgd", "algo.lr_actor=0.5", "algo.lr_critic=0.25", "algo.alpha=0.2"]
    algorithm = make_algorithm("sac", seeds=[0], options=options)
    learner = Learner(algorithm)
    (batch, *_), noise = learner.data(), learner.noise.next()
    alpha = torch.tensor([0.2])
    theta, w = algorithm.actor.flat, algorithm.critic.flat
    theta_before, w_before = theta.detach().clone(), w.detach().clone()

    y = algorithm.target(batch, noise["next_xi"], alpha)
    loss = critic_losses(q_values(algorithm.critic, batch.obs, batch.action), y, batch.weight)
    (w_slope,) = torch.autograd.grad(loss.sum(), w)
    algorithm.step(batch, noise)
    torch.testing.assert_close(w_before - w, 0.25 * w_slope, rtol=1e-4, atol=1e-7)

    other = make_algorithm("sac", seeds=[0], options=options)  # at θ before, with the critic's new weights
    with torch.no_grad():
        other.critic.flat.copy_(w)
    action, log_pi = other.policy(batch.obs).rsample(noise["xi"])
    gain = actor_objective(q_values(other.critic, batch.obs, action).amin(1), log_pi, alpha, batch.weight)
    (theta_slope,) = torch.autograd.grad(gain.sum(), other.actor.flat)
    torch.testing.assert_close(theta - theta_before, 0.5 * theta_slope, rtol=1e-4, atol=1e-7)


def test_targets_follow_by_polyak():
    """ρ·w_target + (1 − ρ)·w after each step."""
    algorithm = make_algorithm("sac", options=["algo.rho=0.9"])
    learner = Learner(algorithm)
    before = algorithm.critic_target.flat.detach().clone()
    (batch, *_), noise = learner.data(), learner.noise.next()
    algorithm.step(batch, noise)
    torch.testing.assert_close(algorithm.critic_target.flat, 0.9 * before + 0.1 * algorithm.critic.flat)
    assert not torch.equal(algorithm.critic_target.flat, before)


def test_actions_are_inside_the_box():
    """Squashed: also a policy far out in its tails stays within [−1, 1]."""
    algorithm = prepared(log_std=2.0)
    xi = torch.linspace(-6, 6, 1000).view(1, 500, 1, 2)
    action = algorithm.act(torch.zeros(1, 500, 4), xi)
    assert action.abs().max() > 0.99
    assert action.abs().max() <= 1


def test_exploration_goes_on_top_of_the_policys_own_noise():
    """kind=ou: tanh(μ + σξ) of the first row plus a process driven by the second, cut to the box; greedy without."""
    ou = ["algo.exploration.kind=ou", "algo.exploration.sigma=0.5", "algo.exploration.dt=1"]
    plain, noisy = make_algorithm("sac", seeds=[0]), make_algorithm("sac", seeds=[0], options=ou)
    assert plain.noise_spec().act.shape == (1, 2)
    assert noisy.noise_spec().act.shape == (2, 2)
    obs, x = torch.randn(1, 2, 4), torch.zeros(1, 2, 2)
    for _ in range(3):
        xi = torch.randn(1, 2, 2, 2)
        x = 0.85 * x + 0.5 * xi[:, :, 1]
        expected = (plain.act(obs, xi[:, :, :1]) + x).clamp(-1, 1)
        torch.testing.assert_close(noisy.act(obs, xi), expected)
    assert torch.equal(noisy.act(obs, None), plain.act(obs, None))
    noisy.episodes_ended(torch.tensor([[True, False]]))
    assert noisy.exploration.x[0, 0].tolist() == [0, 0]
    assert (noisy.exploration.x[0, 1] != 0).all()
    noisy.set_progress(1, 2)  # sigma's schedule is constant
    assert noisy.exploration.sigma.tolist() == [0.5]


def test_other_action_spaces_are_refused():
    """The refusal names algorithms that fit."""
    cfg = load_config(["algo=sac", "tuned=none"])
    spec = EnvSpec("Test-v0", gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2))
    with pytest.raises(ConfigError, match=r"algo=sac takes Box actions, but Test-v0 has Discrete .*algo=ppo"):
        check_algorithm(cfg.algo, cfg.network, spec)
