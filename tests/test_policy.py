"""The normalisers around an algorithm: what they have seen, who moves them, and that they go with the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import env_spec
from deeprl_cli.policy import Policy, make_policy
from tests.contract.harness import ALGORITHMS, IMITATORS, batches, make_algorithm, opened_trainer, small, training_env

NORMALISED = ["algo.normalize_obs=true", "algo.normalize_reward=true"]


def training(name, tmp_path):
    cfg = load_config([*small(name), f"env={training_env(name)}", "seeds=2", "eval.episodes=2", *NORMALISED])
    return opened_trainer(cfg, tmp_path)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - IMITATORS))
def test_statistics_are_of_every_observation_acted_on(name, tmp_path):
    """Mean, variance and count per seed, of training's observations alone: an evaluation moves nothing."""
    with training(name, tmp_path) as trainer:
        trainer.start()
        acted_on, step = ([], []), trainer.env_step

        def recorded(actions, running=None):
            moves = np.ones(len(trainer.obs), bool) if running is None else running
            for seed, obs, steps in zip(acted_on, np.split(trainer.obs, 2), np.split(moves, 2), strict=True):
                seed.append(obs[steps])
            return step(actions) if running is None else step(actions, running)

        trainer.env_step = recorded
        while trainer.steps < 96:
            trainer.iterate()
        statistics = trainer.policy.obs_statistics
        for s in range(2):
            every = np.concatenate(acted_on[s]).astype(np.float64)
            assert statistics.count[s] == len(every)
            np.testing.assert_allclose(statistics.mean[s], every.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(statistics.var[s], every.var(0), rtol=1e-3, atol=1e-5)
        before = {key: value.clone() for key, value in trainer.policy.named_buffers()}
        trainer.evaluate()
        for key, value in trainer.policy.named_buffers():
            assert torch.equal(value, before[key]), key


def policies(num=2):
    """Policies of the same algorithm (two seeds), with statistics that differ from seed to seed."""
    made = []
    for _ in range(num):
        policy = Policy(make_algorithm("ppo", "Box", [0, 1], NORMALISED), num_envs=3)
        policy.obs_statistics.mean.copy_(torch.tensor([[1.0] * 4, [-2.0] * 4]))
        policy.obs_statistics.var.copy_(torch.tensor([[4.0] * 4, [0.25] * 4]))
        made.append(policy)
    return made


def test_acts_on_normalised_observations():
    """Raw observations in, seed-major; the algorithm sees (x − mean)/√var of its own seed; actions (N, *action) out."""
    (policy,) = policies(1)
    raw = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    x = torch.from_numpy(raw).view(2, 3, 4)
    x = (x - torch.tensor([1.0, -2.0]).view(2, 1, 1)) / torch.tensor([2.0, 0.5]).view(2, 1, 1)
    expected = policy.algorithm.act(x, None).flatten(0, 1)
    actions = policy.act(raw, None)
    assert actions.shape == (6, 2)
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(policy.act(raw, None, evaluating=True), actions)


@pytest.mark.parametrize("count", [1, 4, 6, 8])
def test_evaluation_acts_in_batches_of_one_size(count):
    """One size is compiled for it, of whatever layout; fewer or more environments take as many batches as they need."""
    (policy,) = policies(1)
    raw = np.random.default_rng(0).standard_normal((2 * count, 4)).astype(np.float32)
    expected, layouts = policy.act(raw, None), set()

    def compiled(name, method):
        def graph(obs, noise):
            layouts.add((obs.shape, obs.stride()))
            return method(obs, noise)

        return graph

    policy.algorithm.compile_graphs(compiled)
    np.testing.assert_array_equal(policy.act(raw, None, evaluating=True), expected)
    assert layouts == set()
    policy.algorithm.evaluated = 4
    np.testing.assert_allclose(policy.act(raw, None, evaluating=True), expected, rtol=1e-5, atol=1e-6)
    assert layouts == {((2, 4, 4), (16, 4, 1))}


def test_data_are_normalised_by_their_own_seed():
    """obs, next_obs and reward of seed s by the statistics of seed s; flags stay."""
    (policy,) = policies(1)
    policy.reward_scaler.statistics.var.copy_(torch.tensor([4.0, 0.25]))
    (data,) = batches(policy.algorithm, 0)
    result = policy.normalise(data)
    mean, std = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1), torch.tensor([2.0, 0.5]).view(2, 1, 1, 1)
    for field in ("obs", "next_obs"):
        torch.testing.assert_close(getattr(result, field), (getattr(data, field) - mean) / std)
    torch.testing.assert_close(result.reward, data.reward / std.squeeze(-1))
    for field in ("action", "terminated", "truncated", "weight"):
        assert torch.equal(getattr(result, field), getattr(data, field))


def test_weights_carry_the_statistics():
    """One seed's weights put into another policy bring its observation statistics, and no other seed's."""
    source, target = policies()
    with torch.no_grad():
        source.obs_statistics.mean[1] = 7.0
        source.obs_statistics.count[1] = 50.0
    target.load_weights(0, source.weights(1))
    assert target.obs_statistics.mean[0].tolist() == [7.0] * 4
    assert target.obs_statistics.var[0].tolist() == [0.25] * 4
    assert target.obs_statistics.count.tolist() == [50, 0]
    assert target.obs_statistics.mean[1].tolist() == [-2.0] * 4


@pytest.mark.parametrize("obs", ["discrete", "image"])
def test_choices_and_bytes_are_not_normalised(obs):
    """normalize_obs is for vectors: a one-hot choice or a picture has a scale of its own."""
    policy = Policy(make_algorithm("ppo", options=NORMALISED, obs=obs), num_envs=2)
    assert policy.obs_statistics is None


@pytest.mark.parametrize("threads", [1, 2])
def test_initial_weights_do_not_depend_on_what_ran_before(threads):
    """A run before this one in the process leaves torch's number of threads behind, and the decomposition behind
    orthogonal weights rounds otherwise on two: `deeprl train -m` then gave other numbers than its runs alone."""
    cfg = load_config("algo=ppo env=CartPole-v1")
    spec, before = env_spec(cfg.env), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = make_policy(cfg, spec).weights(0)
        assert torch.get_num_threads() == threads
        torch.set_num_threads(3 - threads)
        again = make_policy(cfg, spec).weights(0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[name], again[name]) for name in found)
