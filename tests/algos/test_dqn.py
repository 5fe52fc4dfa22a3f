"""Q-learning against numbers worked by hand (T1, T2, T3, T4's copies)."""

from __future__ import annotations

import pytest
import torch

from deeprl_cli.algorithm import Transition
from deeprl_cli.algos.dqn import huber
from tests.contract.harness import make_algorithm

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
    assert table().target(batch).tolist() == [[pytest.approx(y)]]


def test_double_q_chooses_by_the_online_network():
    """The online network prefers action 2 in s', where the target says 1: y = 1 + .9·1, not the maximum's 2.8."""
    algorithm = table("algo.double=double")
    with torch.no_grad():
        algorithm.q.views()["head.weight"][0, 2, 4] = 7.0
    assert algorithm.target(transition(3, 2, 4)).tolist() == [[pytest.approx(1.9)]]


def test_without_a_target_network_the_online_one_is_used():
    """target_update=none is the deck's simple Q-learning: y follows Q itself."""
    algorithm = table("algo.target_update=none", target_value=0.0)
    with torch.no_grad():
        algorithm.q.views()["head.weight"][0, 0, 4] = 5.0
    assert algorithm.target(transition(3, 2, 4)).tolist() == [[pytest.approx(1 + 0.9 * 5)]]
    assert list(algorithm.stacks()) == ["q"]


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
        algorithm.update([batch, batch], [])
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


def test_huber():
    """½δ² inside ±1, |δ| − ½ outside."""
    assert huber(torch.zeros(3), torch.tensor([0.5, 1.0, -3.0])).tolist() == pytest.approx([0.125, 0.5, 2.5])


def test_learns_the_value_of_a_loop():
    """A state that leads to itself with r=1, γ=.5 is worth 2: Q-learning with a copied target gets there."""
    algorithm = table("algo.gamma=0.5", "algo.target_every=40", target_value=0.0)
    batch = transition(3, 1, 3)
    for update in range(1, 400):
        algorithm.set_progress(update * 4, 10_000)
        algorithm.update([batch], [])
    assert algorithm.q(torch.tensor([[3]]))[0, 0].max().item() == pytest.approx(2.0, abs=1e-2)
