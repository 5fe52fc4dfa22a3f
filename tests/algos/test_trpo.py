"""TRPO: its Fisher products against the explicit Hessian, its step against the constraint it promises."""

from __future__ import annotations

import pytest
import torch

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from tests.contract.harness import ACTION_SPACES, OBSERVATION_SPACES, Learner, make_algorithm

ACTIONS = ["Discrete", "Box", "MultiDiscrete", "MultiBinary"]
TINY = ["algo.hidden=[3]", "algo.cg_damping=0"]


def gathered(algorithm):
    """(learner, a rollout, its samples)"""
    learner = Learner(algorithm)
    (rollout,) = learner.data()
    return learner, rollout, algorithm.gather_experience(rollout)[0]


def kl_and_surrogate(algorithm, samples, flat):
    """Mean KL[π_θ ‖ π] and mean ρÂ at parameters `flat`, written out."""
    pi, old = (algorithm.policy(samples.obs, algorithm.actor.views(f)) for f in (flat, algorithm.actor.flat.detach()))
    ratio = (pi.log_prob(samples.action) - old.log_prob(samples.action)).exp()
    count = samples.weight.sum(1)
    return (samples.weight * pi.kl(old)).sum(1) / count, (samples.weight * ratio * samples.advantage).sum(1) / count


