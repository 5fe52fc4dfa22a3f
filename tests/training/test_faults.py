"""Faults in mid-run: an environment that raises or breaks its own promises, a clock that is set back."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from deeprl_cli.commands.resume import resume
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.training.run import train
from tests.commands.test_resume import left
from tests.contract.harness import short_run
from tests.training.faulty import SPOILT, Faulty

DUE = {
    "shape": r"returned an array of float32 of shape \(1,\) as its observation, .* declares float32 of shape \(3,\)",
    "axis": r"returned an array of float32 of shape \(1, 3\) as its observation",
    "text": "returned a str as its observation",
    "NaN": "returned NaN or infinity in its observation",
    "nothing": "returned None as its observation",
    "reward": "returned NaN or infinity in its reward",
    "no reward": "returned None as its reward, where one number is due",
    "rewards": r"returned an array of float64 of shape \(2,\) as its reward",
    "four": "a tuple of 4 values, where five values .* are due",
    "info": "a list of 0 values as its info, where a dictionary is due",
    "flag": "returned None as `truncated`, where True or False is due",
    "last": "returned the number 3.5 .* as its observation",
}


@pytest.fixture
def faulty(monkeypatch):
    """Sets what goes wrong in environments `test/Faulty-v0`, counting from here on."""
    gym.register("test/Faulty-v0", Faulty)

    def goes_wrong(fault: str | None) -> None:
        monkeypatch.setattr(Faulty, "fault", fault)
        monkeypatch.setattr(Faulty, "steps", 0)

    yield goes_wrong
    del gym.registry["test/Faulty-v0"]


def config(run: Path, *options: str, name: str = "ppo") -> Any:
    return short_run(name, run, "env=test/Faulty-v0", "checkpoint.every=30", "eval.every=0", *options)


@pytest.mark.parametrize("name", ["ppo", "dqn", "reinforce"])
def test_an_environment_that_raises(name, tmp_path, faulty):
    """Its traceback is the user's, whole; below it the environment, the step, the checkpoint, and how to go on."""
    run = tmp_path / "run"
    faulty(None)
    whole = train(config(tmp_path / "whole", name=name))
    faulty("raises")
    with pytest.raises(ZeroDivisionError, match="the physics blew up") as caught:
        train(config(run, name=name))
    env, where = caught.value.__notes__
    assert env.startswith("raised by environment ")
    assert "of seed 0 (test/Faulty-v0), episode " in env
    assert where.startswith(f"deeprl: {run}: stopped at step ")
    assert "the last whole checkpoint is of step " in where
    assert where.endswith(f"; fix this, then `deeprl resume {run}`")
    summary = read_summary(run)
    assert summary["status"] == "failed"
    assert summary["error"].startswith("ZeroDivisionError: the physics blew up (faulty.py:")
    faulty(None)
    resume(run, [])
    for folder in (run, whole):
        (folder / "checkpoints" / "best").mkdir()  # nothing was evaluated
    assert left(run) == left(whole)
    assert read_summary(run)["error"] is None


def test_tensorboard_says_that_a_run_has_failed_until_it_goes_on(tmp_path, faulty):
    run = tmp_path / "run"
    faulty("raises")
    with pytest.raises(ZeroDivisionError):
        train(config(run, "log.tensorboard=true", name="ppo"))
    (events,) = (run / "seed_0").glob("events.out.tfevents.*")
    assert b"failed at step " in events.read_bytes()
    faulty(None)
    resume(run, [])
    told = events.read_bytes()
    assert b"failed at step " not in told
    assert b"finished at step " in told


@pytest.mark.parametrize("fault", SPOILT)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_what_an_environment_must_not_return(fault, backend, tmp_path, faulty, monkeypatch):
    """One line, the same on every back-end: which environment, where, what came and what is due. The step after the
    fault never happens."""
    faulty(fault if backend == "sync" else None)
    run = tmp_path / "run"
    options = [] if backend == "sync" else ["env.backend=async", f"env.kwargs.fault='{fault}'", "env.kwargs.at=80"]
    monkeypatch.setattr(Faulty, "at", Faulty.at)  # what the options set in this process is put back
    with pytest.raises(UserError) as caught:
        train(config(run, *options))
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    assert re.search(r"environment [01] of seed 0 \(test/Faulty-v0\), episode \d+, step \d+[:,] ", told)
    assert re.search(DUE[fault], told)
    assert f"`deeprl resume {run}`" in told
    assert backend == "async" or Faulty.steps == Faulty.at
    assert read_summary(run)["status"] == "failed"


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_observation_outside_of_its_discrete_space(backend, tmp_path, faulty, monkeypatch):
    faulty(None)
    monkeypatch.setattr(Faulty, "at", 0)
    wrong = ["env.kwargs.discrete=true", "env.kwargs.fault=outside", "env.kwargs.at=20"]
    cfg = config(tmp_path / "run", *wrong, f"env.backend={backend}")
    with pytest.raises(UserError, match=r"environment \d of seed 0 .*returned an observation outside of its space"):
        train(cfg)


def test_the_program_shows_the_traceback_and_one_line(tmp_path):
    """And ends with code 1."""
    module = tmp_path / "faulty_envs.py"
    module.write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Bad(CartPoleEnv):\n"
        "    total = 0\n"
        "    def step(self, action):\n"
        "        Bad.total += 1\n"
        "        if Bad.total == 200: raise RuntimeError('out of ink')\n"
        "        return super().step(action)\n"
        "gym.register('Bad-v0', Bad)\n"
    )
    run = tmp_path / "run"
    overrides = ["algo=ppo", "env=faulty_envs:Bad-v0", "tuned=none", "total_steps=2000", "algo.rollout_length=16"]
    overrides += ["checkpoint.every=100", "hardware.compile=false", "hardware.threads=1", f"run_dir={run}"]
    done = subprocess.run(
        [sys.executable, "-m", "deeprl_cli", "train", *overrides], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert "Traceback (most recent call last):" in lines
    assert any("out of ink" in line and "RuntimeError" in line for line in lines)
    assert lines[-1].startswith(f"deeprl: {run}: stopped at step ")


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Durations are counted by a clock that no one sets; names and events stand whatever the time is."""
    whole = train(short_run("dqn", tmp_path / "whole", "log.tensorboard=true"))
    jumps = random.Random(0)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1_700_000_000.0 + jumps.uniform(-1e8, 1e8))
        run = train(short_run("dqn", tmp_path / "run", "log.tensorboard=true"))
    assert left(run) == left(whole)
    summary = read_summary(run)
    assert 0 < summary["startup_seconds"] < summary["wall_seconds"] < 600
    assert wall_times(run) == sorted(wall_times(run))
    (run / "summary.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 5.0)  # years before the run began
        resume(run, [])
    assert left(run) == left(whole)
    assert summary["wall_seconds"] < read_summary(run)["wall_seconds"] < 1200


def wall_times(run: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (path,) = (run / "seed_0").glob("events.out.tfevents.*")
    return [event.wall_time for event in EventFileLoader(str(path)).Load()]
