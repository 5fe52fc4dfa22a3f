"""What an algorithm is made of: state that can be put back, graphs that compile, actions that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.processes.hardware import GraphCompiler
from deeprl_cli.processes.side_by_side import SideBySide, in_place_of
from tests.contract.harness import (
    ALGORITHMS,
    HORIZON,
    IMITATORS,
    MINIBATCHED,
    OBSERVATION_SPACES,
    PAIRS,
    SEEDS,
    Learner,
    act_noise,
    assert_close,
    differences,
    make_algorithm,
    members_apart,
    perturb,
    state,
)

FINITE_HORIZON = {"grpo"}  # learn from whole episodes' returns: a time limit is an end like any other


@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_state_dict_round_trip_in_mid_training(name, action):
    """A fresh instance given the state of another does the same next update, bit for bit."""
    first, second = Learner(make_algorithm(name, action)), Learner(make_algorithm(name, action))
    for _ in range(2):
        first.learn()
    second.algorithm.load_state_dict(state(first.algorithm))
    second.updates = first.updates
    second.noise.load_state_dict(first.noise.state_dict())
    metrics = [learner.learn() for learner in (first, second)]
    assert differences(*metrics) == []
    assert differences(state(first.algorithm), state(second.algorithm)) == []
    assert differences(state(first.algorithm), state(make_algorithm(name, action))) != []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loaded_weights_explore_as_they_did_in_training(name):
    """Weights hold networks alone; `explore_at` brings what else `act` with noise goes by."""
    learner = Learner(make_algorithm(name))
    learner.algorithm.set_progress(HORIZON // 4, HORIZON)
    obs, other = learner.obs(), make_algorithm(name)
    for index in range(len(SEEDS)):
        other.load_weights(index, learner.algorithm.weights(index))
    other.explore_at(torch.full((len(SEEDS),), 0.25))
    noise = act_noise(other, obs)
    torch.testing.assert_close(other.act(obs, noise), learner.algorithm.act(obs, noise))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_of_one_seed_act_alike_in_another_instance(name):
    """`weights(i)` put into an instance of other seeds gives the same greedy actions."""
    learner = Learner(make_algorithm(name))
    learner.learn()
    other = make_algorithm(name, seeds=[99])
    obs = learner.obs()
    other.load_weights(0, learner.algorithm.weights(1))
    torch.testing.assert_close(other.act(obs[1:2], None), learner.algorithm.act(obs, None)[1:2], rtol=1e-4, atol=1e-5)
    weights = learner.algorithm.weights(1)
    weights.pop(next(iter(weights)))
    with pytest.raises(ValueError, match="lack"):
        other.load_weights(0, weights)


def assert_compiled_equals_eager(name, action, backend, options=(), *, apart=False, in_parts=False):
    torch._dynamo.reset()
    # one small layer, loops of two turns: tracing, which is what takes the time here, gains nothing from more
    options = ["algo.hidden=[8]", *options]
    if name == "trpo":
        options += ["algo.cg_iterations=2", "algo.backtrack_steps=2"]
    members = members_apart(name, options) if apart else ()
    eager, compiled = (Learner(make_algorithm(name, action, options=options, members=members)) for _ in range(2))
    announced = []
    compiler = GraphCompiler(announced.append, backend=backend)
    if in_parts:
        parts = [make_algorithm(name, action, options=options, members=[m]) for m in compiled.algorithm.members]
        for number, part in enumerate(parts):
            in_place_of(part, compiled.algorithm, slice(number, number + 1))
        compiler = SideBySide(compiler, parts, threads=2)
    compiled.algorithm.compile_graphs(compiler)
    counters = torch._dynamo.utils.counters["stats"]
    counters.clear()
    obs = eager.obs()
    noise = act_noise(eager.algorithm, obs)
    graphs = []
    for _ in range(3):
        for learner in (eager, compiled):
            for values in learner.algorithm.hp.buffers():  # inputs of the graph: other numbers compile nothing anew
                values.mul_(0.9)
            learner.learn()
        acted = [learner.algorithm.act(obs, noise) for learner in (eager, compiled)]
        torch.testing.assert_close(*acted, rtol=1e-4, atol=1e-5)
        graphs.append(counters["unique_graphs"])
    assert {word.split()[1] for word in announced if word} == set(get_algorithm(name).graphs)
    assert announced.count(None) == len(get_algorithm(name).graphs)
    assert graphs == [len(get_algorithm(name).graphs)] * 3, "a schedule or a number must not compile anything anew"
    assert_close(state(compiled.algorithm), state(eager.algorithm), 1e-4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_compiled_equals_eager(name):
    """Each graph is one whole graph (fullgraph), compiled once, and computes what eager mode does."""
    assert_compiled_equals_eager(name, None, "aot_eager")


@pytest.mark.parametrize("name", ["dqn", "ppo", "sac"])
def test_compiled_members_equal_eager(name):
    """The same of members with values of their own, which change on the way."""
    assert_compiled_equals_eager(name, None, "aot_eager", apart=True)


@pytest.mark.parametrize(
    "name", [name if name == "td3" else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS]
)
def test_members_that_learn_in_parts_equal_eager(name):
    """The same where each member learns alone, on two threads: one graph for all of them, on views of the whole's
    tensors."""
    assert_compiled_equals_eager(name, None, "aot_eager", apart=True, in_parts=True)


# the heads of MultiDiscrete and MultiBinary are in everyone's graph as in PPO's
OTHER_PAIRS = [
    (name, action)
    for name, action in PAIRS
    if action != get_algorithm(name).action_spaces[0].__name__ and (action in ("Box", "Discrete") or name == "ppo")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "action"), OTHER_PAIRS)
def test_compiled_equals_eager_in_the_other_action_spaces(name, action):
    """The same for further action spaces."""
    assert_compiled_equals_eager(name, action, "aot_eager")


ONE_OF_EACH_LOOP = {get_algorithm(name).loop: name for name in ("bc", "reinforce", "dqn", "a2c")}


def test_each_loop_is_among_them():
    assert ONE_OF_EACH_LOOP.keys() == {get_algorithm(name).loop for name in ALGORITHMS}


@pytest.mark.slow
@pytest.mark.parametrize("loop", ONE_OF_EACH_LOOP)
def test_inductor_equals_eager(loop):
    """The compiler that runs use agrees with eager mode, for one algorithm of each loop."""
    assert_compiled_equals_eager(ONE_OF_EACH_LOOP[loop], None, "inductor")


@pytest.mark.parametrize("obs_kind", OBSERVATION_SPACES)
@pytest.mark.parametrize(("name", "action"), PAIRS)
def test_actions_fit_their_space(name, action, obs_kind):
    """From every kind of observation: greedy actions repeat themselves; all fit the space."""
    algorithm = make_algorithm(name, action, obs=obs_kind)
    space = algorithm.spec.action_space
    obs = Learner(algorithm).obs()
    noise = act_noise(algorithm, obs)
    assert torch.equal(algorithm.act(obs, None), algorithm.act(obs, None))
    assert torch.equal(algorithm.act(obs, noise), algorithm.act(obs, noise))
    for actions in (algorithm.act(obs, None), algorithm.act(obs, noise)):
        assert actions.shape == (len(SEEDS), obs.shape[1], *(space.shape or ()))
        assert not actions.requires_grad
        assert actions.is_floating_point() == isinstance(space, spaces.Box)
        for member in actions.flatten(0, 1).numpy():
            if isinstance(space, spaces.Box):  # unsquashed policies reach beyond; the environment clips
                assert np.isfinite(member).all()
                member = member.clip(space.low, space.high)
            assert space.contains(member.astype(space.dtype) if member.ndim else int(member))


@pytest.mark.parametrize("obs_kind", sorted(set(OBSERVATION_SPACES) - {"vector"}))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_learns_from_every_kind_of_observation(name, obs_kind):
    """An update on choices and on images moves every network and leaves it finite."""
    learner = Learner(make_algorithm(name, obs=obs_kind, seeds=SEEDS[:2]))
    before = {key: stack.flat.clone() for key, stack in learner.algorithm.stacks().items()}
    metrics = learner.learn()
    for key, stack in learner.algorithm.stacks().items():
        assert stack.flat.isfinite().all()
        if stack.flat.requires_grad:
            assert not torch.equal(stack.flat, before[key]), key
    for key, value in metrics.items():
        assert value.shape == (2,), key
        assert not value.requires_grad, key


def after_update(name, where=None, fields=()):
    """State after one update on the usual data, or on data with `fields` changed `where`."""
    learner = Learner(make_algorithm(name))
    data = learner.data()
    learner.learn(data if where is None else perturb(data, where, fields))
    return state(learner.algorithm)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_terminated_means_no_bootstrap(name):
    """What follows a terminal state doesn't matter to an update, not in one bit."""
    assert differences(after_update(name), after_update(name, "terminated", ["next_obs"])) == []


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - FINITE_HORIZON - IMITATORS))
def test_truncated_means_bootstrap(name):
    """The true final observation of a truncated episode does matter."""
    assert differences(after_update(name), after_update(name, "truncated", ["next_obs"])) != []


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if get_algorithm(name).loop not in MINIBATCHED])
def test_dummies_teach_nothing(name):
    """What stands in a transition of weight 0 doesn't matter to an update (T21); in one of weight 1 it does."""
    fields = ["obs", "action", "reward", "next_obs"]
    assert differences(after_update(name), after_update(name, "dummy", fields)) == []
    assert differences(after_update(name), after_update(name, "truncated", fields)) != []
