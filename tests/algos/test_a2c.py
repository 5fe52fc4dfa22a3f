"""A2C against Algorithm 6's own backward loop (T10), its target network and its two kinds of sub-episodes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from deeprl_cli.algorithm import Transition
from deeprl_cli.algos.a2c import A2C, A2CConfig
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.run import AlgoConfig, EpisodeConfig, RolloutConfig
from tests.contract.harness import Learner, make_algorithm, opened_trainer

DECK = ["algo.optim=sgd", "algo.reduction=sum", "algo.vf_coef=1", "algo.clip_norm=null", "algo.lr=0.01"]


def backward_loop(algorithm, data, v_target):
    """δ_θ − δ_w of Algorithm 6, lines 9–14, for every seed: a step along it ascends in θ and descends in w.

    Every environment's stretch is cut into sub-episodes at its ends; `v_target(obs)` gives V̂_target `(S, n)`.
    """
    flat = algorithm.model.flat
    gamma = algorithm.config.gamma
    seeds, length, envs = data.reward.shape
    values, log_pi = (
        x.unflatten(1, (length, envs))
        for x in (
            algorithm.value(data.obs.flatten(1, 2)),
            algorithm.policy(data.obs.flatten(1, 2)).log_prob(data.action.flatten(1, 2)),
        )
    )
    with torch.no_grad():
        bootstrap = v_target(data.next_obs.flatten(1, 2)).unflatten(1, (length, envs))
    accumulated = torch.zeros_like(flat)
    for s in range(seeds):
        for b in range(envs):
            for i in reversed(range(length)):
                d, u, weight = (x[s, i, b].item() for x in (data.terminated, data.truncated, data.weight))
                if i == length - 1 or d or u:
                    R = (1 - d) * bootstrap[s, i, b].item()  # R ← (1 − d_t)V̂_target(s_t)  # noqa: N806
                R = data.reward[s, i, b].item() + gamma * R  # noqa: N806
                if weight == 0:
                    continue
                delta = R - values[s, i, b]
                (ascent,) = torch.autograd.grad(log_pi[s, i, b] * delta.item(), flat, retain_graph=True)
                (descent,) = torch.autograd.grad(delta.square(), flat, retain_graph=True)
                accumulated += ascent - descent
    return accumulated


def consistent(data):
    """The same data with s_{t+1} the next observation of step t inside episodes, as loops hand it over."""
    ended = torch.maximum(data.terminated, data.truncated)[:, :-1].unsqueeze(-1)
    followed = torch.where(ended > 0, data.next_obs[:, :-1], data.obs[:, 1:])
    return data._replace(next_obs=torch.cat((followed, data.next_obs[:, -1:]), 1))


@pytest.mark.parametrize("subepisodes", ["fixed", "terminal"])
@pytest.mark.parametrize("advantage", ["gae", "nstep", "mc"])
def test_one_step_is_the_decks_backward_loop(subepisodes, advantage):
    """The gradient of one loss, −log π·(R − V) + (R − V)², is what the loop accumulates, terminals in it (T10)."""
    options = [*DECK, f"algo.subepisodes={subepisodes}", f"algo.advantage={advantage}"]
    algorithm = make_algorithm("a2c", options=options)
    learner = Learner(algorithm)
    data = consistent(learner.data()[0])
    assert data.terminated.sum() > 1
    assert data.truncated.sum() > 1
    expected = 0.01 * backward_loop(algorithm, data, algorithm.value)
    before = algorithm.model.flat.detach().clone()
    learner.learn([data])
    torch.testing.assert_close(algorithm.model.flat - before, expected, rtol=1e-3, atol=1e-6)


def test_the_target_network_is_what_sub_episodes_end_in():
    """bootstrap=target: the same loop with V̂_target, which stays as it was while V̂ moves."""
    algorithm = make_algorithm("a2c", options=[*DECK, "algo.bootstrap=target", "algo.target_every=1000000"])
    learner = Learner(algorithm)
    initial = algorithm.model_target.flat.clone()
    learner.learn()
    assert torch.equal(algorithm.model_target.flat, initial)
    assert not torch.equal(algorithm.model.flat, initial)
    data = consistent(learner.data()[0])

    def v_target(obs):
        return algorithm.model_target(obs, part="value")

    expected = 0.01 * backward_loop(algorithm, data, v_target)
    assert not torch.allclose(expected, 0.01 * backward_loop(algorithm, data, algorithm.value), rtol=1e-3)
    before = algorithm.model.flat.detach().clone()
    learner.learn([data])
    torch.testing.assert_close(algorithm.model.flat - before, expected, rtol=1e-3, atol=1e-6)


def test_the_target_is_refreshed_on_time():
    """A copy whenever a multiple of target_every environment steps has passed, for each seed by its own count."""
    algorithm = make_algorithm("a2c", options=["algo.bootstrap=target", "algo.target_every=50"])
    online, target = algorithm.model.flat, algorithm.model_target.flat

    def copied(steps):
        with torch.no_grad():
            online.add_(1.0)
        before = target.clone()
        algorithm.set_progress(steps, 1000)
        same, fresh = (target == before).all(1), (target == online).all(1)
        assert (same ^ fresh).all()
        return fresh.tolist()

    assert copied(0) == [False] * 3
    assert copied(49) == [False] * 3
    assert copied(50) == [True] * 3
    assert copied(99) == [False] * 3
    assert copied(torch.tensor([100, 99, 260])) == [True, False, True]
    assert copied(torch.tensor([149, 100, 299])) == [False, True, False]


@pytest.mark.parametrize("subepisodes", ["fixed", "terminal"])
def test_sub_episodes_accumulate(subepisodes, tmp_path):
    """T_update=2: one update for two stretches of each environment, its gradient the sum of theirs."""
    options = [*DECK, "algo.num_envs=3", "algo.subepisodes_per_update=2", f"algo.subepisodes={subepisodes}"]
    cfg = load_config(["algo=a2c", "tuned=none", "env=CartPole-v1", "eval.episodes=1", "seeds=2", *options])
    with opened_trainer(cfg, tmp_path) as trainer:
        algorithm, seen = trainer.algorithm, []
        step = algorithm.step
        algorithm.step = lambda data: seen.append(Transition(*(x.clone() for x in data))) or step(data)
        trainer.start()
        before = algorithm.model.flat.detach().clone()
        trainer.iterate()
        after = algorithm.model.flat.detach().clone()
    (data,) = seen
    assert data.reward.shape == (2, 5, 6)
    moved = torch.zeros_like(before)
    for half in (slice(0, 3), slice(3, 6)):
        algorithm.model.flat.data.copy_(before)
        step(Transition(*(field[:, :, half] for field in data)))
        moved += algorithm.model.flat.detach() - before
    torch.testing.assert_close(after - before, moved, rtol=1e-3, atol=1e-6)


def test_mean_is_the_sum_over_the_number_of_samples():
    """Of those that count: dummies don't."""
    summed, averaged = (make_algorithm("a2c", options=[*DECK, f"algo.reduction={how}"]) for how in ("sum", "mean"))
    (data,) = Learner(summed).data()
    assert (data.weight == 0).any()
    before = summed.model.flat.detach().clone()
    for algorithm in (summed, averaged):
        Learner(algorithm).learn([data])
    moved, less = (algorithm.model.flat - before for algorithm in (summed, averaged))
    torch.testing.assert_close(less * data.weight.sum((1, 2)).unsqueeze(1), moved, rtol=1e-3, atol=1e-5)


