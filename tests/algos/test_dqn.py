"""Q-learning against numbers worked by hand (T1, T2, T3, T4's copies, T11), and its options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeprl_cli.algorithm import EnvSpec, Transition
from deeprl_cli.algos.dqn import DQN
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from tests.contract.harness import OBSERVATION_SPACES, Learner, configured, make_algorithm, opened_trainer, small

TABLE = [
    "network=linear",
    "algo.optim=sgd",
    "algo.lr=0.1",
    "algo.clip_norm=null",
    "algo.loss=half_mse",
    "algo.gamma=0.9",
    "algo.batch_size=1",
]


def table(*options, obs="discrete", target_value=2.0):
    """Q = 0 everywhere, three actions; the target network says max Q(s', ·) = `target_value` in state 4, else 0."""
    algorithm = make_algorithm("dqn", seeds=[0], options=[*TABLE, *options], obs=obs)
    with torch.no_grad():
        algorithm.q.flat.zero_()
        algorithm.q_target.flat.zero_()
        if obs == "discrete":
            algorithm.q_target.views()["head.weight"][0, 1, 4] = target_value
            algorithm.q_target.views()["head.weight"][0, 2, 4] = target_value - 1
    return algorithm


def transition(obs, action, next_obs, *, reward=1.0, terminated=0.0, truncated=0.0):
    """One seed, one transition."""
    scalars = [torch.tensor([[float(x)]]) for x in (reward, terminated, truncated, 1)]
    return Transition(
        torch.tensor([[obs]]), torch.tensor([[action]]), scalars[0], torch.tensor([[next_obs]]), *scalars[1:]
    )


def y_of(algorithm, batch, noise=None):
    """The target of the one transition."""
    (row,) = algorithm.target(batch, noise or {}, algorithm.q.views()).tolist()
    return row[0]


@pytest.mark.parametrize(("loss", "expected"), [("half_mse", 0.28), ("mse", 0.56), ("huber", 0.1)])
def test_tabular_step_by_hand(loss, expected):
    """SGD .1, r=1, γ=.9, max Q'=2: y=2.8, and the one entry w[a, s] moves by α·δ=.28 (mse .56; huber: δ=1)."""
    algorithm = table(f"algo.loss={loss}")
    metrics = algorithm.step(transition(3, 2, 4), {})
    assert metrics["q/target_mean"].tolist() == pytest.approx([2.8])
    weight, bias = (algorithm.q.views()[name][0].detach() for name in ("head.weight", "head.bias"))
    assert weight[2, 3].item() == pytest.approx(expected)
    assert bias.tolist() == pytest.approx([0, 0, expected])
    weight[2, 3] = 0
    assert (weight == 0).all()


def test_linear_step_by_hand():
    """Δw_a = α·δ·φ(s), the other actions' rows untouched (T2)."""
    algorithm = table(obs="vector")
    phi = [0.5, -1.0, 2.0, 0.25]
    algorithm.step(transition(phi, 1, [0.0] * 4, reward=3.0), {})
    weight = algorithm.q.views()["head.weight"][0]
    assert weight[1].tolist() == pytest.approx([0.1 * 3.0 * x for x in phi])
    assert (weight[[0, 2]] == 0).all()


@pytest.mark.parametrize(("terminated", "truncated", "y"), [(0, 0, 2.8), (1, 0, 1.0), (0, 1, 2.8), (1, 1, 1.0)])
def test_targets_at_ends(terminated, truncated, y):
    """y = r + γ max Q(s') unless terminated, whether or not truncated (T3)."""
    batch = transition(3, 2, 4, terminated=terminated, truncated=truncated)
    assert y_of(table(), batch) == pytest.approx(y)


def test_double_q_chooses_by_the_online_network():
    """The online network prefers action 2 in s', where the target says 1: y = 1 + .9·1, not the maximum's 2.8."""
    algorithm = table("algo.double=double")
    with torch.no_grad():
        algorithm.q.views()["head.weight"][0, 2, 4] = 7.0
    assert y_of(algorithm, transition(3, 2, 4)) == pytest.approx(1.9)


def test_without_a_target_network_the_online_one_is_used():
    """target_update=none is the deck's simple Q-learning: y follows Q itself."""
    algorithm = table("algo.target_update=none", target_value=0.0)
    with torch.no_grad():
        algorithm.q.views()["head.weight"][0, 0, 4] = 5.0
    assert y_of(algorithm, transition(3, 2, 4)) == pytest.approx(1 + 0.9 * 5)
    assert list(algorithm.stacks()) == ["q"]


def test_clipped_double_q_takes_the_smaller_of_two():
    """Q̂_1(s') prefers action 2; the targets say (5, 3) of it: y = 1 + .9·3 for both networks, which differ at first."""
    algorithm = table("algo.double=clipped", obs="vector")
    with torch.no_grad():
        algorithm.q.views()["head.bias"][0] = torch.tensor([[0.0, 1.0, 2.0], [9.0, 0.0, 0.0]])
        algorithm.q_target.views()["head.bias"][0] = torch.tensor([[8.0, 8.0, 5.0], [7.0, 7.0, 3.0]])
    batch = transition([0.0] * 4, 1, [0.0] * 4)
    assert y_of(algorithm, batch) == pytest.approx(1 + 0.9 * 3)
    assert algorithm.act(batch.obs, None).tolist() == [[2]]
    metrics = algorithm.step(batch, {})
    assert metrics["loss/critic"].tolist() == pytest.approx([0.5 * 2.7**2 + 0.5 * 3.7**2])
    bias = algorithm.q.views()["head.bias"][0]
    assert bias[:, 1].tolist() == pytest.approx([1 + 0.1 * 2.7, 0 + 0.1 * 3.7])
    assert bias[:, [0, 2]].tolist() == [[0, 2], [9, 0]]


SARSA = ["algo.td_target=sarsa", "algo.buffer_capacity=1", "algo.train_every=1", "algo.num_envs=1"]


@pytest.mark.parametrize(("xi", "value"), [((0.9, 0.0), 5.0), ((0.1, 0.2), 3.0), ((0.1, 0.5), 5.0), ((0.1, 0.9), 4.0)])
def test_sarsa_follows_the_policy_it_acts_by(xi, value):
    """ε=.3: ξ_1 above it is greedy (5), below it ξ_2 draws one of (3, 5, 4), and y = 1 + .9·Q(s', a')."""
    algorithm = table(*SARSA, "algo.target_update=none", "algo.epsilon.start=0.3", target_value=0.0)
    with torch.no_grad():
        algorithm.q.views()["head.weight"][0, :, 4] = torch.tensor([3.0, 5.0, 4.0])
    noise = {"xi": torch.tensor([[xi]])}
    assert y_of(algorithm, transition(3, 2, 4), noise) == pytest.approx(1 + 0.9 * value)
    assert y_of(algorithm, transition(3, 2, 4, terminated=1), noise) == 1
    assert algorithm.act(torch.tensor([[4]]), noise["xi"]).item() == [3.0, 5.0, 4.0].index(value)


def test_the_residual_gradient_moves_the_target_too():
    """td_gradient=full: with δ = 1 + .9·2 − 0, the loss falls along δ(∇Q(s, a) − γ∇Q(s', a')): both entries move."""
    moves = {}
    for gradient in ("semi", "full"):
        algorithm = table("algo.target_update=none", f"algo.td_gradient={gradient}", target_value=0.0)
        with torch.no_grad():
            algorithm.q.views()["head.weight"][0, 1, 4] = 2.0
        before = algorithm.q.views()["head.weight"][0].detach().clone()
        algorithm.step(transition(3, 2, 4), {})
        moves[gradient] = algorithm.q.views()["head.weight"][0].detach() - before
    expected = torch.zeros(3, 5)
    expected[2, 3] = 0.1 * 2.8
    torch.testing.assert_close(moves["semi"], expected)
    expected[1, 4] = -0.1 * 2.8 * 0.9
    torch.testing.assert_close(moves["full"], expected)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["algo.td_target=sarsa"], r"algo\.buffer_capacity=1 algo\.batch_size=1 algo\.train_every=1"),
        ([*SARSA, "algo.batch_size=1", "algo.double=double"], r"algo\.double=none"),
        (["algo.td_gradient=full"], r"algo\.target_update=none"),
        (["algo.double=double", "algo.target_update=none"], r"algo\.double=clipped"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, advice):
    """One line, with what to give instead."""
    with pytest.raises(ConfigError, match=advice):
        load_config(["algo=dqn", "tuned=none", *options])


