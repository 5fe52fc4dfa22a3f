"""Environments that edit, reuse, leave, print, draw from elsewhere or don't let go: a run is what it would be with a
well-behaved twin, or says in a line why not."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from deeprl_cli.cli import main
from deeprl_cli.commands.resume import resume
from deeprl_cli.commands.verify import verify
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.envs.make import build_env, make_vector_env
from deeprl_cli.envs.observations import origin_of
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.weights_chain import read_chain
from deeprl_cli.training.run import train
from tests.contract.harness import short_run
from tests.envs.conftest import config
from tests.envs.odd import Lonely


def trained(run: Path, *options: str, env: str = "test/Odd-v0", algo: str = "ppo") -> Path:
    return train(short_run(algo, run, f"env={env}", *options))


@pytest.mark.parametrize("action", ["multi", "binary", "matrix", "box"])
def test_an_action_edited_in_place_is_the_environments_own(action, tmp_path):
    kinds = ("none", "edits")
    runs = [trained(tmp_path / way, f"env.kwargs.way={way}", f"env.kwargs.action={action}") for way in kinds]
    assert read_chain(runs[0]) == read_chain(runs[1])


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_array_filled_again_and_again_is_copied_into_a_stack(backend, tmp_path):
    options = ["env.frame_stack=3", f"env.backend={backend}"]
    runs = [trained(tmp_path / way, f"env.kwargs.way={way}", *options) for way in ("none", "reuses")]
    assert read_chain(runs[0]) == read_chain(runs[1])
    trained(tmp_path / "dqn", "env.kwargs.way=pixels", "env.frame_stack=3", algo="dqn")  # checks its stacks itself


@pytest.mark.parametrize("way", ["numpy", "python"])
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_global_generators_are_given_to_each_environment(way, backend, tmp_path, capsys):
    """Two runs are the same, whatever else the process draws; `verify` and `resume` are exact."""
    options = [f"env.kwargs.way={way}", f"env.backend={backend}", "log.every=64", "horizon=64"]
    first = trained(tmp_path / "first", *options, "total_steps=64")
    assert "draws from the process's global generators" in capsys.readouterr().out.replace("\n", " ")
    random.random()
    np.random.random()
    second = trained(tmp_path / "second", *options, "total_steps=64")
    assert read_chain(first) == read_chain(second)
    assert read_config(first)["env"]["generators"] == "own"
    assert verify(first, steps=None, trust=False) == 0
    whole = trained(tmp_path / "whole", *options, "total_steps=128")
    resume(first, ["total_steps=128"])
    assert read_chain(first) == read_chain(whole)


def test_what_no_seed_repeats_is_told_and_resumed_with_a_word(tmp_path, capsys):
    run = trained(tmp_path / "run", "env.kwargs.way=clock", "total_steps=36")
    assert "one seed gave two different episodes" in capsys.readouterr().out.replace("\n", " ")
    assert read_config(run)["env"]["generators"] == "shared"
    assert verify(run, steps=None, trust=False) == 1
    verdict, reason = capsys.readouterr().out.splitlines()[-2:]
    assert verdict.startswith("NOT reproduced")
    assert "one seed gave two different episodes" in reason
    resume(run, ["total_steps=64"])
    assert "its actions led elsewhere than before" in capsys.readouterr().out.replace("\n", " ")
    assert read_summary(run)["status"] == "finished"


def test_what_a_look_cannot_see_is_drawn_the_same_in_each_run(tmp_path, capsys):
    runs = []
    for name in ("first", "second"):
        random.random()
        runs.append(trained(tmp_path / name, "env.kwargs.way=late", "log.every=64", "total_steps=64"))
        assert "has drawn from the process's global generators" in capsys.readouterr().out.replace("\n", " ")
    assert read_chain(runs[0]) == read_chain(runs[1])
    assert verify(runs[0], steps=None, trust=False) == 0


def test_large_offsets_are_counted_from_their_first_value():
    cfg = load_config(["algo=ppo", "env=test/Odd-v0", "env.kwargs.way=far"]).env
    seen = look(cfg)
    assert [value != 0 for value in seen.env.origin] == [True, True, False]
    assert "feature 0, 1 of the observation" in " ".join(seen.notes)
    env = build_env(seen.env, training=True)
    raw, _ = env.reset(seed=5)
    vector = make_vector_env(seen.env, [0], 2, training=True)
    obs = vector.reset()
    assert obs.dtype == np.float32
    step = vector.step(np.zeros(2, np.int64))
    assert (step.obs[:, 0] - obs[:, 0]).tolist() == [1.0, 1.0]  # of 1.7e9, which 32 bits can't tell from one more
    assert 0 < abs(float(step.obs[0, 1] - obs[0, 1])) < 0.03
    assert raw[2] == obs[0, 2] == 7.0
    vector.close()


def test_origins():
    """Zero but where 32 bits lose the numbers, or how they change."""
    far, near = np.array([[2e6, 5.0], [2e6, 6.0]]), np.array([[0.1, 5.0], [0.2, 6.0]])
    assert origin_of(list(far), np.dtype(np.float64)) == [2e6, 0.0]
    assert origin_of(list(near), np.dtype(np.float64)) is None
    assert origin_of(list(far), np.dtype(np.float32)) is None  # the environment has lost them itself
    assert origin_of([np.array([5000.0]), np.array([5000.0001])], np.dtype(np.float64)) == [5000.0]
    assert origin_of([np.array([5000.0]), np.array([5001.0])], np.dtype(np.float64)) is None


def test_an_origin_of_another_length_is_refused():
    cfg = config("test/Odd-v0", way="far")
    cfg.origin = [1.0]
    with pytest.raises(UserError, match=r"env.origin has 1 numbers, and an observation of test/Odd-v0 3"):
        look(cfg)


def test_enormous_bounds_are_none(tmp_path):
    run = trained(tmp_path / "run", "env.kwargs.action=huge")
    assert read_summary(run)["eval"]["return_mean"][0] > -1e6
    with pytest.raises(UserError, match="needs actions with finite bounds"):
        trained(tmp_path / "sac", "env.kwargs.action=huge", algo="sac")


@pytest.mark.parametrize(("way", "told"), [("raises", "raises ValueError: close went wrong"), ("sleeps", "come back")])
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_finished_run_is_finished(way, told, backend, tmp_path, capfd, monkeypatch):
    if way == "sleeps":  # nothing is worth waiting for
        monkeypatch.setattr("deeprl_cli.envs.closing.GRACE", 0.1)
        monkeypatch.setattr("deeprl_cli.envs.asynchronous.GRACE", 0.1)
        monkeypatch.setattr("deeprl_cli.envs.closing.LATER", 0.1)
    monkeypatch.setattr("deeprl_cli.envs.closing._said", set())
    began = time.monotonic()
    run = trained(tmp_path / "run", f"env.kwargs.way={way}", f"env.backend={backend}")
    assert time.monotonic() - began < 30
    assert read_summary(run)["status"] == "finished"
    assert capfd.readouterr().err.count(told) == 1  # of however many environments


def test_an_evaluation_cuts_what_nothing_ends(tmp_path, capsys):
    run = trained(tmp_path / "run", "eval.max_steps=50", "env.max_episode_steps=null", env="test/Endless-v1")
    out = capsys.readouterr().out.replace("\n", " ")
    assert "cut at 50 steps (eval.max_steps): nothing ended them" in out
    assert set(read_summary(run)["eval"]["return_mean"]) == {50.0}


def test_one_instance_at_a_time(tmp_path):
    """A run that needs one has it; one that needs more says how many."""
    assert Lonely.alive == 0
    one = ["algo.num_envs=1", "eval.every=0", "seeds=1"]
    run = trained(tmp_path / "run", *one, env="test/Lonely-v0")
    assert read_summary(run)["status"] == "finished"
    assert Lonely.alive == 0
    for more, needs in (("algo.num_envs=2", "needs 2 to train in,"), ("eval.every=8", "needs 1 to train in and 1 or")):
        with pytest.raises(UserError, match=rf"RuntimeError: port 5005 is already in use\): this run {needs}"):
            trained(tmp_path / "more", *one, more, env="test/Lonely-v0")
        assert Lonely.alive == 0


@pytest.mark.parametrize("when", ["init", "reset"])
def test_every_file_lies_where_the_program_was_started(when, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = short_run("ppo", Path("here"), "env=test/Odd-v0", "env.kwargs.way=leaves", f"env.kwargs.when={when}")
    assert train(cfg) == Path("here")
    assert Path.cwd() == tmp_path
    assert {"config.yaml", "summary.json", "checkpoints", "seed_0"} <= {path.name for path in Path("here").iterdir()}
    resume(Path("here"), ["total_steps=480"])
    assert read_summary(tmp_path / "here")["total_steps"] == 480


def test_json_is_json_whatever_is_printed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "loud.py").write_text(
        "import os, gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Loud(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        print('a step'); os.write(1, b'from below')\n"
        "        return super().step(action)\n"
        "gym.register('Loud-v0', Loud, max_episode_steps=20)\n"
    )
    small = ["tuned=none", "total_steps=64", "algo.num_envs=2", "algo.rollout_length=32", "eval.final_episodes=2"]
    main(["train", "algo=ppo", "env=loud:Loud-v0", *small, "run_dir=run"])
    capfd.readouterr()
    main(["eval", "run", "--trust", "--json", "--checkpoint", "last"])
    out, err = capfd.readouterr()
    assert json.loads(out)["env"] == "loud:Loud-v0"
    assert "a step" in err
    assert "from below" in err
