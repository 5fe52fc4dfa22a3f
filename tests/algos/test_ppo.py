"""PPO's first minibatch is the plain policy gradient (T15); its minibatches; KL as stop, penalty and in the reward."""

from __future__ import annotations

import pytest
import torch

from deeprl_cli.algorithm import take
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.returns import gae
from tests.contract.harness import Learner, make_algorithm

ACTIONS = ["Discrete", "Box", "MultiDiscrete", "MultiBinary"]


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


@pytest.mark.parametrize("objective", ["clip", "cpi"])
@pytest.mark.parametrize("action", ACTIONS)
def test_first_minibatch_is_the_policy_gradient(action, objective):
    """At ρ≡1, clipped or not, Δθ = lr·mean(Â ∇log π(a|s)) with Â from GAE; no KL, nothing clipped (T15)."""
    algorithm = make_algorithm("ppo", action, options=[*PLAIN, f"algo.objective={objective}"])
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


# --- KL ---------------------------------------------------------------------------------------------------------------


def stop(target, estimator="exact"):
    return ["algo.kl.mode=stop", f"algo.kl.target={target}", f"algo.kl.estimator={estimator}"]


@pytest.mark.parametrize("estimator", ["exact", "k3"])
def test_kl_stops_a_seed_before_the_step_that_would_exceed_it(estimator):
    """Of two equal learners the one with a tiny kl.target takes fewer steps, and ends where it stopped."""
    free = Learner(make_algorithm("ppo", options=["algo.epochs=6"]))
    held = Learner(make_algorithm("ppo", options=["algo.epochs=6", *stop(2e-6, estimator)]))
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
    """A stop holds for one rollout: with none able to go on after its first step, each still takes one a rollout."""
    # a target above the rounding of a KL of nothing, and steps large enough to exceed it at once
    learner = Learner(make_algorithm("ppo", options=["algo.epochs=3", "algo.lr=0.05", *stop(1e-4)]))
    for rollout in (1, 2, 3):
        before = learner.algorithm.model.flat.detach().clone()
        learner.learn()
        assert learner.algorithm.optimiser.steps.tolist() == [rollout] * 3
        assert (learner.algorithm.model.flat != before).any(1).all()