@pytest.mark.parametrize("network", [["network=tabular"], ["network=linear", "network.features=onehot"]])
def test_two_networks_that_could_not_differ_are_refused(network):
    """Tables start at zero, so that twins trained alike would stay the same."""
    cfg = configured(*small("dqn"), *network, "algo.double=clipped")
    spec = EnvSpec("Test-v0", OBSERVATION_SPACES["discrete"], make_algorithm("dqn").spec.action_space)
    with pytest.raises(ConfigError, match=r"algo\.double=double or network=mlp"):
        DQN.check(cfg.algo, cfg.network, spec)


@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_accumulated_minibatches_are_one_large_batch(network):
    """SGD: accumulate_steps=4 over four minibatches of 8 is one step on all 32 (T11)."""
    options = ["algo.optim=sgd", "algo.lr=0.1", "algo.clip_norm=0.5", "algo.target_update=none"]
    whole = Learner(make_algorithm("dqn", options=[*options, f"network={network}", "algo.batch_size=32"]))
    parts = Learner(make_algorithm("dqn", options=[*options, f"network={network}", "algo.accumulate_steps=4"]))
    for _ in range(3):
        (batch, *_) = whole.data()
        quarters = [Transition(*fields) for fields in zip(*(field.split(8, 1) for field in batch), strict=True)]
        before = parts.algorithm.q.flat.detach().clone()
        whole.learn([batch])
        parts.learn(quarters[:3])
        assert torch.equal(parts.algorithm.q.flat, before)
        parts.learn(quarters[3:])
        assert not torch.equal(parts.algorithm.q.flat, before)
        torch.testing.assert_close(parts.algorithm.q.flat, whole.algorithm.q.flat, rtol=1e-4, atol=1e-6)


