"""Asynchronous Q-learning's update against Algorithm 5 by hand, its target copies, and explorers that differ."""

from __future__ import annotations

import pytest
import torch

from deeprl_cli.algorithm import Transition
from deeprl_cli.algos.async_q import AsyncQ
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from tests.contract.harness import OBSERVATION_SPACES, configured, make_algorithm

TABLE = [
    "algo=async_q",
    "tuned=none",
    "network=tabular",
    "algo.optim=sgd",
    "algo.lr=0.1",
    "algo.lr_schedule=constant",
    "algo.clip_norm=null",
    "algo.gamma=0.9",
    "algo.target_every=3",
    "algo.rollout_length=3",
]


def table(*options: str) -> AsyncQ:
    """Of 5 states and 3 actions, all zeros."""
    from gymnasium.spaces import Discrete

    cfg = configured(*TABLE, *options)
    return AsyncQ(cfg.algo, cfg.network, EnvSpec("Test-v0", OBSERVATION_SPACES["discrete"], Discrete(3)), [0])


def steps(*transitions) -> Transition:
    """One sub-episode of (s, a, r, s', d)."""
    s, a, r, s_next, d = (torch.tensor(column).reshape(1, -1, 1) for column in zip(*transitions, strict=True))
    return Transition(s, a, r.float(), s_next, d.float(), torch.zeros_like(d.float()), torch.ones_like(r.float()))


def entries(q) -> torch.Tensor:
    """Q̂ of all states, `(5, 3)`."""
    return q(torch.arange(5).reshape(1, 5))[0].detach()


def test_the_accumulated_update_by_hand():
    """δ_w is the sum of −2(y − Q̂(s, a))∇Q̂ over the steps, y from Q̂_target in s' and only r in a terminal one.

    Q̂_target(2, ·) = (0, 2, 1), Q̂(0, 0) = 0.5; two steps meet the same entry, with w standing still in between:
    (0, 0) twice: y = 1 + 0.9·2 = 2.8, each adds −2(2.8 − 0.5) = −4.6; (1, 2) terminal: y = 3, adds −6.
    """
    q = table()
    with torch.no_grad():
        dict(q.q_target.views())["table"][0, 2] = torch.tensor([0.0, 2.0, 1.0])
        dict(q.q.views())["table"][0, 0, 0] = 0.5
    q.set_progress(
        100, 1000
    )  # no multiple of 3 is passed by 100, 101, 102 … 102 is one: the copy comes before the step
    before = entries(q.q)
    q.update(steps((0, 0, 1.0, 2, 0), (0, 0, 1.0, 2, 0), (1, 2, 3.0, 2, 1)), {})
    moved = entries(q.q) - before
    expected = torch.zeros(5, 3)
    expected[0, 0], expected[1, 2] = 0.1 * 2 * 4.6, 0.1 * 6.0
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(entries(q.q_target), before)  # lines 7–8 stand before lines 9–11


def test_the_target_is_copied_when_the_count_passes_a_multiple():
    q = table("algo.target_every=6")
    step = steps((0, 0, 1.0, 1, 0), (0, 0, 1.0, 1, 0), (0, 0, 1.0, 1, 0))
    copied = []
    for t in range(0, 24, 3):
        q.set_progress(t, 1000)
        before, target = entries(q.q), entries(q.q_target)
        q.update(step, {})
        now = entries(q.q_target)
        copied.append(not torch.equal(now, target))
        torch.testing.assert_close(now, before if copied[-1] else target)
    assert copied == [False, True] * 4  # the count comes to 6, 12, 18, 24


def test_padding_isnt_counted():
    """A sub-episode of two steps, padded to three, moves the count to 2, not to 3."""
    q = table()
    data = steps((0, 0, 1.0, 1, 0), (0, 0, 1.0, 1, 1), (0, 0, 0.0, 0, 0))
    data.weight[:, 2] = 0
    q.set_progress(0, 1000)
    q.update(data, {})
    assert q.copies.tolist() == [0]
    q.set_progress(2, 1000)
    q.update(data, {})
    assert q.copies.tolist() == [1]


def test_each_worker_has_an_epsilon_of_its_own():
    """`epsilon.end` is dealt out in turn, over workers and the environments of each."""
    ends = []
    for worker in range(4):
        q = table("algo.epsilon.end=[0.1,0.01,0.5]", "algo.epsilon.fraction=0.5")
        q.worker = worker
        q.set_progress(250, 1000)  # halfway from 1
        ends.append(round(2 * q.epsilon.item() - 1, 6))
    assert ends == [0.1, 0.01, 0.5, 0.1]
    q = table("algo.epsilon.end=[0.1,0.01,0.5]", "algo.num_envs=2")
    q.worker = 1
    q.set_progress(1000, 1000)
    torch.testing.assert_close(q.epsilon, torch.tensor([[0.5, 0.1]]))


@pytest.mark.parametrize(("schedule", "halfway"), [("constant", 0.04), ("linear", 0.52), ("exponential", 0.2)])
def test_schedules(schedule, halfway):
    q = table("algo.epsilon.end=[0.04]", f"algo.epsilon.schedule={schedule}", "algo.epsilon.fraction=1")
    assert q.epsilon.item() == pytest.approx(0.04 if schedule == "constant" else 1.0)  # in the first sub-episode, too
    q.set_progress(500, 1000)
    assert q.epsilon.item() == pytest.approx(halfway)


def test_actions_go_by_each_environments_epsilon():
    """ε = 0 and ε = 1 side by side; an evaluation with more environments takes them in turn."""
    q = make_algorithm("async_q", options=["algo.epsilon.end=[0.0,1.0]", "algo.epsilon.schedule=constant"])
    q.set_progress(0, 1000)
    obs = torch.randn(3, 4, 4)
    greedy = q.act(obs, None)
    noise = torch.stack((torch.full((3, 4), 0.5), (greedy + 1) % 3 / 3 + 0.1), -1)  # always another action
    same = q.act(obs, noise) == greedy
    assert same.tolist() == [[True, False, True, False]] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [("algo.epsilon.end=[]", "no epsilon"), ("algo.epsilon.schedule=exponential algo.epsilon.end=[0.1,0]", "above 0")],
)
def test_epsilons_that_cant_be(options, words):
    with pytest.raises(ConfigError, match=words):
        load_config(["algo=async_q", *options.split()])