def moved(algorithm):
    """The same weights plus a little noise, so that π' is no longer π."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        algorithm.model.flat.add_(0.3 * torch.randn(algorithm.model.flat.shape, generator=generator))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("ref", ["old", "initial"])
def test_penalty_adds_its_gradient(ref, action):
    """With SGD, against the same step without: Δθ = −lr·β·∇KL[π' ‖ π_ref], π_ref the one that acted or the first."""
    options = [*PLAIN, "algo.kl.mode=penalty", "algo.kl.coef=0.3", f"algo.kl.ref={ref}"]
    with_kl, plain = make_algorithm("ppo", action, options=options), make_algorithm("ppo", action, options=PLAIN)
    first = plain.model.flat.detach().clone()
    (rollout,) = Learner(with_kl).data()
    for algorithm in (with_kl, plain):
        moved(algorithm)
    samples, acted = with_kl.gather_experience(rollout)[0], plain.model.flat.detach().clone()
    plain_samples = plain.gather_experience(rollout)[0]
    for algorithm in (with_kl, plain):
        moved(algorithm)

    theta = with_kl.model.flat.detach().clone().requires_grad_()
    pi = with_kl.policy(samples.obs, with_kl.model.views(theta))
    reference = with_kl.policy(samples.obs, with_kl.model.views(acted if ref == "old" else first))
    kl = (samples.weight * pi.kl(reference)).sum(1) / samples.weight.sum(1)
    (slope,) = torch.autograd.grad(kl.sum(), theta)
    everything = torch.arange(16).expand(3, 16)
    metrics = with_kl.step(samples, everything)
    plain.step(plain_samples, everything)
    torch.testing.assert_close(with_kl.model.flat - plain.model.flat, -0.5 * 0.3 * slope, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(metrics["policy/kl_ref"], kl.detach(), rtol=1e-3, atol=1e-5)
    assert (kl > 0.001).all()


def test_importance_weighted_penalty_weights_by_the_acting_policy():
    """ρ·k3 with ρ = π'/π, at a π' that has moved away from the π that acted."""
    options = [*PLAIN, "algo.kl.mode=penalty", "algo.kl.estimator=k3", "algo.kl.importance_weight=true"]
    algorithm = make_algorithm("ppo", options=options)
    (rollout,) = Learner(algorithm).data()
    samples, _ = algorithm.gather_experience(rollout)
    moved(algorithm)
    with torch.no_grad():
        log_ratio = algorithm.policy(samples.obs).log_prob(samples.action) - samples.log_p
    k3 = torch.exp(-log_ratio) - 1 + log_ratio
    expected = (samples.weight * log_ratio.exp() * k3).sum(1) / samples.weight.sum(1)
    metrics = algorithm.step(samples, torch.arange(16).expand(3, 16))
    torch.testing.assert_close(metrics["policy/kl_ref"], expected, rtol=1e-3, atol=1e-6)


def test_initial_reference_is_the_policy_of_the_start():
    """It stays while the policy learns, and follows weights given before the first update (`init_from`)."""
    algorithm = make_algorithm("ppo", options=["algo.kl.mode=penalty", "algo.kl.ref=initial"])
    moved(algorithm)
    algorithm.set_progress(0, 1000)
    start = algorithm.model.flat.detach().clone()
    learner = Learner(algorithm)
    learner.learn()
    learner.learn()
    assert torch.equal(algorithm.initial.flat, start)
    assert not torch.equal(algorithm.model.flat, start)


def test_kl_in_the_reward():
    """r − β log(π/π_ref) at the actions taken, before Â (deck: "PPO: KL in reward"); R̂ and Â follow."""
    options = ["algo.kl.mode=penalty", "algo.kl.where=reward", "algo.kl.ref=initial", "algo.kl.estimator=k1"]
    algorithm, plain = make_algorithm("ppo", options=[*options, "algo.kl.coef=0.3"]), make_algorithm("ppo")
    first = plain.model.views(plain.model.flat.detach().clone())
    (rollout,) = Learner(algorithm).data()
    for each in (algorithm, plain):
        moved(each)
    obs, actions = rollout.obs.flatten(1, 2), rollout.action.flatten(1, 2)
    with torch.no_grad():
        log_ratio = plain.policy(obs).log_prob(actions) - plain.policy(obs, first).log_prob(actions)
    shaped = rollout._replace(reward=rollout.reward - 0.3 * log_ratio.unflatten(1, rollout.reward.shape[1:]))
    ours, expected = algorithm.gather_experience(rollout)[0], plain.gather_experience(shaped)[0]
    torch.testing.assert_close(ours.advantage, expected.advantage, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.returns, expected.returns, rtol=1e-4, atol=1e-5)
    assert log_ratio.abs().max() > 0.01


@pytest.mark.parametrize(("target", "factor"), [(1e-9, 2.0), (10.0, 0.5)])
def test_adaptive_penalty(target, factor):
    """β doubles each update that moves too far and halves each that hardly moves."""
    options = ["algo.kl.mode=penalty", "algo.kl.adaptive=true", f"algo.kl.target={target}", "algo.kl.coef=0.5"]
    learner = Learner(make_algorithm("ppo", options=options))
    metrics = [learner.learn() for _ in range(2)]
    assert [m["policy/kl_coef"].tolist() for m in metrics] == [[0.5] * 3, [0.5 * factor] * 3]
    assert learner.algorithm.kl_coef.tolist() == [0.5 * factor**2] * 3


# --- minibatches ------------------------------------------------------------------------------------------------------


def test_sampled_minibatches():
    """minibatch=sample: `updates` gradient steps, each on samples drawn anew with replacement, each seed its own."""
    algorithm = make_algorithm("ppo", options=["algo.minibatch=sample", "algo.updates=40", "algo.batch_size=5"])
    learner, seen, step = Learner(algorithm), [], algorithm.step
    algorithm.step = lambda samples, minibatch: seen.append(minibatch) or step(samples, minibatch)
    learner.learn()
    drawn = torch.stack(seen, 1)
    assert drawn.shape == (3, 40, 5)
    assert algorithm.optimiser.steps.tolist() == [40] * 3
    for seed in drawn:
        counts = torch.bincount(seed.flatten(), minlength=16)
        assert len(counts) == 16
        assert (counts > 0).all()
        assert any(len(set(minibatch.tolist())) < 5 for minibatch in seed), "with replacement"
    assert not torch.equal(drawn[0], drawn[1])


def test_sampled_minibatches_are_as_many_as_the_epochs_would_take():
    config = load_config(["algo=ppo", "tuned=none", "algo.minibatch=sample"]).algo
    assert config.steps_per_update == 10 * 2048 // 64
    samples, steps = config.gradient_work(4096)
    assert (samples, steps) == (64, 2 * 320)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["algo.updates=10"], "belongs to algo.minibatch=sample"),
        (["algo.batch_size=100"], "the nearest that does is"),
        (["algo.kl.estimator=k1", "algo.kl.mode=penalty"], "algo.kl.importance_weight=true"),
        (["algo.target_kl=0.01"], "here it is algo.kl.mode=stop algo.kl.target="),
        (["algo.batch_size=1"], "the only sample that algo.batch_size=1 leaves: give algo.normalize_advantage=false"),
    ],
)
def test_refusals(overrides, says):
    with pytest.raises(ConfigError, match=says):
        load_config(["algo=ppo", "tuned=none", *overrides])
    if "algo.batch_size=100" in overrides:  # only whole epochs need minibatches that tile the rollout
        load_config(["algo=ppo", "tuned=none", "algo.minibatch=sample", *overrides])
