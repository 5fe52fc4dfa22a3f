"""Tables and linear features under the real algorithms (T1, T2 of the specification), and what is refused."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.algorithm import Algorithm, EnvSpec, Transition
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from tests.contract.harness import Learner, differences, make_algorithm, state

SGD = [
    "algo.optim=sgd",
    "algo.lr=0.1",
    "algo.clip_norm=null",
    "algo.loss=half_mse",
    "algo.gamma=0.9",
]
STATES, ACTIONS = 5, 3  # of the harness's discrete observations and actions
MOUNTAIN_CAR = gym.spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32))


def dqn(network: str, *options: str, seeds: tuple[int, ...] = (0,)) -> Algorithm:
    return make_algorithm("dqn", seeds=seeds, options=[*SGD, *network.split(), *options], obs="discrete")


def on_mountain_car(features: str, *options: str, seeds: tuple[int, ...] = (0,)) -> Algorithm:
    cfg = load_config(
        [
            "algo=dqn",
            "tuned=none",
            *SGD,
            "algo.batch_size=8",
            "network=linear",
            f"network.features={features}",
            *options,
        ]
    )
    spec = EnvSpec("Test-v0", MOUNTAIN_CAR, gym.spaces.Discrete(ACTIONS))
    return get_algorithm("dqn")(cfg.algo, cfg.network, spec, list(seeds))


def transition(obs, action, next_obs, reward=1.0) -> Transition:
    """One seed, one transition."""
    rewards, zero, one = (torch.tensor([[x]]) for x in (reward, 0.0, 1.0))
    return Transition(
        torch.tensor([[obs]]), torch.tensor([[action]]), rewards, torch.tensor([[next_obs]]), zero, zero, one
    )


@pytest.mark.parametrize(("loss", "expected"), [("half_mse", 0.28), ("mse", 0.56)])
def test_one_entry_moves(loss, expected):
    """T1: SGD .1, r=1, γ=.9, max Q'=2: y = 2.8, and ΔQ(s, a) = .28 (mse .56), of the whole table that one entry."""
    algorithm = dqn("network=tabular", f"algo.loss={loss}")
    with torch.no_grad():
        algorithm.q_target.views()["table"][0, 4, 1] = 2.0
        algorithm.q_target.views()["table"][0, 4, 0] = 1.0
    metrics = algorithm.step(transition(3, 2, 4), {})
    assert metrics["q/target_mean"].tolist() == pytest.approx([2.8])
    table = algorithm.q.views()["table"][0].detach().clone()
    assert table.shape == (STATES, ACTIONS)
    assert table[3, 2].item() == pytest.approx(expected)
    table[3, 2] = 0
    assert (table == 0).all()


def test_repeated_states_add_up():
    """A minibatch that holds one transition twice and another once: ΔQ = α·(1/3)Σδ, entry by entry."""
    algorithm = dqn("network=tabular", "algo.batch_size=3")
    parts = [transition(3, 2, 4), transition(3, 2, 4), transition(0, 1, 4, reward=-3.0)]
    batch = Transition(*(torch.cat(field, 1) for field in zip(*parts, strict=True)))
    algorithm.step(batch, {})
    table = algorithm.q.views()["table"][0]
    assert table[3, 2].item() == pytest.approx(0.1 * 2 / 3)
    assert table[0, 1].item() == pytest.approx(-0.1 * 3 / 3)
    assert (table != 0).sum() == 2


def test_linear_step_by_hand():
    """T2: Δw_a = α·δ·φ(s), the other actions' rows untouched, for Fourier features."""
    algorithm = on_mountain_car("fourier")
    obs = [-0.3, 0.01]
    algorithm.step(transition(obs, 1, obs, reward=3.0), {})
    weight = algorithm.q.views()["weight"][0]
    phi = algorithm.make_network(1).features(torch.tensor([obs]))[0]
    torch.testing.assert_close(weight[1], 0.1 * 3.0 * phi)
    assert (weight[[0, 2]] == 0).all()


