"""The episodic loop: environments that wait, seeds that finish apart, sub-episodes, padding, groups."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.testing import CHAIN_ID
from deeprl_cli.errors import ConfigError
from deeprl_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from deeprl_cli.training.episodes import padded
from deeprl_cli.training.preflight import preflight
from tests.contract.harness import assert_close, differences, opened_trainer
from tests.envs.conftest import config, opened  # noqa: F401

FIELDS = ["obs", "next_obs", "reward", "terminated", "truncated", "episode_end", "episode_return", "episode_length"]


# --- environments that wait -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [("CartPole-v1", {"limit": 15}), ("Pendulum-v1", {"limit": 20}), (CHAIN_ID, {"observation": "index"})],
)
@pytest.mark.parametrize("pauses", ["between episodes", "anywhere"])
def test_a_pause_changes_nothing_for_who_pauses(env_id, kwargs, pauses, opened):  # noqa: F811
    """Each environment, its pauses cut out, lives what it would have lived alone: steps, ends, limits, returns."""
    seeds, count = [1, 2], 3
    env = opened(make_vector_env(config(env_id, **kwargs), seeds, count, training=True))
    other = opened(make_vector_env(config(env_id, **kwargs), seeds, count, training=True))
    rng = np.random.default_rng(0)
    space = env.spec.action_space
    shape = (seeds[-1] * count, 120, *space.shape)
    actions = (
        rng.uniform(-1, 1, shape).astype(np.float32) if space.dtype == np.float32 else rng.integers(space.n, size=shape)
    )
    env.reset()
    other.reset()
    expected = [other.step(actions[:, t]) for t in range(120)]
    done = np.zeros(env.num_envs, int)  # own steps of each
    fresh = np.ones(env.num_envs, bool)
    everyone = np.arange(env.num_envs)
    for _ in range(110):
        running = rng.random(env.num_envs) < 0.6
        if pauses == "between episodes":
            running |= ~fresh
        waiting = env.obs.copy()
        step = env.step(actions[everyone, done], running)
        assert step.weight.tolist() == running.tolist()
        assert np.array_equal(step.obs[~running], waiting[~running])
        assert np.array_equal(step.next_obs[~running], waiting[~running])
        for name in ("reward", "terminated", "truncated", "episode_end"):
            assert not getattr(step, name)[~running].any(), name
        for n in np.flatnonzero(running):
            for name in FIELDS:
                assert np.array_equal(getattr(step, name)[n], getattr(expected[done[n]], name)[n]), name
        done += running
        fresh = np.where(running, step.terminated | step.truncated, fresh)
    assert done.min() > 40


def test_a_paused_episode_is_restored_bit_for_bit(opened):  # noqa: F811
    """Saved while some environments have been waiting in mid-episode, for many steps, and gone on with."""

    def make():
        return opened(make_vector_env(config("CartPole-v1"), [1, 2], 2, training=True))

    env, rng = make(), np.random.default_rng(0)
    env.reset()
    running = np.array([True, True, False, True])
    for t in range(300):
        env.step(rng.integers(2, size=4), running if 5 <= t < 290 else rng.random(4) < 0.7)
    state = env.state_dict()
    assert state["lengths"][2] > 0
    other = make()
    assert other.load_state_dict(state) == []
    for _ in range(60):
        actions = rng.integers(2, size=4)
        ours, theirs = other.step(actions), env.step(actions)
        for name in FIELDS:
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_groups_start_alike(opened):  # noqa: F811
    """`groups_of=2`: environments 0 and 1 start every episode from one reset, 2 and 3 from another; seeds differ."""
    env = opened(make_vector_env(config("CartPole-v1", limit=5), [1, 2], 4, training=True, groups_of=2))
    alone = opened(make_vector_env(config("CartPole-v1", limit=5), [1, 2], 2, training=True))
    obs, apart = env.reset(), alone.reset()
    for _ in range(3):
        assert np.array_equal(obs[0::2], obs[1::2])
        assert len(np.unique(obs[0::2], axis=0)) == 4
        assert np.array_equal(obs[0::2], apart), "a group's reset is what a single environment in its place has"
        for _ in range(5):
            obs = env.step(np.tile([0, 1], 4)).obs
            apart = alone.step(np.zeros(4, int)).obs
    assert not np.array_equal(obs[0], env.step(np.tile([0, 1], 4)).obs[1]), "they part with their actions"


@pytest.mark.parametrize("backend", ["async", "native", "envpool"])
def test_back_ends_that_cannot_wait_are_refused(backend):
    cfg = load_config(["algo=reinforce", "env=CartPole-v1", f"env.backend={backend}"])
    with pytest.raises(ConfigError, match=r"use env\.backend=sync"):
        preflight(cfg)
    cfg = load_config(["algo=a2c", "env=CartPole-v1", f"env.backend={backend}", "algo.subepisodes=terminal"])
    with pytest.raises(ConfigError, match=r"use env\.backend=sync"):
        preflight(cfg)
    preflight(load_config(["algo=a2c", "env=CartPole-v1", f"env.backend={backend}"]))


# --- the loop ---------------------------------------------------------------------------------------------------------


LOOPS = {
    "reinforce": ["algo=reinforce", "algo.num_envs=2", "algo.episodes_per_update=4"],
    "per_step": [
        "algo=reinforce",
        "algo.num_envs=1",
        "algo.episodes_per_update=2",
        "algo.update=per_step",
        "algo.normalize_advantage=false",
    ],
    "a2c": [
        "algo=a2c",
        "algo.subepisodes=terminal",
        "algo.num_envs=2",
        "algo.subepisodes_per_update=2",
        "algo.bootstrap=target",
        "algo.target_every=30",
        "algo.lr_schedule=linear",
    ],
}


def run_config(loop, *options):
    return load_config(
        [
            *LOOPS[loop],
            "tuned=none",
            "env=CartPole-v1",
            "env.max_episode_steps=40",
            "algo.hidden=[16]",
            "total_steps=250",
            "eval.episodes=1",
            *options,
        ]
    )


def recorded(trainer):
    """What each update sees, from now on."""
    seen, update = [], trainer.algorithm.update

    def recording(data, noise):
        seen.append(type(data)(*(x.clone() for x in data)))
        return update(data, noise)

    trainer.algorithm.update = recording
    return seen


def finished(trainer):
    while trainer.steps < trainer.cfg.total_steps:
        trainer.iterate()


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_seeds_together_equal_each_alone(loop, normalised, tmp_path):
    """Episodes of different lengths, seeds finishing at different updates: weights, moments and statistics of all."""
    options = ["algo.normalize_obs=true", "algo.normalize_reward=true"] if normalised else []
    with opened_trainer(run_config(loop, "seeds=3", *options), tmp_path) as trainer:
        trainer.start()
        seen = recorded(trainer)
        finished(trainer)
        together, counts = trainer.policy.state_dict(), trainer.seed_steps.tolist()
        updates = [sum(bool(data.weight[s].any()) for data in seen) for s in range(3)]
    assert len(set(counts)) > 1, "seeds that all do the same number of steps test nothing"
    if loop != "a2c":
        assert len(set(updates)) > 1
    for index in range(3):
        with opened_trainer(run_config(loop, f"seed={index}", *options), tmp_path) as trainer:
            trainer.start()
            finished(trainer)
            assert trainer.seed_steps.tolist() == [counts[index]]
            assert trainer.iterations == updates[index]
            assert_close(together, trainer.policy.state_dict(), 1e-3, seed=index)


@pytest.mark.parametrize("loop", LOOPS)
def test_steps_are_counted_for_each_seed(loop, tmp_path):
    """A seed's count is the number of its transitions of weight 1; it stops once it has total_steps; the run goes by
    the seed furthest behind."""
    with opened_trainer(run_config(loop, "seeds=2"), tmp_path) as trainer:
        trainer.start()
        seen = recorded(trainer)
        total = torch.zeros(2)
        while trainer.steps < 250:
            before = trainer.seed_steps.clone()
            trainer.iterate()
            total += seen[-1].weight.sum((1, 2))
            assert trainer.seed_steps.tolist() == trainer.x_axis == total.tolist()
            assert trainer.steps == total.min()
            assert trainer.env_steps == total.sum()
            assert ((trainer.seed_steps > before) == (before < 250)).all()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("iterations", [2, 12])
def test_resumed_bit_for_bit(loop, iterations, tmp_path):
    """N + N updates are 2N, also where one seed has finished, for the sub-episodes in the middle of an episode."""
    total = 250 if loop != "a2c" else 110
    cfg = run_config(loop, "seeds=2", f"total_steps={total}", "algo.normalize_reward=true", "algo.normalize_obs=true")

    def state(trainer):
        return {key: value for key, value in trainer.state_dict().items() if key != "clock"}

    with opened_trainer(cfg, tmp_path) as whole, opened_trainer(cfg, tmp_path) as later:
        whole.start()
        for _ in range(iterations):
            whole.iterate()
        assert (whole.seed_steps >= total).any() == (iterations == 12)
        save_checkpoint(tmp_path / "last", whole.state_dict(), {})
        saved = load_checkpoint(tmp_path / "last")
        later.load_state_dict(saved.state, saved.segments)
        for trainer in (whole, later):
            for _ in range(iterations):
                trainer.iterate()
        assert differences(state(whole), state(later)) == []


def test_a_finished_seed_is_silent(tmp_path):
    """Its last point of the curves is its last: no rows, no averages with updates that were not for it."""
    options = ["seeds=2", "algo.num_envs=1", "algo.episodes_per_update=1", "algo.normalize_advantage=false"]
    with opened_trainer(run_config("reinforce", *options, "total_steps=200"), tmp_path) as trainer:
        trainer.start()
        seen = recorded(trainer)
        losses = []
        kept, update = [], trainer.algorithm.update
        trainer.algorithm.update = lambda data, noise: kept.append(update(data, noise)) or kept[-1]
        while trainer.steps < 200:
            trainer.iterate()
            if trainer.iterations % 2 == 0:
                trainer.log()
                losses.append(trainer.to.logged[-1][1])
        active = torch.stack([data.weight.sum((1, 2)) > 0 for data in seen])
        assert not active.all(), "both seeds took part to the end: nothing tested"
        for row, values in enumerate(losses):
            for seed in (0, 1):
                counted = [kept[i]["loss/value"][seed].item() for i in (2 * row, 2 * row + 1) if active[i, seed]]
                shown = values["loss/value"][seed]
                assert shown == pytest.approx(sum(counted) / len(counted)) if counted else math.isnan(shown)
                assert all(math.isnan(values[name][seed]) for name in values) == (not counted)


def test_sub_episodes_stop_at_terminals_or_after_t_steps(tmp_path):
    """Algorithm 6's: at most T steps, weight 0 behind a terminal, the next one from where the last stopped, and updates
    of one shape."""
    with opened_trainer(run_config("a2c", "seeds=2", "algo.subepisodes_per_update=1"), tmp_path) as trainer:
        trainer.start()
        seen = recorded(trainer)
        for _ in range(25):
            trainer.iterate()
    assert {data.reward.shape for data in seen} == {(2, 5, 2)}
    ended_early = cut = 0
    for data, following in itertools.pairwise(seen):
        for s, b in np.ndindex(2, 2):
            length = int(data.weight[s, :, b].sum())
            if length == 0 or following.weight[s].sum() == 0:
                continue
            ended = torch.maximum(data.terminated, data.truncated)[s, :, b]
            assert data.weight[s, :, b].tolist() == [1] * length + [0] * (5 - length)
            assert ended.sum() == ended[length - 1]
            assert length == 5 or ended[length - 1]
            goes_on = torch.equal(following.obs[s, 0, b], data.next_obs[s, length - 1, b])
            assert goes_on == (not ended[length - 1])
            ended_early += length < 5
            cut += not ended[length - 1]
    assert ended_early > 3
    assert cut > 10


def test_what_stood_there_before_is_gone(tmp_path):
    """Behind a short update's episodes stand zeros, not the steps of a longer one before."""
    with opened_trainer(run_config("reinforce", "algo.num_envs=4"), tmp_path) as trainer:
        trainer.start()
        seen = recorded(trainer)
        for _ in range(6):
            trainer.iterate()
    lengths = [int(data.weight.any(-1).any(0).sum()) for data in seen]
    assert any(b < a for a, b in itertools.pairwise(lengths))
    for data, length in zip(seen, lengths, strict=True):
        for field in data:
            assert not field[:, length:].any()


def test_padded_lengths_are_few():
    """Powers of two, or always the longest a sub-episode can be."""
    assert [padded(n, None) for n in (0, 1, 2, 3, 16, 17, 33, 500)] == [2, 2, 2, 4, 16, 32, 64, 512]
    assert {padded(n, 5) for n in range(6)} == {5}


def test_layout_depends_on_the_padded_length_alone(tmp_path):
    """Compiled graphs are chosen by shapes and strides: a short update after a long one looks as it did before."""
    with opened_trainer(run_config("reinforce", "algo.episodes_per_update=2"), tmp_path) as trainer:
        trainer.start()
        layouts = {}
        update = trainer.algorithm.update

        def recording(data, noise):
            layouts.setdefault(data.reward.shape[1], set()).add(tuple(x.stride() for x in data))
            return update(data, noise)

        trainer.algorithm.update = recording
        for _ in range(12):
            trainer.iterate()
    assert len(layouts) > 1
    assert all(len(strides) == 1 for strides in layouts.values())
