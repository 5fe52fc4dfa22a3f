"""Behavioural cloning: its loss by hand, the demonstrations it is given, and that it learns them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from deeprl_cli.algorithm import EnvSpec, Transition
from deeprl_cli.algos.bc import BC
from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.make import env_spec
from deeprl_cli.errors import ConfigError
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.training.demonstrations import Lessons
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.run import train
from tests.contract.harness import opened_trainer


def test_gradient_of_the_cross_entropy():
    """A table of three logits at 0, actions (0, 0, 1, 2): the gradient of mean(−log π) is ⅓ − share of each action."""
    options = ["network=tabular", "algo.optim=sgd", "algo.lr=1.0", "algo.batch_size=4"]
    cfg = load_config(["algo=bc", "tuned=none", *options])
    algorithm = BC(cfg.algo, cfg.network, EnvSpec("Test-v0", spaces.Discrete(1), spaces.Discrete(3)), [0])
    action = torch.tensor([[0, 0, 1, 2]])
    zeros = torch.zeros(1, 4)
    state = torch.zeros_like(action)
    metrics = algorithm.update(iter([Transition(state, action, zeros, state, zeros, zeros, zeros + 1)]), iter([{}]))
    assert metrics["loss/policy"].item() == pytest.approx(np.log(3))
    ((_, table),) = algorithm.actor.tensors(0)
    expected = torch.tensor([0.5, 0.25, 0.25]) - 1 / 3
    torch.testing.assert_close(table.flatten(), expected, atol=1e-6, rtol=1e-5)


class Teacher(gym.Env):
    """Demonstrates episodes of one to three steps, actions in its own terms: Discrete from 5, or a Box of [0, 4]."""

    def __init__(self, box=False, vectors=False):
        self.observation_space = spaces.MultiDiscrete([10, 4], start=[1, 0])
        if vectors:
            self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = spaces.Box(0.0, 4.0, (2,)) if box else spaces.Discrete(3, start=5)
        self.box = box

    def demonstration(self, seed):
        action = np.array([1.0, 4.0]) if self.box else 5 + seed % 3
        return [(np.array([1 + seed % 10, step]), action) for step in range(1 + seed % 3)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([1, 0]), {}

    def step(self, action):
        return np.array([1, 0]), 0.0, True, False, {}


gym.register("test/Teacher-v0", Teacher)


def lessons(seed, **kwargs):
    cfg = load_config(["algo=bc", "env=test/Teacher-v0", *[f"env.kwargs.{k}={v}" for k, v in kwargs.items()]])
    return Lessons(cfg.env, env_spec(cfg.env), seed)


def test_demonstrations_follow_one_another():
    """Whatever the size of a minibatch, the steps are the same, each once; seeds have their own."""
    whole = lessons(3)
    obs, actions = whole.take(60)
    assert (obs[:, 0] >= 0).all(), "counted from 0, as the algorithm sees them"
    assert set(actions.tolist()) == {0, 1, 2}
    assert actions.dtype == np.int64
    starts = np.flatnonzero(obs[:, 1] == 0)
    assert set(np.diff(starts)) <= {1, 2, 3}, "episodes whole and in order"
    for size in (1, 7, 20):
        again = lessons(3)
        pieces = [again.take(size) for _ in range(60 // size)]
        assert np.array_equal(np.concatenate([p[0] for p in pieces]), obs[: 60 // size * size])
        assert np.array_equal(np.concatenate([p[1] for p in pieces]), actions[: 60 // size * size])
    assert not np.array_equal(lessons(4).take(60)[0], obs)


def test_actions_are_encoded():
    """In a Box the environment's own 1 and 4 of [0, 4] are the algorithm's −½ and 1; decoding gives them back."""
    _, actions = lessons(0, box=True).take(3)
    assert actions.dtype == np.float32
    assert actions.tolist() == [[-0.5, 1.0]] * 3
    for space in (
        spaces.Box(np.float32([-np.inf, -2, 0]), np.float32([np.inf, 6, np.inf])),
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([3, 4], start=[1, 2]),
        spaces.MultiBinary(3),
    ):
        view = ActionView("Test-v0", space)
        for seed in range(20):
            space.seed(seed)
            own = space.sample()
            back = view.decode(view.encode(own)[None])[0]
            assert np.allclose(back, own, atol=1e-5), space
            assert view.encode(own).shape == (view.space.shape or ())


def test_statistics_are_of_every_observation_shown(tmp_path):
    """algo.normalize_obs: their mean and variance, per seed."""
    options = ["algo=bc", "env=test/Teacher-v0", "env.kwargs.vectors=true", "algo.normalize_obs=true"]
    cfg = load_config([*options, "algo.batch_size=20", "seeds=2"])
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        for _ in range(3):
            trainer.iterate()
        for index, statistics in enumerate(zip(*trainer.policy.obs_statistics.buffers(), strict=True)):
            mean, var, count = statistics
            obs, _ = Lessons(cfg.env, trainer.algorithm.spec, index).take(60)
            assert count == 60
            np.testing.assert_allclose(mean, obs.mean(0), rtol=1e-4)
            np.testing.assert_allclose(var, obs.var(0), rtol=1e-4)


def test_minibatches(tmp_path):
    """What the loop hands over, and that steps count demonstrated ones."""
    cfg = load_config(["algo=bc", "env=ArithQA-v0", "network=mlp", "algo.batch_size=10", "seeds=2", "tuned=none"])
    seen = []
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        update = trainer.algorithm.update

        def recorded(data, noise):
            seen.append(list(data))
            return update(iter(seen[-1]), noise)

        trainer.algorithm.update = recorded
        for _ in range(4):
            trainer.iterate()
        assert trainer.steps == 40
    for (batch,) in seen:
        assert batch.obs.shape == (2, 10, 8)
        assert batch.action.shape == (2, 10)
        assert (batch.weight == 1).all()
        answers = (batch.obs != 13).sum(-1)
        assert answers[:, 0::2].unique().tolist() == [4]
        assert answers[:, 1::2].unique().tolist() == [5]
        assert torch.equal(batch.obs[:, 1::2, 4], batch.action[:, 0::2]), "the token written is then seen"


def test_learns_what_it_is_shown(tmp_path):
    """Four questions, answered rightly: greedy answers become right; answered wrongly, they don't."""
    returns = {}
    for corrupt in (0.0, 1.0):
        options = ["algo=bc", "env=ArithQA-v0", "network=mlp", "tuned=none", "total_steps=19200", "eval.every=0"]
        options += [f"env.kwargs.corrupt={corrupt}", "env.kwargs.operand_max=1", f"run_dir={tmp_path / str(corrupt)}"]
        options += ["hardware.compile=false", "hardware.threads=1", "log.tensorboard=false", "algo.lr=3e-3"]
        returns[corrupt] = read_summary(train(load_config(options)))["eval"]["return_mean"][0]
    assert returns == {0.0: 1.0, 1.0: 0.0}


def test_an_environment_without_demonstrations_is_refused(tmp_path, capsys, monkeypatch):
    """Before anything is made; and so are wrapped observations, which it wouldn't demonstrate."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "algo=bc", "env=CartPole-v1"])
    said = capsys.readouterr().err
    assert "env.id=CartPole-v1 gives no demonstrations" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"env\.frame_stack=1"):
        preflight(load_config("algo=bc env=ArithQA-v0 env.frame_stack=2 network=mlp"))
