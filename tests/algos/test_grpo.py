"""GRPO's advantages, means and gradients, against numbers worked by hand (T18)."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from deeprl_cli.algorithm import EnvSpec, Transition
from deeprl_cli.algos.grpo import GRPO
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.groups import by_constant, by_sequence, by_token, group_advantage, returns
from tests.contract.harness import opened_trainer


def test_group_advantage():
    """T18: (1, 0, 0, 1) gives ±.86588, with G − 1 in the standard deviation; a constant group 0."""
    groups = torch.tensor([[[1.0, 0.0, 0.0, 1.0], [3.1, 3.1, 3.1, 3.1]]])
    advantage, same = group_advantage(groups, norm=True)
    torch.testing.assert_close(advantage[0, 0], torch.tensor([0.86588, -0.86588, -0.86588, 0.86588]), atol=1e-5, rtol=0)
    assert (advantage[0, 1] == 0).all()
    assert same.tolist() == [[0.0, 1.0]]
    assert group_advantage(groups, norm=False)[0].tolist()[0][0] == [0.5, -0.5, -0.5, 0.5]


def test_a_constant_group_is_zero_in_spite_of_rounding():
    """The mean of equal numbers may differ from them in its last bit, and 1e-4 would make something of that."""
    for value in (200.37, -1e6 / 3, 1e-3):
        advantage, _ = group_advantage(torch.full((1, 1, 7), value), norm=True)
        assert (advantage == 0).all()


def test_returns():
    """Σγ^t r_t over the steps of weight 1; by default undiscounted."""
    reward = torch.tensor([[[1.0, 2.0], [4.0, 5.0], [8.0, 99.0]]])
    weight = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]])
    assert returns(reward, weight, 1.0).tolist() == [[13.0, 7.0]]
    assert returns(reward, weight, 0.5).tolist() == [[5.0, 4.5]]


def test_aggregation():
    """Steps (1, 5) of one episode and (2) of another: by token 8/3, by sequence (3+2)/2, by constant (6+2)/2."""
    x = torch.tensor([[[1.0, 2.0], [5.0, 77.0]]])
    weight = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    assert by_token(x, weight).tolist() == pytest.approx([8 / 3])
    assert by_sequence(x, weight).tolist() == pytest.approx([2.5])
    assert by_constant(x, weight).tolist() == pytest.approx([4.0])


def made(*options):
    """One state, three actions, a table of logits, plain gradient descent with step 1: the gradient can be read off."""
    groups = ["algo.num_envs=4", "algo.group_size=4"]
    descent = ["algo.optim=sgd", "algo.lr=1.0", "algo.clip_norm=null"]
    cfg = load_config(["algo=grpo", "tuned=none", "network=tabular", *groups, *descent, *options])
    spec = EnvSpec("Test-v0", spaces.Discrete(1), spaces.Discrete(3))
    return GRPO(cfg.algo, cfg.network, spec, [0])


def logits(algorithm, stack="actor"):
    ((_, table),) = getattr(algorithm, stack).tensors(0)
    return table.flatten()


def answers(actions, rewards):
    """One-step episodes, all of one group."""
    action, reward = torch.tensor([[actions]]), torch.tensor([[rewards]])
    zeros = torch.zeros_like(reward)
    state = torch.zeros_like(action)
    return Transition(state, action, reward, state, zeros + 1, zeros, zeros + 1)


def test_gradient_of_the_objective():
    """From π = (⅓, ⅓, ⅓), Â = ±.86588: ∂/∂z_k mean(Â ∇log π) = ¼ Σ_i Â_i (1[a_i = k] − ⅓), and ΣÂ = 0."""
    algorithm = made()
    metrics = algorithm.update(answers([0, 1, 0, 2], [1.0, 0.0, 0.0, 1.0]), {})
    torch.testing.assert_close(logits(algorithm), torch.tensor([0.0, -0.21647, 0.21647]), atol=1e-5, rtol=0)
    assert metrics["policy/kl"].item() == pytest.approx(0, abs=1e-7), "the first step starts from the old policy"
    assert metrics["grpo/zero_variance_groups"].item() == 0


def test_gradient_of_the_penalty_alone():
    """A constant group contributes β·∇k3 only: β·mean((1 − r)∇log π'), r = π_ref/π' = (.75, .75, 1.5).

    With c_i = 1 − r(a_i) = (.25, .25, .25, −.5): ∂/∂z_k = β/4·(Σ_{a_i = k} c_i − ⅓ Σ c_i).
    """
    algorithm = made("algo.kl.coef=0.1")
    with torch.no_grad():
        for table in algorithm.actor_ref.views().values():
            table.copy_(torch.tensor([0.25, 0.25, 0.5]).log().expand_as(table))
    metrics = algorithm.update(answers([0, 1, 0, 2], [1.0] * 4), {})
    sums = torch.tensor([0.5, 0.25, -0.5])
    torch.testing.assert_close(logits(algorithm), -0.1 / 4 * (sums - 0.25 / 3), atol=1e-6, rtol=1e-4)
    assert metrics["grpo/zero_variance_groups"].item() == 1
    r = torch.tensor([0.75, 0.75, 0.75, 1.5])
    assert metrics["policy/kl_ref"].item() == pytest.approx((r - 1 - r.log()).mean().item(), rel=1e-4)


def test_without_a_penalty_a_constant_group_changes_nothing():
    algorithm = made("algo.updates=3", "algo.ent_coef=0.0")
    algorithm.update(answers([0, 1, 0, 2], [2.0] * 4), {})
    assert logits(algorithm).tolist() == [0.0] * 3


def test_a_ratio_beyond_the_clip_has_no_gradient():
    """The first step of lr 1 moves ρ out of [.99, 1.01] on the side Â wants: the second one finds nothing to do."""
    once, twice = made("algo.clip_eps=0.01", "algo.updates=1"), made("algo.clip_eps=0.01", "algo.updates=2")
    batch = answers([1, 1, 2, 2], [0.0, 0.0, 1.0, 1.0])
    once.update(batch, {})
    metrics = twice.update(batch, {})
    assert logits(once)[2] > 0.2
    torch.testing.assert_close(logits(once), logits(twice))
    assert metrics["policy/clip_fraction"].item() == 0.5  # none in the first step, all in the second
    free = made("algo.clip_eps=9", "algo.updates=2")
    free.update(batch, {})
    assert free.actor.flat.sub(once.actor.flat).abs().max() > 0.1


def test_the_reference_is_the_initial_policy_until_it_is_synchronised():
    """It stays; or every N batches it is where the policy is then."""
    still, moving = made("algo.kl.coef=0.1"), made("algo.kl.coef=0.1", "algo.ref_sync_every=2")
    batch = answers([0, 1, 0, 2], [1.0, 0.0, 0.0, 1.0])
    for number in (1, 2, 3):
        for algorithm in (still, moving):
            algorithm.update(batch, {})
        assert logits(still, "actor_ref").tolist() == [0.0] * 3
        assert (logits(moving, "actor_ref").tolist() == logits(moving).tolist()) == (number == 2)
    assert logits(moving, "actor_ref").abs().max() > 0


def test_a_seed_without_episodes_stands_still():
    """All weights 0: no step, and its batch isn't counted."""
    algorithm = made("algo.kl.coef=0.1", "algo.ref_sync_every=1")
    algorithm.update(answers([0, 1, 0, 2], [1.0, 0.0, 0.0, 1.0]), {})
    before = {name: value.clone() for name, value in algorithm.state_dict().items() if isinstance(value, torch.Tensor)}
    batch = answers([0, 1, 0, 2], [1.0, 0.0, 0.0, 1.0])
    algorithm.update(batch._replace(weight=torch.zeros_like(batch.weight)), {})
    for name, value in before.items():
        assert torch.equal(algorithm.state_dict()[name], value), name


def test_the_loop_hands_over_groups(tmp_path):
    """Every update sees whole episodes, G in a row from one question."""
    cfg = load_config(["algo=grpo", "env=ArithQA-v0", "network=mlp", "tuned=none", "seeds=2"])
    seen = []
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        update = trainer.algorithm.update
        trainer.algorithm.update = lambda data, noise: (
            seen.append(Transition(*map(torch.clone, data))) or update(data, noise)
        )
        for _ in range(3):
            trainer.iterate()
        assert trainer.steps == 3 * 64 * 2
    for data in seen:
        assert data.reward.shape == (2, 2, 64), "answers of two tokens aren't padded"
        assert (data.weight == 1).all()
        assert (data.terminated[:, 1] == 1).all()
        questions = data.obs[:, 0].unflatten(1, (8, 8))
        assert (questions == questions[:, :, :1]).all()
        assert (questions[:, 0] != questions[:, 1:].transpose(0, 1)).any()
    assert not torch.equal(seen[0].obs[:, 0], seen[1].obs[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("algo.num_envs=20 algo.group_size=8", "whole groups of algo.group_size=8: give algo.num_envs=24"),
        ("algo.group_size=1", "algo.group_size=1 leaves nothing to compare"),
        ("algo.group_size=1 algo.adv_norm=none", "algo.group_size=1 leaves nothing to compare"),
        ("algo.kl.coef=0.1 algo.kl.estimator=k1", "zero mean gradient"),
        ("algo.kl.importance_weight=true", "algo.kl.coef=0 has nothing to weight"),
        ("algo.ref_sync_every=5", "moves a reference that nothing is held to"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(f"algo=grpo tuned=none {options}")
