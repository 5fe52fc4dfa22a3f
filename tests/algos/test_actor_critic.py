"""One-step actor-critic against numbers worked by hand on look-up tables (T8), and its running discount."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from deeprl_cli.algorithm import Transition
from deeprl_cli.algos.actor_critic import ActorCritic
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from tests.contract.harness import opened_trainer

SPEC = EnvSpec("Test-v0", spaces.Discrete(3), spaces.Discrete(2))
LITERAL = {
    "num_envs": 1,
    "gamma": 0.5,
    "gamma_t": "true",
    "optim": "sgd",
    "lr_actor": 0.2,
    "lr_critic": 0.1,
    "ent_coef": 0,
}


def make(**options):
    chosen = [f"algo.{key}={value}" for key, value in {**LITERAL, **options}.items()]
    cfg = load_config(["algo=actor_critic", "tuned=none", "network=tabular", *chosen])
    return ActorCritic(cfg.algo, cfg.network, SPEC, [0])


def steps(*rows):
    """Steps (s, a, r, s', d, u, weight) of one environment, `(1, T, 1)`."""
    s, a, r, next_s, d, u, weight = zip(*rows, strict=True)
    integers, floats = ((s, a, next_s), (r, d, u, weight))
    obs, action, next_obs = (torch.tensor(x).view(1, -1, 1) for x in integers)
    reward, terminated, truncated, weights = (torch.tensor(x, dtype=torch.float32).view(1, -1, 1) for x in floats)
    return Transition(obs, action, reward, next_obs, terminated, truncated, weights)


def tables(algorithm):
    (theta,), (w,) = algorithm.actor.views().values(), algorithm.critic.views().values()
    return w[0, :, 0].tolist(), theta[0, :, 1].tolist()


FIRST, SECOND = (0, 1, 1.0, 1, 0, 0, 1), (1, 1, 2.0, 0, 0, 0, 1)


def test_two_steps_by_hand():
    """Step 1: δ = 1 + .5·2 − 1 = 1. Step 2: δ = 2 + .5·V̂(0) − 2 with V̂(0) = 1.1 by then, θ with γ^1 (T8)."""
    algorithm = make()
    (w,) = algorithm.critic.views().values()
    w.data[0, :, 0] = torch.tensor([1.0, 2.0, 7.0])
    algorithm.update(steps(FIRST), {})
    value, preference = tables(algorithm)
    assert value == pytest.approx([1.1, 2.0, 7.0])
    assert preference == pytest.approx([0.2 * 1 * 0.5, 0, 0])
    algorithm.update(steps(SECOND), {})
    value, preference = tables(algorithm)
    assert value == pytest.approx([1.1, 2.0 + 0.1 * 0.55, 7.0])
    assert preference == pytest.approx([0.1, 0.2 * 0.5 * 0.55 * 0.5, 0])


def test_terminated_and_truncated_by_hand():
    """At a terminal state δ = r − V̂(s); cut by a time limit, δ = r + γV̂(s') − V̂(s) as on any step."""
    for flags, delta in (((1, 0), 1 - 1), ((0, 1), 1 + 0.5 * 7 - 1), ((1, 1), 1 - 1)):
        algorithm = make()
        (w,) = algorithm.critic.views().values()
        w.data[0, :, 0] = torch.tensor([1.0, 2.0, 7.0])
        algorithm.update(steps((0, 1, 1.0, 2, *flags, 1)), {})
        value, preference = tables(algorithm)
        assert value == pytest.approx([1 + 0.1 * delta, 2.0, 7.0])
        assert preference == pytest.approx([0.2 * delta * 0.5, 0, 0])


def test_both_updates_use_the_same_delta():
    """δ comes from w as it was: were θ updated with the new V̂(0), its δ would be .9 here."""
    algorithm = make()
    algorithm.update(steps((0, 1, 1.0, 2, 1, 0, 1)), {})
    assert tables(algorithm)[0][0] == pytest.approx(0.1)
    assert tables(algorithm)[1][0] == pytest.approx(0.2 * 1.0 * 0.5)


@pytest.mark.parametrize("end", [(1, 0), (0, 1)])
def test_the_discount_runs_and_starts_again(end):
    """γ^t: 1, γ, γ², … within an episode, 1 again behind an end of either kind, untouched by a dummy step."""
    algorithm = make()
    dummy = (0, 0, 5.0, 0, 0, 0, 0)
    sequence = [FIRST, SECOND, FIRST, (1, 0, 0.0, 2, *end, 1), dummy, FIRST, SECOND]
    seen = []
    for row in sequence:
        seen.append(algorithm.discount.item())
        algorithm.update(steps(row), {})
    assert seen == [1, 0.5, 0.25, 0.125, 1, 1, 0.5]


def test_without_gamma_t_every_step_counts_the_same():
    algorithm = make(gamma_t="false")
    for row in (FIRST, SECOND):
        algorithm.update(steps(row), {})
    assert algorithm.discount.item() == 1
    assert tables(algorithm)[1] == pytest.approx([0.2 * 1 * 0.5, 0.2 * (2 + 0.5 * 0.1) * 0.5, 0])


def test_a_dummy_step_moves_nothing():
    """Not even Adam's moments or counts."""
    algorithm = make(optim="adam", ent_coef=0.5)
    algorithm.update(steps((0, 0, 5.0, 1, 0, 0, 0)), {})
    assert tables(algorithm) == ([0, 0, 0], [0, 0, 0])
    assert algorithm.actor_optimiser.steps.item() == algorithm.critic_optimiser.steps.item() == 0


def test_longer_rollouts_are_learned_from_step_by_step():
    """Three steps in one rollout end where three rollouts of one step do: the same updates in the same order."""
    rows = [FIRST, SECOND, (0, 0, 3.0, 2, 1, 0, 1)]
    once, thrice = make(), make()
    once.update(steps(*rows), {})
    for row in rows:
        thrice.update(steps(row), {})
    assert tables(once) == tables(thrice)
    assert torch.equal(once.discount, thrice.discount)


def test_it_learns_at_every_step(tmp_path):
    """rollout_length=1: one update for each step of the environments."""
    options = ["algo=actor_critic", "tuned=none", "env=CartPole-v1", "algo.num_envs=3", "eval.episodes=1"]
    with opened_trainer(load_config(options), tmp_path) as trainer:
        trainer.start()
        for _ in range(7):
            trainer.iterate()
        assert trainer.steps == 21
        assert trainer.algorithm.actor_optimiser.steps.tolist() == [7]


def test_stretches_side_by_side_are_refused():
    with pytest.raises(ConfigError, match=r"give algo\.subepisodes_per_update=1, or use algo=a2c"):
        make(subepisodes_per_update=2)