def test_tile_step_by_hand():
    """One step moves α·δ into each of the eight tiles, so Q(s, a) by 8·α·δ: α is to be divided by the tilings."""
    algorithm = on_mountain_car("tiles", "algo.lr=0.0125")
    obs = [-0.3, 0.01]
    algorithm.step(transition(obs, 1, obs, reward=3.0), {})
    table = algorithm.q.views()["table"][0]
    assert (table != 0).sum() == 8
    assert table[table != 0].tolist() == pytest.approx([0.0125 * 3.0] * 8)
    assert algorithm.q(torch.tensor([[obs]]))[0, 0].tolist() == pytest.approx([0, 8 * 0.0125 * 3.0, 0])


@pytest.mark.parametrize("options", [[], ["algo.double=double"], ["algo.target_update=none"]])
def test_tabular_is_linear_in_onehot(options):
    """T2: over 1000 updates of three seeds the table and the weights of one-hot features stay the same numbers."""
    seeds = (3, 11, 7)
    table, linear = (
        dqn(n, *options, seeds=seeds) for n in ("network=tabular", "network=linear network.features=onehot")
    )
    learners = [Learner(table), Learner(linear)]
    for _ in range(334):  # of three minibatches each, schedules and target copies included
        data = learners[0].data()
        for learner in learners:
            learner.learn(data)
    ours, theirs = table.q.views()["table"], linear.q.views()["weight"].transpose(1, 2)
    assert table.optimiser.steps.tolist() == [1002.0] * 3
    assert ours.abs().max() > 0.1
    assert ours.abs().min() > 1e-3, "every entry has been learned"
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours[0], ours[1])


@pytest.mark.parametrize("network", ["tabular", "linear network.features=onehot"])
@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_compiled_equals_eager(name, network):
    """A run's graphs, whole, compute what eager mode does."""
    from deeprl_cli.processes.hardware import GraphCompiler

    torch._dynamo.reset()
    options = [f"network={network.split()[0]}", *network.split()[1:]]
    eager, compiled = (Learner(make_algorithm(name, options=options, obs="discrete")) for _ in range(2))
    compiled.algorithm.compile_graphs(GraphCompiler(lambda _: None, backend="aot_eager"))
    for learner in (eager, compiled):
        learner.learn()
        learner.learn()
    before, after = state(eager.algorithm), state(compiled.algorithm)
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-4, atol=1e-5)


def test_together_equals_alone():
    """Three seeds' tables are each the seed's own."""
    seeds = (3, 11, 7)
    together = Learner(dqn("network=tabular", seeds=seeds))
    together.learn()
    for index, seed in enumerate(seeds):
        alone = Learner(dqn("network=tabular", seeds=(seed,)))
        alone.learn()
        assert differences(alone.algorithm.weights(0), together.algorithm.weights(index)) == []


def test_a_uniform_policy_and_no_value_at_the_start():
    """Actor and critic of a table are zero: every action alike, every state worth 0."""
    algorithm = make_algorithm("ppo", options=["network=tabular"], obs="discrete")
    obs = torch.arange(STATES).expand(3, -1)
    assert (algorithm.policy(obs).entropy() == torch.tensor(float(ACTIONS)).log()).all()
    assert (algorithm.value(obs) == 0).all()


@pytest.mark.parametrize("network", ["network=tabular", "network=linear network.features=onehot"])
def test_continuous_actions_off_policy(network):
    """Refused at the check, before anything is built."""
    cfg = load_config(["algo=sac", "tuned=none", *network.split()])
    spec = EnvSpec("Test-v0", gym.spaces.Discrete(4), gym.spaces.Box(-1, 1, (2,)))
    with pytest.raises(ConfigError, match=r"Q\(s, a\) of continuous actions: use network=mlp"):
        get_algorithm("sac").check(cfg.algo, cfg.network, spec)


def test_normalised_observations_have_no_bounds():
    """Running statistics would move observations out of the bounds that tiles divide."""
    with pytest.raises(ConfigError, match=r"use algo\.normalize_obs=false"):
        on_mountain_car("tiles", "algo.normalize_obs=true")
