"""State-dependent exploration, and a policy's other starts, under the contracts that hold for every algorithm.

An algorithm with `algo.sde` is found by its configuration; `STATE_DEPENDENT` holds what it is tested with.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from deeprl_cli.algos.registry import get_algorithm
from tests.contract.harness import (
    ALGORITHMS,
    SEEDS,
    STATE_DEPENDENT,
    Learner,
    act_noise,
    differences,
    make_algorithm,
    state,
)
from tests.contract.test_seed_axis import assert_members_equal_each_alone, assert_together_equals_alone
from tests.contract.test_state import assert_compiled_equals_eager
from tests.contract.test_training import assert_goes_on

NAMES = sorted(STATE_DEPENDENT)


def made(name, seeds=SEEDS):
    return make_algorithm(name, "Box", seeds, STATE_DEPENDENT[name].split())


def acting_obs(algorithm):
    """Observations of as many environments as it trains in."""
    obs = Learner(algorithm).obs()
    return obs[:, : algorithm.config.num_envs].contiguous()


def test_every_algorithm_that_has_it_is_tested():
    having = {n for n in ALGORITHMS if "sde" in {field.name for field in dataclasses.fields(get_algorithm(n).Config)}}
    assert having == set(STATE_DEPENDENT)


@pytest.mark.parametrize("name", NAMES)
def test_together_equals_alone(name):
    assert_together_equals_alone(name, "Box", STATE_DEPENDENT[name].split(), updates=2)


@pytest.mark.parametrize("name", NAMES)
def test_members_with_starts_of_their_own_equal_each_alone(name):
    assert_members_equal_each_alone(name, "Box", STATE_DEPENDENT[name].split())


@pytest.mark.parametrize("name", NAMES)
def test_act_together_equals_alone(name):
    """Three steps with one W and a fourth with another, each seed its own."""
    together = made(name)
    obs = acting_obs(together)
    alone = [made(name, [seed]) for seed in SEEDS]
    noises = [act_noise(together, obs) * scale for scale in (1.0, -2.0, 3.0, 4.0)]
    for noise in noises:
        actions = together.act(obs, noise)
        for index, other in enumerate(alone):
            own = slice(index, index + 1)
            torch.testing.assert_close(actions[own], other.act(obs[own], noise[own]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip_between_two_draws(name):
    """The matrix in use and the steps until the next are part of the state."""
    first, second = made(name), made(name)
    obs = acting_obs(first)
    draws = [act_noise(first, obs) * scale for scale in (1.0, 2.0, -1.0)]
    first.act(obs, draws[0])
    second.load_state_dict(state(first))
    for draw in draws[1:]:
        assert torch.equal(first.act(obs, draw), second.act(obs, draw))
    assert differences(state(first), state(second)) == []


@pytest.mark.parametrize("name", [n if n == "ppo" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_compiled_equals_eager(name):
    assert_compiled_equals_eager(name, "Box", "aot_eager", STATE_DEPENDENT[name].split())


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_on_bit_for_bit(name, tmp_path):
    assert_goes_on(name, ("env=Pendulum-v1", *STATE_DEPENDENT[name].split()), tmp_path)
