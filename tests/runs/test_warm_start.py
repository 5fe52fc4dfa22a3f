"""`init_from`: whose weights a run starts from, what becomes of the rest, and what is refused before the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import env_spec
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.policy import make_policy
from deeprl_cli.runs.folder import read_config
from deeprl_cli.runs.tensor_files import load_weights
from deeprl_cli.runs.warm_start import find_source, start_from
from deeprl_cli.runs.weights import best_path
from deeprl_cli.training.preflight import preflight
from tests.contract.harness import short_run, trained

MLP = ["env=ArithQA-v0", "network=mlp", "tuned=none", "algo.hidden=[16,16]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs of two seeds (3 and 4) to start from, by name of the algorithm."""
    folder = tmp_path_factory.mktemp("sources")
    made = {}

    def run(name, *options):
        key = (name, *options)
        if key not in made:
            place = folder / str(len(made))
            made[key] = trained(short_run(name, place, "seed=3", "seeds=2", *options))[0]
        return made[key]

    return run


def prepared(*overrides):
    """A policy as `train` would have it before its first step, and what it says."""
    cfg = load_config([*overrides])
    policy = make_policy(cfg, env_spec(cfg.env))
    initial = [{k: v.clone() for k, v in policy.weights(i).items()} for i in range(cfg.seeds)]
    notes = start_from(policy, cfg, find_source(cfg))
    return policy, initial, notes


def best(run, seed):
    return load_weights(best_path(run, seed))[0]


def assert_taken(policy, index, source, pairs):
    """Parameters of ours under a prefix are those of theirs under another; at least one is there."""
    ours = policy.weights(index)
    for mine, its in pairs.items():
        names = [name for name in ours if name.startswith(mine)]
        assert names
        for name in names:
            assert torch.equal(ours[name], source[its + name.removeprefix(mine)]), name


def pendulum(name):
    return [f"algo={name}", "env=Pendulum-v1", "tuned=none", "algo.hidden=[16,16]"]


@pytest.mark.parametrize(
    ("source", "options", "target", "pairs", "kept"),
    [
        ("bc", MLP, ["algo=grpo", *MLP], {"actor.": "actor.", "actor_ref.": "actor."}, None),
        ("bc", MLP, ["algo=ppo", *MLP], {"model.actor.": "actor.actor."}, "critic (not there)"),
        ("bc", MLP, ["algo=reinforce", *MLP], {"actor.": "actor."}, "critic (not there)"),
        ("ppo", MLP, ["algo=grpo", *MLP], {"actor.actor.": "model.actor."}, None),
        ("ppo", [], [*pendulum("ppo")[:1], "env=CartPole-v1", *pendulum("ppo")[2:]], {"model.": "model."}, None),
        ("sac", [], pendulum("sac"), {"actor.": "actor.", "critic.": "critic.", "critic_target.": "critic."}, None),
        ("dqn", [], ["algo=dqn", "env=CartPole-v1", "tuned=none", "algo.hidden=[16,16]"], {"q_target.": "q."}, None),
    ],
)
def test_starts_from_the_best_weights_of_the_same_seed(runs, source, options, target, pairs, kept):
    """Networks by name, in one module or in two; targets and references are copies again; the rest is named."""
    run = runs(source, *options)
    policy, initial, notes = prepared(*target, "seed=3", "seeds=2", f"init_from={run}")
    for index, seed in enumerate((3, 4)):
        assert_taken(policy, index, best(run, seed), pairs)
        if kept:
            name = "critic" if target[0] == "algo=reinforce" else "model.critic"
            for key, value in initial[index].items():
                if key.startswith(f"{name}."):
                    assert torch.equal(policy.weights(index)[key], value)
    assert f"starts from {run}, best checkpoint" in notes[0]
    assert "seed 3 from 3, seed 4 from 4" in notes[0]
    assert len(notes) == (2 if kept else 1)
    assert kept is None or kept in notes[1]


def test_other_seeds_go_in_order(runs):
    """Seeds 4, 5, 6 of a run with 3 and 4: its own number where there is one, else by position, over and over."""
    run = runs("bc", *MLP)
    policy, _, notes = prepared("algo=grpo", *MLP, "seed=4", "seeds=3", f"init_from={run}")
    for index, seed in enumerate((4, 4, 3)):
        assert_taken(policy, index, best(run, seed), {"actor.": "actor."})
    assert "seed 4 from 4, seed 5 from 4, seed 6 from 3" in notes[0]


def test_without_a_best_checkpoint_the_last(runs):
    """eval.every=0 leaves none."""
    run = runs("bc", *MLP, "eval.every=0", "algo.lr=0.01")
    assert not (run / "checkpoints" / "best").exists()
    policy, initial, notes = prepared("algo=grpo", *MLP, "seed=3", "seeds=2", f"init_from={run}")
    assert "last checkpoint" in notes[0]
    for index in (0, 1):
        moved = policy.weights(index)["actor.actor.head.weight"]
        assert not torch.equal(moved, initial[index]["actor.actor.head.weight"])
        assert torch.equal(moved, policy.weights(index)["actor_ref.actor.head.weight"])
    assert not torch.equal(policy.algorithm.actor.flat[0], policy.algorithm.actor.flat[1])


