"""PPO's clipping (T15), and that its first minibatch is the plain policy gradient."""

from __future__ import annotations

import pytest
import torch

from deeprl_cli.algorithm import take
from deeprl_cli.rl.objectives import clip_objective
from deeprl_cli.rl.returns import gae
from tests.contract.harness import Learner, make_algorithm

ACTIONS = ["Discrete", "Box", "MultiDiscrete", "MultiBinary"]


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"), [(1.3, 1, 0), (1.3, -1, -1), (0.7, 1, 1), (0.7, -1, 0), (1.0, 1, 1), (1.0, -1, -1)]
)
def test_clip_gradients(ratio, advantage, slope):
    """d objective / dρ at ε=.2: nothing to gain beyond the clip, the way back stays open (T15)."""
    rho = torch.tensor([[ratio]], requires_grad=True)
    objective = clip_objective(rho, torch.tensor([[float(advantage)]]), torch.tensor([[0.2]]))
    assert torch.autograd.grad(objective.sum(), rho)[0].item() == slope


def test_clip_values():
    """min(ρÂ, clip(ρ)Â), by hand."""
    ratio, advantage = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]]), torch.tensor([[2.0, -2.0, 2.0, -2.0, 2.0]])
    expected = [2.4, -3.0, 1.0, -1.6, 2.2]
    assert clip_objective(ratio, advantage, torch.tensor([[0.2]]))[0].tolist() == pytest.approx(expected)


PLAIN = [
    "algo.batch_size=16",
    "algo.epochs=1",
    "algo.optim=sgd",
    "algo.lr=0.5",
    "algo.clip_norm=null",
    "algo.vf_coef=0",
    "algo.ent_coef=0",
    "algo.normalize_advantage=false",
]


@pytest.mark.parametrize("action", ACTIONS)
def test_first_minibatch_is_the_policy_gradient(action):
    """At ρ≡1, Δθ = lr·mean(Â ∇log π(a|s)) with Â from GAE; no KL, nothing clipped (T15)."""
    algorithm = make_algorithm("ppo", action, options=PLAIN)
    learner = Learner(algorithm)
    (rollout,) = learner.data()
    flat = algorithm.model.flat
    obs, actions, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
    with torch.no_grad():
        value, next_value = (
            algorithm.value(x.flatten(1, 2)).unflatten(1, rollout.reward.shape[1:])
            for x in (rollout.obs, rollout.next_obs)
        )
    ended = torch.maximum(rollout.terminated, rollout.truncated)
    c = algorithm.config
    advantage = gae(rollout.reward, value, next_value, rollout.terminated, ended, c.gamma, c.gae_lambda).flatten(1)
    log_pi = algorithm.policy(obs).log_prob(actions)
    objective = (weight * advantage * log_pi).sum(1) / weight.sum(1)
    (slope,) = torch.autograd.grad(objective.sum(), flat)
    before = flat.detach().clone()
    metrics = learner.learn([rollout])
    torch.testing.assert_close(flat - before, 0.5 * slope, rtol=1e-3, atol=1e-7)
    assert metrics["policy/kl"].abs().max() < 1e-6
    assert (metrics["policy/clip_fraction"] == 0).all()
    torch.testing.assert_close(metrics["loss/policy"], -(weight * advantage).sum(1) / weight.sum(1))


def test_value_and_entropy_have_their_signs():
    """With SGD: Δθ = lr·∇(−c_v (V − R̂)² + c_e H), R̂ = Â + V_old fixed."""
    options = [*PLAIN, "algo.vf_coef=0.5", "algo.ent_coef=0.1"]
    algorithm, plain = make_algorithm("ppo", options=options), make_algorithm("ppo", options=PLAIN)
    (rollout,) = Learner(algorithm).data()
    samples, _ = algorithm.gather_experience(rollout)
    count = samples.weight.sum(1)
    fit = (samples.weight * (algorithm.value(samples.obs) - samples.returns).square()).sum(1) / count
    entropy = (samples.weight * algorithm.policy(samples.obs).entropy()).sum(1) / count
    (slope,) = torch.autograd.grad((-0.5 * fit + 0.1 * entropy).sum(), algorithm.model.flat)
    for learner in (Learner(algorithm), Learner(plain)):
        learner.learn([rollout])
    torch.testing.assert_close(algorithm.model.flat - plain.model.flat, 0.5 * slope, rtol=1e-3, atol=1e-6)


def test_old_values_are_taken_once():
    """Old log-probabilities, Â and R̂ come before the first step: several epochs see the same samples."""
    algorithm = make_algorithm("ppo", options=["algo.epochs=3", "algo.batch_size=8"])
    learner = Learner(algorithm)
    seen = []
    step, gather = algorithm.step, algorithm.gather_experience
    algorithm.step = lambda samples, minibatch: seen.append((samples, minibatch)) or step(samples, minibatch)
    gathered = []
    algorithm.gather_experience = lambda rollout: gathered.append(1) or gather(rollout)
    learner.learn()
    assert len(gathered) == 1
    assert len(seen) == 3 * 2
    assert all(samples is seen[0][0] for samples, _ in seen)
    for epoch in range(3):
        order = torch.cat([minibatch for _, minibatch in seen[2 * epoch : 2 * epoch + 2]], 1)
        assert torch.equal(order.sort(1).values, torch.arange(16).expand(3, 16)), "each sample once an epoch"


def test_take_gives_each_seed_its_own():
    """Rows of seed s come from seed s."""
    algorithm = make_algorithm("ppo")
    (rollout,) = Learner(algorithm).data()
    samples, _ = algorithm.gather_experience(rollout)
    index = torch.tensor([[3, 1], [0, 15], [7, 7]])
    taken = take(samples, index)
    for s in range(3):
        for field, ours in zip(samples, taken, strict=True):
            assert torch.equal(ours[s], field[s][index[s]])


def test_target_kl_stops_a_seed_before_the_step_that_would_exceed_it():
    """Of two equal learners the one with a tiny target_kl takes fewer steps, and ends where it stopped."""
    free = Learner(make_algorithm("ppo", options=["algo.epochs=6"]))
    held = Learner(make_algorithm("ppo", options=["algo.epochs=6", "algo.target_kl=2e-6"]))
    after, step = [free.algorithm.model.flat.detach().clone()], free.algorithm.step

    def recorded(samples, minibatch):
        metrics = step(samples, minibatch)
        after.append(free.algorithm.model.flat.detach().clone())
        return metrics

    free.algorithm.step = recorded
    free.learn()
    held.learn()
    assert len(after) == 1 + 12
    steps = held.algorithm.optimiser.steps.int().tolist()
    assert 0 < min(steps) < 12
    for seed, count in enumerate(steps):
        torch.testing.assert_close(held.algorithm.model.flat[seed], after[count][seed])


def test_a_stopped_seed_learns_again_from_the_next_rollout():
    """target_kl holds for one rollout: with none able to go on after its first step, each still takes one a rollout."""
    learner = Learner(make_algorithm("ppo", options=["algo.epochs=3", "algo.target_kl=1e-12"]))
    for rollout in (1, 2, 3):
        before = learner.algorithm.model.flat.detach().clone()
        learner.learn()
        assert learner.algorithm.optimiser.steps.tolist() == [rollout] * 3
        assert (learner.algorithm.model.flat != before).any(1).all()
