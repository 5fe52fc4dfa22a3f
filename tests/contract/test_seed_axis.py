"""S seeds trained together are S separate learners: equal to each alone, and untouched by one that fails."""

from __future__ import annotations

import pytest
import torch

from tests.contract.harness import (
    ALGORITHMS,
    IMITATORS,
    OPTIONS,
    PAIRS,
    SEEDS,
    Learner,
    act_noise,
    assert_close,
    make_algorithm,
    members_apart,
    state,
)


def assert_together_equals_alone(name, action=None, options=(), updates=3):
    together = Learner(make_algorithm(name, action, SEEDS, options))
    metrics = [together.learn() for _ in range(updates)]
    for index, seed in enumerate(SEEDS):
        alone = Learner(make_algorithm(name, action, [seed], options))
        metrics_alone = [alone.learn() for _ in range(updates)]
        assert_close(state(together.algorithm), state(alone.algorithm), 1e-4, seed=index)
        for ours, theirs in zip(metrics, metrics_alone, strict=True):
            assert_close(ours, theirs, 1e-3, seed=index)


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_together_equals_alone(name, action):
    """Weights, moments, target networks and metrics after three updates, every seed on data of its own."""
    assert_together_equals_alone(name, action)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_together_equals_alone_under_every_option(name, option):
    """The same for each alternative value of each option."""
    assert_together_equals_alone(name, options=option.split(), updates=2)


def assert_members_equal_each_alone(name, action=None, options=(), updates=2):
    """Three members that differ in every value in which they may, two of them with one seed and so the same data."""
    members = members_apart(name, options)
    together = Learner(make_algorithm(name, action, options=options, members=members))
    assert together.algorithm.hp.gamma.shape == (3,)
    metrics = [together.learn() for _ in range(updates)]
    flats = [stack.flat for stack in together.algorithm.stacks().values() if stack.flat.requires_grad]
    assert not any(torch.equal(flat[0], flat[1]) for flat in flats), "of one seed, and yet values tell"
    whole, obs = state(together.algorithm), Learner(together.algorithm).obs()
    noise = act_noise(together.algorithm, obs)
    actions = together.algorithm.act(obs, noise)  # once: an exploration with a memory moves
    for index, member in enumerate(members):
        alone = Learner(make_algorithm(name, action, options=options, members=[member]))
        assert alone.algorithm.hp.gamma.shape == (1,)
        metrics_alone = [alone.learn() for _ in range(updates)]
        assert_close(whole, state(alone.algorithm), 1e-4, seed=index)
        for ours, theirs in zip(metrics, metrics_alone, strict=True):
            assert_close(ours, theirs, 1e-3, seed=index)
        own = slice(index, index + 1)
        expected = alone.algorithm.act(obs[own], noise[own])
        torch.testing.assert_close(actions[own], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_members_with_values_of_their_own_equal_each_alone(name, action):
    """Learning rates, discounts, coefficients: whatever may differ, all at once."""
    assert_members_equal_each_alone(name, action)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_members_equal_each_alone_under_every_option(name, option):
    """The same for each alternative value of each option: some values are read under it alone."""
    assert_members_equal_each_alone(name, options=option.split())


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_seeds_learn_different_things(name, action):
    """No seed's weights are another's, at the start or later."""
    learner = Learner(make_algorithm(name, action))
    for _ in range(2):
        for stack in learner.algorithm.stacks().values():
            assert not torch.equal(stack.flat[0], stack.flat[1])
            assert not torch.equal(stack.flat[1], stack.flat[2])
        learner.learn()


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_act_together_equals_alone(name, action):
    """Exploring and greedy actions of three seeds side by side are those of each alone."""
    together = make_algorithm(name, action)
    obs = Learner(together).obs()
    noise = act_noise(together, obs)
    for index, seed in enumerate(SEEDS):
        alone = make_algorithm(name, action, [seed])
        own = slice(index, index + 1)
        assert torch.equal(act_noise(alone, obs[own]), noise[own])
        for draw in (noise, None):
            expected = alone.act(obs[own], None if draw is None else draw[own])
            torch.testing.assert_close(together.act(obs, draw)[own], expected, rtol=1e-4, atol=1e-5)


REWARD, ALL = ("reward",), ("reward", "obs", "next_obs")


@pytest.mark.parametrize(
    ("name", "fields"), [(n, f) for n in ALGORITHMS for f in (REWARD, ALL) if f == ALL or n not in IMITATORS]
)
def test_a_seed_with_nan_data_stands_still(name, fields):
    """NaN in a seed's data: it keeps weights, moments and step counts; the others move as if it had not happened."""
    sick, healthy = Learner(make_algorithm(name)), Learner(make_algorithm(name))
    for learner in (sick, healthy):
        learner.learn()
        learner.learn()
    before = state(sick.algorithm)
    data = sick.data()
    for batch in data:
        for field in fields:
            getattr(batch, field)[1] = torch.nan
    sick.learn(data)
    healthy.learn()
    after, expected = state(sick.algorithm), state(healthy.algorithm)
    for key, value in after.items():
        if not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        for index in (0, 2):
            assert torch.equal(value[index], expected[key][index]), key
        assert value.isfinite().all(), key

    moved = [optimiser for optimiser in sick.algorithm.optimisers() if optimiser.steps[1] > 0]
    assert moved, "the warm-up must have stepped"
    learned = {f"{stack}.flat" for stack, s in sick.algorithm.stacks().items() if s.flat.requires_grad}
    still = [key for key in after if key in learned or key.rpartition(".")[2] in ("steps", "m0", "v0", "log_alpha")]
    assert still
    if "obs" in fields:  # then every gradient is NaN; a NaN reward reaches only what learns from rewards
        for key in still:
            assert torch.equal(after[key][1], before[key][1]), key
    else:
        assert any(torch.equal(after[key][1], before[key][1]) for key in learned)
    skips = sum(optimiser.skipped for optimiser in sick.algorithm.optimisers())
    assert skips[1] > 0
    assert skips[0] == skips[2] == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_seed_recovers_after_nan_data(name):
    """The update after one on NaN data moves the seed's weights again."""
    learner = Learner(make_algorithm(name))
    data = learner.data()
    for batch in data:
        batch.reward[1] = torch.nan
    learner.learn(data)
    before = {key: stack.flat[1].clone() for key, stack in learner.algorithm.stacks().items()}
    learner.learn()
    for key, stack in learner.algorithm.stacks().items():
        if stack.flat.requires_grad:
            assert not torch.equal(stack.flat[1], before[key]), key
