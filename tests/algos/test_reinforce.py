"""REINFORCE against numbers worked by hand on look-up tables (T7), its baselines, tails and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from deeprl_cli.algorithm import Transition
from deeprl_cli.algos.reinforce import Reinforce
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.returns import normalise
from tests.contract.harness import Learner, make_algorithm

SPEC = EnvSpec("Test-v0", spaces.Discrete(3), spaces.Discrete(2))
LITERAL = {
    "num_envs": 1,
    "episodes_per_update": 1,
    "update": "per_step",
    "gamma": 0.5,
    "gamma_t": "true",
    "optim": "sgd",
    "lr_actor": 0.2,
    "lr_critic": 0.1,
    "reduction": "sum",
    "normalize_advantage": "false",
    "tail": "zero",
}


def make(seeds=(0,), **options):
    """Look-up tables, all zeros at first: π is uniform and V̂ = 0."""
    chosen = [f"algo.{key}={value}" for key, value in {**LITERAL, **options}.items()]
    cfg = load_config(["algo=reinforce", "tuned=none", "network=tabular", *chosen])
    return Reinforce(cfg.algo, cfg.network, SPEC, list(seeds))


def episode(rewards=(1, 2, 4), states=(0, 1, 0, 2), actions=(1, 0, 1), length=16, truncated=False):
    """One episode, padded to `length`, as `(1, length, 1)`; behind its end stands what must not matter."""
    count = len(rewards)
    obs, action, reward = (
        torch.ones(length, dtype=torch.int64),
        torch.ones(length, dtype=torch.int64),
        torch.ones(length),
    )
    next_obs, weight, end = obs.clone(), torch.zeros(length), torch.zeros(length)
    obs[:count], next_obs[:count] = torch.tensor(states[:count]), torch.tensor(states[1 : count + 1])
    action[:count], reward[:count] = torch.tensor(actions[:count]), torch.tensor(rewards, dtype=torch.float32)
    weight[:count], end[count - 1] = 1, 1
    none = torch.zeros(length)
    ends = (none, end) if truncated else (end, none)
    return Transition(*(x.view(1, length, 1) for x in (obs, action, reward, next_obs, *ends, weight)))


def tables(algorithm, seed=0):
    """V̂(s) of the three states, and how much more each prefers action 1 to 0, halved: the logits are (−x, x)."""
    (theta,), (w,) = algorithm.actor.views().values(), algorithm.critic.views().values()
    torch.testing.assert_close(theta[seed, :, 0], -theta[seed, :, 1])
    return w[seed, :, 0].tolist(), theta[seed, :, 1].tolist()


# Returns R = (3, 4, 4) with γ = .5. State 0 is met at t=0 and t=2, so updates inside the episode differ from one behind
# it: there V̂(0) is .3 and π(0, 1) = σ(.6) = .6456563 by t=2.
BY_HAND = {
    ("per_step", "true"): ([0.3 + 0.37, 0.4, 0], [0.3 + 0.2 * 0.25 * 3.7 * 0.3543437, -0.2, 0]),
    ("per_step", "false"): ([0.3 + 0.37, 0.4, 0], [0.3 + 0.2 * 3.7 * 0.3543437, -0.4, 0]),
    ("episode", "true"): ([0.7, 0.4, 0], [0.2 * (3 + 0.25 * 4) / 2, -0.2, 0]),
    ("episode", "false"): ([0.7, 0.4, 0], [0.2 * (3 + 4) / 2, -0.4, 0]),
}


@pytest.mark.parametrize(("update", "gamma_t"), BY_HAND)
def test_three_steps_by_hand(update, gamma_t):
    """Every step counts, t=0 too; γ^t on and off; moving inside the episode is not moving behind it (T7)."""
    algorithm = make(update=update, gamma_t=gamma_t)
    algorithm.update(episode(), {})
    value, preference = tables(algorithm)
    assert value == pytest.approx(BY_HAND[update, gamma_t][0])
    assert preference == pytest.approx(BY_HAND[update, gamma_t][1])


def test_mean_and_mse():
    """reduction=mean divides by the three samples, loss=mse doubles the step of w."""
    algorithm = make(update="episode", reduction="mean", loss="mse")
    algorithm.update(episode(), {})
    value, preference = tables(algorithm)
    assert value == pytest.approx([2 * 0.7 / 3, 2 * 0.4 / 3, 0])
    assert preference == pytest.approx([0.4 / 3, -0.2 / 3, 0])


@pytest.mark.parametrize(
    ("tail", "truncated", "last"), [("zero", True, 4), ("bootstrap", True, 5), ("bootstrap", False, 4)]
)
def test_tails(tail, truncated, last):
    """V̂(s_T) = 2 is added to a truncated episode's return only, and only where asked: R = last·(.25, .5, 1) + …"""
    algorithm = make(update="episode", tail=tail)
    (w,) = algorithm.critic.views().values()
    w.data[0, 2, 0] = 2.0
    returns = algorithm.gather(episode(truncated=truncated)).returns[0, :3, 0]
    assert returns.tolist() == pytest.approx([1 + 0.5 * (2 + 0.5 * last), 2 + 0.5 * last, last])