def recorded(trainer):
    """What `update` is given, step by step: [(minibatches, the steps done)]."""
    updates = []

    def update(minibatches, noise):
        updates.append((list(minibatches), trainer.steps))
        return {}

    trainer.algorithm.update = update
    return updates


@pytest.mark.parametrize("env", ["CartPole-v1", "deeprl/PixelCatch-v0"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_without_replay_the_latest_step_is_all_there_is(env, num_envs, tmp_path):
    """buffer_capacity = batch_size = train_every = num_envs: minibatches hold transitions of the latest step only."""
    count = [f"algo.{key}={num_envs}" for key in ("num_envs", "buffer_capacity", "batch_size", "train_every")]
    cfg = load_config(
        ["algo=dqn", "tuned=none", f"env={env}", "seeds=2", "eval.episodes=1", *count, "algo.learning_starts=0"]
    )
    with opened_trainer(cfg, tmp_path) as trainer:
        updates = recorded(trainer)
        trainer.start()
        seen = set()
        for step in range(1, 61):
            obs = trainer.obs.reshape(2, num_envs, *trainer.obs.shape[1:])
            trainer.iterate()
            assert len(updates) == step
            (batch,) = updates[-1][0]
            for s in range(2):
                for i in range(num_envs):
                    sources = [b for b in range(num_envs) if np.array_equal(batch.obs[s, i].numpy(), obs[s, b])]
                    assert sources
                    seen.update(sources)
        assert seen == set(range(num_envs))


@pytest.mark.parametrize(("num_envs", "random_steps"), [(1, 20), (3, 7)])
def test_learning_starts_after_that_many_random_steps(num_envs, random_steps, tmp_path):
    """20 environment steps of one seed are random (21 of three environments); then the policy acts, and learns."""
    cfg = load_config(
        [*small("dqn"), "env=CartPole-v1", "algo.learning_starts=20", f"algo.num_envs={num_envs}", "algo.train_every=1"]
    )
    with opened_trainer(cfg, tmp_path) as trainer:
        updates = recorded(trainer)
        acted = []
        act, random = trainer.act, trainer.random_actions
        trainer.act = lambda obs: acted.append("policy") or act(obs)
        trainer.random_actions = lambda: acted.append("random") or random()
        trainer.start()
        for _ in range(30):
            trainer.iterate()
        assert acted == ["random"] * random_steps + ["policy"] * (30 - random_steps)
        assert updates[0][1] == num_envs * random_steps


def test_hard_copies_come_at_their_environment_steps():
    """target_every=40: copied when 40, 80, … steps have passed, once each, however many updates lie between (T4)."""
    algorithm = table("algo.target_update=hard", "algo.target_every=40")
    copied = []
    for steps in range(4, 130, 4):
        with torch.no_grad():
            algorithm.q.flat.fill_(float(steps))
            algorithm.q_target.flat.fill_(-1.0)
        algorithm.set_progress(steps, 1000)
        batch = transition(3, 2, 4)
        algorithm.update([batch, batch], [{}, {}])
        if not (algorithm.q_target.flat == -1).all():
            copied.append(steps)
            assert (algorithm.q_target.flat == steps).all(), "the weights before this update"
    assert copied == [40, 80, 120]


def test_polyak_target_moves_with_every_gradient_step():
    """w_target ← ρ·w_target + (1 − ρ)·w after the step."""
    algorithm = table("algo.target_update=polyak", "algo.rho=0.75")
    before = algorithm.q_target.flat.detach().clone()
    algorithm.step(transition(3, 2, 4), {})
    torch.testing.assert_close(algorithm.q_target.flat, 0.75 * before + 0.25 * algorithm.q.flat)


def test_learns_the_value_of_a_loop():
    """A state that leads to itself with r=1, γ=.5 is worth 2: Q-learning with a copied target gets there."""
    algorithm = table("algo.gamma=0.5", "algo.target_every=40", target_value=0.0)
    batch = transition(3, 1, 3)
    for update in range(1, 400):
        algorithm.set_progress(update * 4, 10_000)
        algorithm.update([batch], [{}])
    assert algorithm.q(torch.tensor([[3]]))[0, 0].max().item() == pytest.approx(2.0, abs=1e-2)
