"""What the loops hand to an algorithm, from every back-end: true next observations, ends apart, no dummies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeprl_cli.algorithm import Transition
from deeprl_cli.config.compose import load_config
from deeprl_cli.rl.returns import gae
from deeprl_cli.rl.targets import td_target
from tests.contract.harness import held, opened_trainer

BACKENDS = ["sync", "async", "native", "envpool"]
NEXT_STEP = {"native", "envpool"}
LIMIT = 20  # steps of an episode: some of a random policy's are cut, some fall before
LOOPS = {"rollout": "ppo", "episodes": "reinforce", "replay": "dqn"}  # those that gather transitions, one of each


def cartpole(loop, backend):
    """A run of random actions, nearly: two seeds of three environments, CartPole cut at LIMIT."""
    options = {
        "rollout": ["algo.rollout_length=128", "algo.batch_size=64"],
        "episodes": ["algo.episodes_per_update=60"],
        "replay": ["algo.learning_starts=100000"],
    }
    return load_config(
        [
            f"algo={LOOPS[loop]}",
            "tuned=none",
            "env=CartPole-v1",
            f"env.backend={backend}",
            f"env.max_episode_steps={LIMIT}",
            "algo.num_envs=3",
            "seeds=2",
            "eval.episodes=1",
            *options[loop],
        ]
    )


def assert_one_step_of_cartpole(obs, next_obs):
    """Positions move by 0.02 s of their velocities: no reset observation stands in for a next one."""
    for position in (0, 2):
        moved = obs[..., position] + 0.02 * obs[..., position + 1]
        torch.testing.assert_close(next_obs[..., position], moved, rtol=1e-4, atol=1e-5)


def fallen(obs):
    return (obs[..., 0].abs() > 2.4) | (obs[..., 2].abs() > 12 * 2 * np.pi / 360)


def assert_true_ends(backend, next_obs, terminated, truncated):
    """Terminated exactly where the pole fell; cut short where it hadn't, or at that very step."""
    # EnvPool itself calls an episode that ends in both ways truncated only
    unknown = (truncated > 0) if backend == "envpool" else torch.zeros_like(truncated, dtype=torch.bool)
    assert torch.equal((terminated > 0)[~unknown], fallen(next_obs)[~unknown])
    assert terminated.sum() > 5
    assert ((truncated > 0) & (terminated == 0)).sum() > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_replay_memory_holds_true_transitions_only(backend, tmp_path):
    """Everything in the memory is one step of the physics, ends included; dummies are left out and counted (T21)."""
    cfg = cartpole("replay", backend)
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        weights = []
        step = trainer.envs.step

        def recorded(actions):
            result = step(actions)
            weights.append(result.weight)
            return result

        trainer.envs.step = recorded
        for _ in range(150):
            trainer.iterate()
        per_seed = np.array(weights).reshape(-1, 2, 3).sum((0, 2)).astype(int)
        assert trainer.memory.written.tolist() == per_seed.tolist()
        assert (per_seed < 450).all() == (backend in NEXT_STEP)
        for seed in (0, 1):
            data = held(trainer)[seed]
            assert len(data.reward) == per_seed[seed]
            assert_one_step_of_cartpole(data.obs, data.next_obs)
            assert_true_ends(backend, data.next_obs, data.terminated, data.truncated)
            assert set(data.action.tolist()) == {0, 1}
            assert (data.reward == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rollouts_hold_true_transitions_and_masked_dummies(backend, tmp_path):
    """Of weight 1 are steps of the physics only; weight 0 exactly where the step before was an end, if anywhere."""
    cfg = cartpole("rollout", backend)
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        trainer.iterate()
        data = trainer.rollout.read("cpu")
    real = data.weight > 0
    assert_one_step_of_cartpole(data.obs[real], data.next_obs[real])
    assert_true_ends(backend, data.next_obs[real], data.terminated[real], data.truncated[real])
    ended = torch.maximum(data.terminated, data.truncated) > 0
    assert not (ended & ~real).any()
    if backend in NEXT_STEP:
        assert real[:, 0].all()
        assert torch.equal(~real[:, 1:], ended[:, :-1])
    else:
        assert real.all()
    follows = data.next_obs[:, :-1] == data.obs[:, 1:]
    assert follows.all(-1)[~ended[:, :-1]].all(), "the next observation is what is acted on next"
    if backend not in NEXT_STEP:
        fresh = data.obs[:, 1:][ended[:, :-1]]
        assert (fresh.abs() <= 0.05).all(), "after an end comes a first observation"


def test_episodes_hold_true_transitions_padded_behind_their_ends(tmp_path):
    """One episode a column: steps of the physics up to its end, the only one there is, and weight 0 behind it."""
    cfg = cartpole("episodes", "sync")
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        seen = []
        trainer.algorithm.update = lambda data, _: seen.append(data) or {"loss/value": torch.zeros(2)}
        trainer.iterate()
    (data,) = seen
    assert data.weight.shape == (2, 32, 60)
    real = data.weight > 0
    assert_one_step_of_cartpole(data.obs[real], data.next_obs[real])
    assert_true_ends("sync", data.next_obs[real], data.terminated[real], data.truncated[real])
    ended = torch.maximum(data.terminated, data.truncated) > 0
    lengths = real.sum(1)
    assert lengths.max() <= LIMIT
    assert torch.equal(real, torch.arange(32).view(1, -1, 1) < lengths.unsqueeze(1))
    assert torch.equal(ended.nonzero()[:, 1], (lengths - 1).unsqueeze(1).expand_as(real)[ended])
    assert (ended.sum(1) == 1).all()
    assert (data.obs[:, 0].abs() <= 0.05).all()
    follows = data.next_obs[:, :-1] == data.obs[:, 1:]
    assert follows.all(-1)[real[:, 1:]].all()
    assert (data.reward == data.weight).all(), "nothing is earned behind an end"


@pytest.mark.parametrize(
    ("loop", "backend"), [(loop, b) for loop in LOOPS for b in ("sync", "async") if (loop, b) != ("episodes", "async")]
)
def test_targets_on_the_chain(loop, backend, tmp_path):
    """On a chain of known values: y = r at the goal, y = r + γV(s') at the time limit, s' the state truly reached."""
    gamma, limit = 0.9, 3
    cfg = load_config(
        [
            f"algo={LOOPS[loop]}",
            "tuned=none",
            "env=deeprl/Chain-v0",
            f"env.backend={backend}",
            "env.kwargs.length=4",
            "env.kwargs.step_reward=-1.0",
            "env.kwargs.goal_reward=5.0",
            f"env.max_episode_steps={limit}",
            "algo.num_envs=2",
            "eval.episodes=1",
            *{
                "rollout": ["algo.rollout_length=6", "algo.batch_size=12"],
                "episodes": ["algo.episodes_per_update=4"],
                "replay": [],
            }[loop],
        ]
    )
    value = torch.tensor([1.0, 2.0, 3.0, 100.0])  # of state 3, the goal: never to be used
    with opened_trainer(cfg, tmp_path) as trainer:
        # environment 0 walks to the goal in three steps; environment 1 stands at the left end until its time is up
        trainer.act = lambda obs: np.array([1, 0])
        trainer.random_actions = lambda: np.array([1, 0])
        trainer.start()
        if loop == "rollout":
            trainer.iterate()
            data = trainer.rollout.read("cpu")
        elif loop == "episodes":
            trainer.iterate()
            pieces = [rollout.read("cpu", limit) for rollout in trainer.rollouts]
            data = Transition(*(torch.cat(field, 1) for field in zip(*pieces, strict=True)))
        else:
            for _ in range(6):
                trainer.iterate()
            data = Transition(*(field.unflatten(0, (1, 6, 2)) for field in held(trainer)[0]))
    reward, terminated, truncated = data.reward, data.terminated, data.truncated
    states, next_states = data.obs.argmax(-1), data.next_obs.argmax(-1)
    assert states[0].tolist() == [[0, 0], [1, 0], [2, 0]] * 2
    assert next_states[0].tolist() == [[1, 0], [2, 0], [3, 0]] * 2
    y = td_target(reward, terminated, value[next_states], gamma)
    expected = torch.tensor([[-1 + 0.9 * 2, -1 + 0.9], [-1 + 0.9 * 3, -1 + 0.9], [5.0, -1 + 0.9]] * 2)
    torch.testing.assert_close(y[0], expected)
    ended = torch.maximum(terminated, truncated)
    assert ended[0].tolist() == [[0, 0], [0, 0], [1, 1]] * 2
    advantage = gae(reward, value[states], value[next_states], terminated, ended, gamma, 0.5)
    delta = expected - value[states[0]]
    by_hand = delta.clone()
    for t in (4, 3, 1, 0):  # nothing flows over the episode's end after t = 2
        by_hand[t] += 0.45 * by_hand[t + 1]
    torch.testing.assert_close(advantage[0], by_hand)