@pytest.mark.parametrize(
    ("baseline", "delta"), [("value", (2, 4, 3)), ("mean", (-2 / 3, 1 / 3, 1 / 3)), ("none", (3, 4, 4))]
)
def test_baselines(baseline, delta):
    """δ = R − V̂(s) with V̂(0) = 1; R less its mean; R alone. V̂ itself learns from R − V̂ in any case."""
    algorithm = make(update="episode", gamma_t="false", baseline=baseline)
    (w,) = algorithm.critic.views().values()
    w.data[0, 0, 0] = 1.0
    algorithm.update(episode(), {})
    value, preference = tables(algorithm)
    assert preference == pytest.approx([0.2 * (delta[0] + delta[2]) / 2, -0.2 * delta[1] / 2, 0], abs=1e-6)
    assert value == pytest.approx([1 + 0.1 * (2 + 3), 0.4, 0])


@pytest.mark.parametrize("update", ["episode", "per_step"])
def test_padding_does_not_matter(update):
    """An episode padded to 16 steps teaches what it does padded to 64, or not at all."""
    results = []
    for length in (3, 16, 64):
        algorithm = make(update=update)
        for _ in range(2):
            algorithm.update(episode(length=length), {})
        results.append(torch.cat((algorithm.actor.flat, algorithm.critic.flat), 1))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_per_step_a_seed_stops_at_its_own_end():
    """Of two seeds, one with three steps and one with a single one: three updates and one, Adam's moments included."""
    pair = [episode(), episode(rewards=(1,), states=(0, 2), actions=(1,))]
    together = make(seeds=(0, 1), optim="adam")
    together.update(Transition(*(torch.cat(field) for field in zip(*pair, strict=True))), {})
    assert together.actor_optimiser.steps.tolist() == together.critic_optimiser.steps.tolist() == [3, 1]
    for seed in (0, 1):
        alone = make(seeds=(seed,), optim="adam")
        alone.update(pair[seed], {})
        assert tables(together, seed) == tables(alone)


def test_nothing_behind_the_longest_episode_is_looked_at():
    """per_step: as many steps as the longest episode has, not as many as the padding."""
    algorithm = make()
    seen = []
    step = algorithm.step
    algorithm.step = lambda samples: seen.append(samples.weight.sum().item()) or step(samples)
    algorithm.update(episode(), {})
    assert seen == [1, 1, 1]


def test_a_finished_seed_stands_still():
    """All weights 0: no parameter, moment or count moves, in either mode."""
    for update in ("episode", "per_step"):
        algorithm = make(seeds=(0, 1), update=update, optim="adam", ent_coef=0.5)
        data = episode()
        both = Transition(*(torch.cat((field, field)) for field in data))
        both.weight[1] = 0
        algorithm.update(both, {})
        assert tables(algorithm, 1) == ([0, 0, 0], [0, 0, 0])
        assert algorithm.actor_optimiser.steps[1] == algorithm.critic_optimiser.steps[1] == 0
        assert tables(algorithm, 0) != ([0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("action", ["Discrete", "Box", "MultiDiscrete", "MultiBinary"])
def test_the_step_is_the_policy_gradient(action):
    """Δθ = α·mean(γ^t·δ̂·∇ln π) + c_e·∇mean H, δ̂ normalised over what counts: by autograd, for every action space."""
    options = ["algo.optim=sgd", "algo.lr_actor=0.5", "algo.gamma_t=true", "algo.ent_coef=0.1"]
    algorithm = make_algorithm("reinforce", action, options=options)
    learner = Learner(algorithm)
    (data,) = learner.data()
    samples = algorithm.gather(data)
    obs, actions, returns, weight = (x.flatten(1, 2) for x in (data.obs, data.action, samples.returns, data.weight))
    t = np.arange(data.reward.shape[1])
    discount = torch.from_numpy(0.99**t).float().view(1, -1, 1).expand_as(data.reward).flatten(1)
    delta = normalise(returns - algorithm.value(obs).detach(), weight)
    pi = algorithm.policy(obs)
    objective = (weight * (discount * delta * pi.log_prob(actions) + 0.1 * pi.entropy())).sum(1) / weight.sum(1)
    (slope,) = torch.autograd.grad(objective.sum(), algorithm.actor.flat)
    before = algorithm.actor.flat.detach().clone()
    learner.learn([data])
    torch.testing.assert_close(algorithm.actor.flat - before, 0.5 * slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algo.num_envs=3"], r"algo\.num_envs=3 doesn't divide algo\.episodes_per_update=4: give .*update=3"),
        (["algo.num_envs=8"], r"give algo\.episodes_per_update=8"),
        (["algo.update=per_step"], r"give algo\.normalize_advantage=false"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(["algo=reinforce", "tuned=none", *overrides])


@pytest.mark.parametrize("name", ["reinforce", "actor_critic"])
def test_a_shared_trunk_is_refused(name):
    """Two learning rates for one trunk make no sense."""
    with pytest.raises(ConfigError, match=r"use network\.share=false, or algo=a2c"):
        make_algorithm(name, options=["network.share=true"])
