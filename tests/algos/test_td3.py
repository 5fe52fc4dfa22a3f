"""What TD3 adds to DDPG (Fujimoto et al. 2018): smoothed targets, twin critics, and the delay."""

from __future__ import annotations

import pytest
import torch

from tests.contract.harness import Learner, make_algorithm, state


def td3(*options, seeds=(0,)):
    return make_algorithm("td3", seeds=list(seeds), options=["algo.gamma=0.9", *options])


def test_target_by_hand():
    """π'(s')=(.5, −.9), σ̃=.4, c=.3: ã = clip((.5, −.9) + clip(.4ε, ±.3), ±1); Q'_1 = ã₁ + 10ã₂, Q'_2 = 1 − ã₁."""
    algorithm = td3("network=linear", "algo.target_noise=0.4", "algo.target_noise_clip=0.3")
    with torch.no_grad():
        for stack in (algorithm.actor_target, algorithm.critic_target):
            stack.flat.zero_()
        algorithm.actor_target.views()["head.bias"][0] = torch.tensor([0.5, -0.9]).atanh()
        w = algorithm.critic_target.views()
        w["head.weight"][0, :, 0, -2:] = torch.tensor([[1.0, 10.0], [-1.0, 0.0]])
        w["head.bias"][0, 1] = 1.0
    (batch, *_) = Learner(algorithm).data()
    batch = batch._replace(terminated=torch.tensor([[0.0, 0, 0, 1, 0, 0, 0, 0]]))
    epsilon = torch.zeros(1, 8, 2)
    epsilon[0, 0] = torch.tensor([0.5, 0.5])  # within the clip: ã = (.7, −.7)
    epsilon[0, 1] = torch.tensor([5.0, -5.0])  # noise clipped to ±.3, the action to −1: ã = (.8, −1)
    epsilon[0, 2] = torch.tensor([-5.0, 5.0])  # ã = (.2, −.6)
    smaller = [0.7 - 7, 0.8 - 10, 0.2 - 6, 0, *[0.5 - 9] * 4]
    expected = batch.reward + 0.9 * torch.tensor([smaller])
    torch.testing.assert_close(algorithm.target(batch, epsilon), expected, rtol=1e-5, atol=1e-5)

    with torch.no_grad():  # now the second is the smaller one
        w["head.bias"][0, 1] = -50.0
    second = batch.reward[0, 0] + 0.9 * (-50 - 0.7)
    torch.testing.assert_close(algorithm.target(batch, epsilon)[0, 0], second)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_actor_and_targets_wait_for_their_turn(delay):
    """They move at critic updates d, 2d, … however the updates are cut into calls; the critics move at each."""
    algorithm = td3(f"algo.policy_delay={delay}")
    learner = Learner(algorithm)
    moved = []
    for t in range(1, 9):
        before = {name: stack.flat.detach().clone() for name, stack in algorithm.stacks().items()}
        learner.learn(learner.data()[:1])
        changed = {name for name, stack in algorithm.stacks().items() if not torch.equal(stack.flat, before[name])}
        assert "critic" in changed
        assert changed in ({"critic"}, {"critic", "actor", "critic_target", "actor_target"})
        if len(changed) > 1:
            moved.append(t)
    assert moved == [t for t in range(1, 9) if t % delay == 0]
    assert algorithm.critic_optimiser.steps.tolist() == [8]
    assert algorithm.actor_optimiser.steps.tolist() == [8 // delay]


def test_the_count_is_part_of_the_state():
    """Saved after an odd number of critic updates, the next one moves the actor, as it would have."""
    first, second = Learner(td3()), Learner(td3())
    first.learn(first.data()[:1])
    second.algorithm.load_state_dict(state(first.algorithm))
    before = second.algorithm.actor.flat.detach().clone()
    second.learn(second.data()[:1])
    assert not torch.equal(second.algorithm.actor.flat, before)
    assert second.algorithm.t == 2


def test_steps_in_between_report_the_latest_actor_loss():
    """Of the updates 1 to 6, 2, 4 and 6 move the actor: what they report stays until the next one does."""
    learner = Learner(td3())
    losses, norms = [], []
    for _ in range(6):
        metrics = learner.learn(learner.data()[:1])
        losses.append(metrics["loss/actor"].item())
        norms.append(metrics["optim/actor_grad_norm"].item())
    assert losses[0] == norms[0] == 0
    assert losses[1] == losses[2] != losses[3] == losses[4] != losses[5]
    assert norms[1] == norms[2] != norms[3] == norms[4] != norms[5]


def test_the_actor_climbs_the_first_critic():
    """Whatever the second one says, the actor's step is the same."""
    steps = []
    for shift in (0.0, 3.0):
        algorithm = td3("algo.policy_delay=1", "algo.optim=sgd", "algo.lr_critic=1e-9")
        with torch.no_grad():
            algorithm.critic.flat[:, 1].add_(shift)
        before = algorithm.actor.flat.detach().clone()
        learner = Learner(algorithm)
        learner.learn(learner.data()[:1])
        steps.append(algorithm.actor.flat - before)
    torch.testing.assert_close(*steps)
    assert steps[0].abs().max() > 1e-6


def test_without_its_own_two_tricks_it_is_ddpg_with_two_critics():
    """policy_delay=1 and target_noise=0: the same weights as algo=ddpg algo.critics=2 after the same updates."""
    ours = Learner(td3("algo.policy_delay=1", "algo.target_noise=0", seeds=(0, 1)))
    theirs = Learner(make_algorithm("ddpg", seeds=[0, 1], options=["algo.gamma=0.9", "algo.critics=2"]))
    for _ in range(3):
        metrics = [learner.learn() for learner in (ours, theirs)]
    for name, stack in theirs.algorithm.stacks().items():
        torch.testing.assert_close(ours.algorithm.stacks()[name].flat, stack.flat, rtol=1e-5, atol=1e-6)
    assert metrics[0].keys() == metrics[1].keys()
    for key, value in metrics[1].items():
        torch.testing.assert_close(metrics[0][key], value, rtol=1e-4, atol=1e-5)