def test_value_and_entropy_have_their_signs():
    """Δ = lr·∇(mean(Â log π) − c_v mean (V − R)² + c_e mean H), one optimiser for both."""
    options = ["algo.optim=sgd", "algo.lr=0.5", "algo.clip_norm=null", "algo.vf_coef=0.25", "algo.ent_coef=0.1"]
    algorithm = make_algorithm("a2c", "Box", options=[*options, "algo.advantage=td"])
    (data,) = Learner(algorithm).data()
    obs, action, weight, reward, terminated = (
        x.flatten(1, 2) for x in (data.obs, data.action, data.weight, data.reward, data.terminated)
    )
    value, pi = algorithm.value(obs), algorithm.policy(obs)
    R = reward + 0.99 * (1 - terminated) * algorithm.value(data.next_obs.flatten(1, 2)).detach()  # noqa: N806
    each = (R - value.detach()) * pi.log_prob(action) - 0.25 * (value - R).square() + 0.1 * pi.entropy()
    (slope,) = torch.autograd.grad(((weight * each).sum(1) / weight.sum(1)).sum(), algorithm.model.flat)
    before = algorithm.model.flat.detach().clone()
    Learner(algorithm).learn([data])
    torch.testing.assert_close(algorithm.model.flat - before, 0.5 * slope, rtol=1e-3, atol=1e-6)


def test_a_seed_without_samples_stands_still():
    """All weights 0 (its share of the run is done): RMSProp's squares and the entropy bonus leave it alone, too."""
    algorithm = make_algorithm("a2c", options=["algo.ent_coef=0.5"])
    learner = Learner(algorithm)
    learner.learn()
    before, squares = algorithm.model.flat[1].clone(), algorithm.optimiser.v0[1].clone()
    (data,) = learner.data()
    data.weight[1] = 0
    learner.learn([data])
    assert torch.equal(algorithm.model.flat[1], before)
    assert torch.equal(algorithm.optimiser.v0[1], squares)
    assert algorithm.optimiser.steps.tolist() == [2, 1, 2]


def test_one_configuration_for_two_loops():
    """A2CConfig is both a RolloutConfig and an EpisodeConfig; `subepisodes` chooses the loop."""
    assert issubclass(A2CConfig, RolloutConfig)
    assert issubclass(A2CConfig, EpisodeConfig)
    names = [field.name for field in dataclasses.fields(A2CConfig)]
    assert len(names) == len(set(names))
    assert set(names) > {field.name for field in dataclasses.fields(AlgoConfig)}
    assert not hasattr(load_config("a2c").algo, "__dict__")
    for subepisodes, loop in (("fixed", "rollout"), ("terminal", "episodes")):
        config = load_config(["algo=a2c", f"algo.subepisodes={subepisodes}", "algo.subepisodes_per_update=3"]).algo
        assert A2C.loop_for(config) == loop
        assert (config.longest, config.episodes_per_env, config.group_size) == (5, 3, 1)


@pytest.mark.parametrize("name", ["a2c", "trpo"])
def test_advantages_of_one_sample_are_not_normalised(name):
    """They would all be zero, and nothing be learned, without a word."""
    one = [f"algo={name}", "tuned=none", "algo.num_envs=1", "algo.rollout_length=1"]
    one += ["algo.batch_size=1"] if name == "trpo" else []
    with pytest.raises(ConfigError, match=r"give algo\.normalize_advantage=false"):
        load_config([*one, "algo.normalize_advantage=true"])
    load_config([*one, "algo.normalize_advantage=false"])
    load_config([*one, "algo.normalize_advantage=true", "algo.subepisodes_per_update=2"])


def test_nstep_without_its_estimator_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.nstep=3 means nothing to algo\.advantage=gae"):
        load_config(["algo=a2c", "algo.nstep=3"])