@pytest.mark.parametrize("action", ACTIONS)
def test_fisher_products_are_the_hessians(action):
    """Hv for v of each seed equals the explicit Hessian of the mean KL times v; damping adds its share of v."""
    algorithm = make_algorithm("trpo", action, options=TINY)
    _, _, samples = gathered(algorithm)
    flat = algorithm.actor.flat.detach()
    v = torch.randn(flat.shape, generator=torch.Generator().manual_seed(6))
    product = algorithm.fisher(samples, v)
    for seed in range(3):

        def mean_kl(own, seed=seed):
            return kl_and_surrogate(algorithm, samples, torch.cat((flat[:seed], own[None], flat[seed + 1 :])))[0][seed]

        hessian = torch.autograd.functional.hessian(mean_kl, flat[seed])
        torch.testing.assert_close(product[seed], hessian @ v[seed], rtol=1e-3, atol=1e-6)
        assert product[seed].abs().max() > 1e-3
    damped = make_algorithm("trpo", action, options=["algo.hidden=[3]", "algo.cg_damping=0.5"])
    torch.testing.assert_close(damped.fisher(samples, v) - product, 0.5 * v, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("action", ACTIONS)
def test_its_direction_starts_from_the_policy_gradient(action):
    """g = mean Â ∇log π at ρ≡1, Â normalised over the rollout."""
    algorithm = make_algorithm("trpo", action)
    _, _, samples = gathered(algorithm)
    surrogate, g = algorithm.gradient(samples)
    theta = algorithm.actor.flat.detach().clone().requires_grad_()
    log_pi = algorithm.policy(samples.obs, algorithm.actor.views(theta)).log_prob(samples.action)
    expected = (samples.weight * samples.advantage * log_pi).sum(1) / samples.weight.sum(1)
    torch.testing.assert_close(g, torch.autograd.grad(expected.sum(), theta)[0], rtol=1e-3, atol=1e-6)
    count = samples.weight.sum(1)
    assert ((samples.weight * samples.advantage).sum(1) / count).abs().max() < 1e-5
    assert ((samples.weight * samples.advantage.square()).sum(1) / count).tolist() == pytest.approx([1.0] * 3, rel=1e-4)
    torch.testing.assert_close(surrogate, torch.zeros(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("max_kl", [0.01, 0.5])
def test_the_accepted_step_keeps_its_promise(action, max_kl):
    """KL ≤ δ and a better surrogate, recomputed from the parameters before and after; the metrics say the same."""
    algorithm = make_algorithm("trpo", action, options=[f"algo.max_kl={max_kl}", "algo.cg_iterations=10"])
    learner, rollout, samples = gathered(algorithm)
    before = algorithm.actor.flat.detach().clone()
    metrics = learner.learn([rollout])
    after = algorithm.actor.flat.detach().clone()
    with torch.no_grad():
        algorithm.actor.flat.copy_(before)
        kl, surrogate = kl_and_surrogate(algorithm, samples, after)
    assert (metrics["policy/line_search"] > 0).all()
    assert (kl <= max_kl * 1.001).all()
    assert (kl > 0.05 * max_kl).all()
    assert (surrogate > 0).all()
    torch.testing.assert_close(metrics["policy/kl"], kl, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(metrics["loss/policy"], -surrogate, rtol=1e-3, atol=1e-5)


def test_a_full_step_reaches_the_rim():
    """Where KL is as good as quadratic, ½ stepᵀH step = δ is the KL of the step itself."""
    options = ["algo.max_kl=1e-4", "algo.cg_damping=1e-3", "algo.cg_iterations=20", "algo.hidden=[3]"]
    algorithm = make_algorithm("trpo", options=options)
    learner, rollout, _ = gathered(algorithm)
    metrics = learner.learn([rollout])
    assert (metrics["policy/line_search"] >= 0.8).all()
    assert (metrics["policy/kl"] > 0.5e-4).all()


def test_a_seed_that_no_step_suits_stays():
    """Beyond the region at every length: its policy doesn't move, the others' do, and its value learns on."""
    algorithm = make_algorithm("trpo")
    learner, rollout, _ = gathered(algorithm)
    after = algorithm.after

    def too_far(samples, step):
        surrogate, kl, entropy = after(samples, step)
        return surrogate, kl + torch.tensor([0.0, 9.0, 0.0]), entropy

    algorithm.after = too_far
    before = {name: stack.flat.detach().clone() for name, stack in algorithm.stacks().items()}
    metrics = learner.learn([rollout])
    assert (metrics["policy/line_search"] > 0).tolist() == [True, False, True]
    moved = {name: (stack.flat != before[name]).any(1).tolist() for name, stack in algorithm.stacks().items()}
    assert moved == {"actor": [True, False, True], "critic": [True, True, True]}


def test_the_policys_step_comes_before_the_values():
    """Several epochs of every sample once, after one step of the policy."""
    algorithm = make_algorithm("trpo", options=["algo.epochs=3"])
    learner, rollout, _ = gathered(algorithm)
    seen, fit, flats = [], algorithm.fit_value, []
    algorithm.fit_value = lambda targets, minibatch: (
        flats.append(algorithm.actor.flat.clone()) or seen.append(minibatch) or fit(targets, minibatch)
    )
    start = algorithm.actor.flat.detach().clone()
    learner.learn([rollout])
    assert len(seen) == 3 * 2
    assert all(torch.equal(flat, flats[0]) for flat in flats)
    assert not torch.equal(flats[0], start)
    for epoch in range(3):
        order = torch.cat(seen[2 * epoch : 2 * epoch + 2], 1)
        assert torch.equal(order.sort(1).values, torch.arange(16).expand(3, 16))


def test_a_step_from_a_part_of_the_samples():
    """One in four of them, the first epoch's order says which; the critic fits all."""
    algorithm = make_algorithm("trpo", options=["algo.sub_sampling=4"])
    learner, rollout, samples = gathered(algorithm)
    noise = learner.noise.next()
    picked = noise["order"][:, 0, ::4]
    seen = []
    gradient, fit = algorithm.gradient, algorithm.fit_value
    algorithm.gradient = lambda some: seen.append(some.advantage) or gradient(some)
    fitted = []
    algorithm.fit_value = lambda targets, minibatch: fitted.append(minibatch) or fit(targets, minibatch)
    algorithm.update(rollout, noise)
    assert seen[0].shape == (3, samples.advantage.shape[1] // 4)
    assert torch.equal(seen[0], samples.advantage.gather(1, picked))
    assert sorted(torch.cat(fitted[:2], 1)[0].tolist()) == list(range(samples.advantage.shape[1]))


def test_refusals():
    """A shared network, a ratio that shortens nothing."""
    cfg = load_config(["algo=trpo", "tuned=none", "network.share=true"])
    spec = EnvSpec("Test-v0", OBSERVATION_SPACES["vector"], ACTION_SPACES[next(iter(ACTION_SPACES))])
    with pytest.raises(ConfigError, match=r"use network\.share=false"):
        get_algorithm("trpo").check(cfg.algo, cfg.network, spec)
    for ratio in (0, 1):
        with pytest.raises(ConfigError, match=r"algo\.backtrack_ratio=0\.8"):
            load_config(["algo=trpo", f"algo.backtrack_ratio={ratio}"])