def test_observation_statistics_come_along(runs):
    """Or it is refused: weights mean nothing under another normalisation."""
    run = runs("ppo", "algo.normalize_obs=true")
    target = ["algo=ppo", "env=CartPole-v1", "tuned=none", "algo.hidden=[16,16]", "seed=3", f"init_from={run}"]
    policy, _, _ = prepared(*target, "algo.normalize_obs=true")
    assert_taken(policy, 0, best(run, 3), {"obs_statistics.": "obs_statistics.", "model.": "model."})
    assert policy.obs_statistics.count[0] > 100
    with pytest.raises(ConfigError, match=r"has learned under algo\.normalize_obs=true: give the same here"):
        prepared(*target)


def test_nothing_fits(runs):
    """One line that names both runs' networks."""
    run = runs("bc", *MLP)
    with pytest.raises(UserError) as error:
        prepared("algo=grpo", *MLP[:-1], "algo.hidden=[8]", f"init_from={run}")
    said = str(error.value)
    assert "none of its networks (actor of " in said
    assert "fits this run's (actor of " in said
    assert "actor_ref" not in said
    assert len(said.splitlines()) == 1


def test_a_run_with_init_from_says_so_and_can_be_repeated(runs, tmp_path, capsys):
    """Through the command line: the first evaluation is of the weights taken, the config knows where from."""
    run = runs("bc", *MLP)
    out = tmp_path / "run"
    short = ["algo.group_size=2", "algo.num_envs=4", "total_steps=80", "eval.every=0", "seed=3"]
    quiet = ["hardware.compile=false", "log.tensorboard=false"]
    main(["train", "algo=grpo", *MLP, *short, *quiet, f"init_from={run}", f"run_dir={out}"])
    said = capsys.readouterr().out
    assert "best checkpoint: actor (seed 3 from 3)" in said
    assert "before training, greedy, seed 3" in said
    assert read_config(out)["init_from"] == str(run)


def refused(*overrides):
    """What `train` says instead of starting; nothing is left behind."""
    with pytest.raises(UserError) as error:
        preflight(load_config(list(overrides)))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_what_is_no_run_is_refused_before_the_start(runs, tmp_path):
    """Missing, not a run, without checkpoints, damaged: one line each."""
    assert "no such folder" in refused("algo=grpo", *MLP, f"init_from={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "not a run" in refused("algo=grpo", *MLP, f"init_from={tmp_path / 'empty'}")
    bare = tmp_path / "bare"
    shutil.copytree(runs("bc", *MLP), bare)
    shutil.rmtree(bare / "checkpoints")
    assert "has no checkpoint to start from" in refused("algo=grpo", *MLP, f"init_from={bare}")
    damaged = tmp_path / "damaged"
    shutil.copytree(runs("bc", *MLP), damaged)
    path = best_path(damaged, 3)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        prepared("algo=grpo", *MLP, "seed=3", f"init_from={damaged}")


def test_no_module_is_imported_that_was_not_typed(runs, tmp_path):
    """A last checkpoint is read by building its environment; best ones need none."""
    bare = tmp_path / "bare"
    shutil.copytree(runs("bc", *MLP), bare)
    config = (bare / "config.yaml").read_text()
    (bare / "config.yaml").write_text(config.replace("id: ArithQA-v0", "id: some.module:ArithQA-v0"))
    options = ["algo=grpo", *MLP, "seed=3", f"init_from={bare}"]
    assert find_source(load_config(options)).checkpoint == "best"
    shutil.rmtree(bare / "checkpoints" / "best")
    assert "runs code, for its environment some.module:ArithQA-v0" in refused(*options)
    (bare / "config.yaml").write_text(config.replace("wrappers: []", "wrappers: ['some.module:Wrapper']"))
    assert "runs code, for its env.wrappers import some.module:Wrapper" in refused(*options)


def test_no_folder_is_made_for_weights_that_do_not_fit(runs, tmp_path, monkeypatch, capsys):
    run = runs("bc", *MLP)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "algo=grpo", *MLP[:-1], "algo.hidden=[8]", f"init_from={run}"])
    assert stopped.value.code == 2
    assert "none of its networks" in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []


def test_a_resumed_run_no_longer_needs_its_source(runs, tmp_path):
    """What it started from may be gone."""
    cfg = load_config(["algo=grpo", *MLP, f"init_from={tmp_path / 'gone'}"])
    preflight(cfg, fresh=False)
    with pytest.raises(UserError, match="init_from"):
        preflight(cfg)
