"""What Python programs use: train, load, act, evaluate, step the loop oneself."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

import deeprl_cli as deeprl
from deeprl_cli.api.training import configured
from deeprl_cli.commands.eval import Wanted, evaluate_run

SMALL = ["algo.hidden=[16,16]", "hardware.compile=false", "log.tensorboard=false", "eval.final_episodes=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two seeds of PPO on Pendulum, observations normalised, evaluated once on the way."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return deeprl.train(
        ["algo=ppo", "env=Pendulum-v1", "tuned=none", *SMALL],
        quiet=True,
        seeds=2,
        total_steps=256,
        run_dir=str(folder),
        **{
            "algo.rollout_length": 64,
            "algo.num_envs": 2,
            "algo.batch_size": 64,
            "algo.normalize_obs": True,
            "eval.every": 128,
            "eval.episodes": 1,
        },
    )


def test_names_come_when_they_are_used():
    assert set(deeprl.__all__) <= set(dir(deeprl))
    assert all(getattr(deeprl, name) is not None for name in deeprl.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = deeprl.nothing


def test_a_run(run, capsys):
    assert run.summary["status"] == "finished"
    assert run.config.algo.normalize_obs
    assert run.seeds == [0, 1]
    assert run.checkpoint == "best"
    assert list(run.policies) == [0, 1]
    assert repr(run).startswith(f"<Run {run.path}: ppo on Pendulum-v1")
    assert not capsys.readouterr().out


def test_acts_in_the_environments_terms(run):
    """x − mean over std goes in, the network's mean comes out, times 2: Pendulum's torque is within ±2."""
    policy, (statistics, network) = run.policy, (run.policy.inner.obs_statistics, run.policy.modules()["model"])
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((50, 3)).astype(np.float32) * [1, 1, 8]
    x = (obs - statistics.mean[0].numpy()) / np.sqrt(statistics.var[0].numpy() + 1e-8)
    with torch.no_grad():
        mean = network(torch.from_numpy(x.clip(-10, 10)).float(), part="policy")[:, :1].numpy()
    actions = policy.act(obs)
    np.testing.assert_allclose(actions, np.clip(2 * mean, -2, 2), atol=1e-5)
    assert actions.dtype == np.float32
    for one, expected in zip(obs[:3], actions, strict=False):
        np.testing.assert_allclose(policy.act(one), expected, atol=1e-6)
        assert policy.action_space.contains(policy.act(one))
    assert policy.value(obs).shape == (50,)
    assert policy.value(obs[0]) == pytest.approx(policy.value(obs)[0], abs=1e-5)
    with pytest.raises(deeprl.UserError, match=r"shape \(2,\) is not one or a batch of Box"):
        policy.act(obs[0, :2])


def test_samples_are_drawn_from_a_seed(run):
    obs = np.zeros((4, 3), np.float32)
    run.policy.reset(seed=1)
    first = run.policy.act(obs, deterministic=False)
    assert len(np.unique(first)) == 4
    assert not np.array_equal(first, run.policy.act(obs, deterministic=False))
    run.policy.reset(seed=1)
    np.testing.assert_array_equal(first, run.policy.act(obs, deterministic=False))


def test_evaluates_as_the_command_does(run):
    result = run.evaluate(3)
    told, _ = evaluate_run(run.path, Wanted(episodes=3))
    assert result.return_mean == told["return_mean"]
    assert result.returns.shape == (2, 3)


def test_a_policy_earns_what_the_evaluation_says(run):
    """Stepping gymnasium's own environment with `act` alone: the returns of the run's evaluation, seed for seed."""
    from deeprl_cli.envs.vector import episode_seed
    from deeprl_cli.evaluation.episodes import FRESH

    env, expected = gym.make("Pendulum-v1"), run.evaluate(2).returns
    for index, (seed, policy) in enumerate(run.policies.items()):
        for episode in range(2):
            obs, _ = env.reset(seed=episode_seed(seed + FRESH, episode, 0, training=False))
            total, over = 0.0, False
            while not over:
                obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
                total, over = total + float(reward), terminated or truncated
            assert total == pytest.approx(expected[index, episode], rel=1e-3)


def test_curves(run):
    curves = run.curves()
    assert len({len(column) for column in curves.values()}) == 1
    assert set(curves["seed"]) == {0, 1}
    assert set(curves["step"][curves["seed"] == 1]) == {128, 256}
    evaluated = ~np.isnan(curves["eval/return_mean"])
    assert evaluated.sum() == 4
    assert (curves["eval/return_mean"][evaluated] < 0).all()


def test_which_checkpoint(run):
    best, last = (deeprl.load(run.path, checkpoint=name) for name in ("best", "last"))
    assert last.kept[0].step == 256
    assert best.kept[0].step in (128, 256)
    assert "last policy of" in repr(last.policy)


def test_a_module_of_a_run_is_imported_with_leave_only(run, tmp_path):
    text = (run.path / "config.yaml").read_text().replace("id: Pendulum-v1", "id: stranger_module:Pendulum-v1")
    (tmp_path / "config.yaml").write_text(text)
    stranger = deeprl.load(tmp_path)
    for use in (lambda: stranger.policy, lambda: stranger.evaluate(1)):
        with pytest.raises(deeprl.UserError, match="stranger_module"):
            use()
    assert "stranger_module" not in sys.modules


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (20_000, "20000"),
        (1e-3, "0.001"),
        (None, "null"),
        (True, "true"),
        ([64, 64], "[64,64]"),
        ({"map_name": "8x8"}, '{map_name:"8x8"}'),
        ("runs/a b=c", '"runs/a b=c"'),
        ("gaussian", "gaussian"),
        ("nan", '"nan"'),
        ('say "no"', '"say \\"no\\""'),
    ],
)
def test_values_in_pythons_terms(value, typed):
    from deeprl_cli.config.overrides import as_typed

    assert as_typed(value) == typed


def test_strings_arrive_as_they_are():
    for odd in ("/tmp/a b/ünï=[x],{y}/'q'", 'a "b" \\"c', "ends \\", "null", "3", "true"):
        assert configured("algo=ppo env=CartPole-v1", {"run_dir": odd}).run_dir == odd
    cfg = configured("", {"algo": "sac", "env": "Pendulum-v1", "network": "mlp", "algo.exploration.kind": "ou"})
    assert (cfg.algo.name, cfg.env.id, cfg.algo.exploration.kind) == ("sac", "Pendulum-v1", "ou")
    assert configured("algo=ppo env=FrozenLake-v1", {"env.kwargs": {"map_name": "8x8"}}).env.kwargs == {
        "map_name": "8x8"
    }


def test_mistakes_are_one_line():
    with pytest.raises(deeprl.UserError, match=r"'algo\.gama'; did you mean 'algo\.gamma'"):
        deeprl.train("algo=ppo env=CartPole-v1", **{"algo.gama": 0.9})
    with pytest.raises(deeprl.UserError, match="no such folder"):
        deeprl.load("runs/nowhere")


def test_stepping_the_loop_oneself_is_training(tmp_path):
    """`iterate` by hand comes to the weights that `train` comes to, and leaves a run that loads."""
    overrides = ["algo=a2c", "env=CartPole-v1", "tuned=none", *SMALL, "eval.every=0"]
    whole = deeprl.train(overrides, quiet=True, total_steps=96, run_dir=str(tmp_path / "whole"))
    with deeprl.make_trainer(overrides, total_steps=96, run_dir=str(tmp_path / "stepped")) as trainer:
        assert trainer.steps == 0
        while trainer.steps < 96:
            trainer.iterate()
        trainer.checkpoint()
    stepped = deeprl.load(trainer.to.name)
    assert stepped.summary["status"] == "finished"
    ours, theirs = (dict(run.policy.modules()["model"].named_parameters()) for run in (stepped, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sac_acts_from_python(tmp_path):
    """Its act may look at the weights as a stack's views; a policy alone has them, too."""
    run = deeprl.train(
        "algo=sac env=Pendulum-v1 tuned=none",
        quiet=True,
        total_steps=40,
        run_dir=str(tmp_path / "run"),
        **{
            "algo.hidden": [8],
            "algo.learning_starts": 20,
            "algo.batch_size": 8,
            "hardware.compile": False,
            "log.tensorboard": False,
            "eval.every": 0,
            "eval.final_episodes": 1,
        },
    )
    for deterministic in (True, False):
        action = run.policy.act(np.zeros(3, np.float32), deterministic=deterministic)
        assert action.shape == (1,)
        assert abs(float(action[0])) <= 2
