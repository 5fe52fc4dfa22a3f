"""What becomes of trouble in the worker processes of env.backend=async: told whole, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.envs import asynchronous
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.errors import UserError
from tests.envs.conftest import config
from tests.envs.probes import Probe

ROOT = Path(__file__).parent.parent.parent


class Trouble(Probe):
    """Behaves in the program, and misbehaves in a worker process."""

    def __init__(self, trouble, marker="", where=0):
        super().__init__()
        self.trouble, self.marker = trouble, marker
        # workers start one after the other: the marker counts them
        self.number = -1
        if multiprocessing.parent_process() is not None:
            with open(marker, "a+") as file:
                file.write("x")
                self.number = file.tell() - 1
        self.mine = self.number == where
        if self.mine and trouble == "build":
            raise ZeroDivisionError("no such scene")

    def step(self, action):
        if self.mine and self.trouble == "hang":
            time.sleep(1000)
        if self.mine and self.trouble == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        if self.mine and self.trouble == "exit":
            sys.exit(3)
        return super().step(action)

    def close(self):
        if self.trouble == "farewell" and self.number >= 0:
            Path(f"{self.marker}-{self.number}").touch()


if "test/Trouble-v0" not in gym.registry:
    gym.register("test/Trouble-v0", Trouble)


@pytest.fixture
def troubled(tmp_path, opened):
    made = []

    def make(trouble):
        cfg = config("test/Trouble-v0", "async", trouble=trouble, marker=str(tmp_path / "marker"))
        env = opened(make_vector_env(cfg, [8], 3, training=True))
        made.extend(env._envs.processes)
        return env

    yield make
    assert not any(process.is_alive() for process in made), "a worker is left"


ACTIONS = np.zeros((3, 2), np.float32)


def test_an_environment_that_cant_be_built_in_its_worker_says_why(troubled):
    env = troubled("build")
    with pytest.raises(RuntimeError) as caught:
        env.reset()
    first, *rest = str(caught.value).splitlines()
    assert "of seed 8 (test/Trouble-v0)" in first
    assert first.endswith("raised ZeroDivisionError: no such scene")
    assert "Traceback" in str(rest)
    assert 'raise ZeroDivisionError("no such scene")' in str(rest)
    env.close()


@pytest.mark.parametrize("trouble", ["hang", "stubborn"])
def test_an_environment_that_hangs_is_named_and_ended(troubled, trouble, monkeypatch):
    env = troubled(trouble)
    env.reset()
    monkeypatch.setattr(asynchronous, "PATIENCE", 0.3)  # by now all that there is to wait for is one step
    monkeypatch.setattr(asynchronous, "GRACE", 0.3)
    with pytest.raises(UserError, match=r"of seed 8 \(test/Trouble-v0\).* has not answered for 0.3 s"):
        env.step(ACTIONS)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 30


def test_an_environment_that_leaves_is_named(troubled):
    env = troubled("exit")
    env.reset()
    with pytest.raises(UserError, match=r"of seed 8 .*: its step\(\) ends the program, sys.exit\(3\)$"):
        env.step(ACTIONS)
    env.close()


def test_environments_are_closed_in_their_processes(troubled, tmp_path):
    env = troubled("farewell")
    env.reset()
    env.step(ACTIONS)
    env.close()
    assert len(list(tmp_path.glob("marker-*"))) == 3


def test_closing_amid_a_step_leaves_nothing(troubled, monkeypatch):
    """As after a second Ctrl-C: an answer is still to come."""
    monkeypatch.setattr(asynchronous, "GRACE", 0.3)
    env = troubled("hang")
    env.reset()
    env._envs.step_async(env._actions.decode(ACTIONS))
    env.close()


def test_killed_while_its_episodes_are_brought_back(troubled):
    env = troubled("none")
    env.reset()
    env.step(ACTIONS)
    state = env.state_dict()
    os.kill(env._envs.processes[1].pid, signal.SIGKILL)
    env._envs.processes[1].join()
    with pytest.raises(UserError, match=r"environment 1 of seed 8.*exit code -9; out of memory"):
        env.load_state_dict(state)
    env.close()


# ---- a whole run

MODULE = """
import os, time
import gymnasium
from deeprl_cli.envs.testing import Chain

class Worse(Chain):
    def __init__(self, trouble):
        super().__init__()
        self.trouble, self.steps, self.program = trouble, 0, os.getpid()

    def step(self, action):
        self.steps += 1
        if self.steps == 20 and self.trouble == "raise":
            raise ZeroDivisionError("the physics blew up")
        if self.steps == 20 and self.trouble == "die":
            os.kill(os.getpid(), 9)
        if self.trouble == "slow":
            time.sleep(0.05)
        return super().step(action)

gymnasium.register("Worse-v0", Worse, max_episode_steps=5)
"""


def begin(tmp_path, trouble):
    (tmp_path / "worse.py").write_text(MODULE)
    overrides = ["env=worse:Worse-v0", "env.backend=async", f"env.kwargs.trouble={trouble}", "algo.num_envs=2"]
    overrides += ["algo.rollout_length=8", "algo.batch_size=16", "eval.every=0", "run_dir=run", "hardware.threads=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "deeprl_cli", "train", "hardware.compile=false", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def in_session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.getsid(int(entry.name)) == leader:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state != "Z" else []
        except OSError:
            continue
    return found


def none_left(leader: int) -> bool:
    end = time.monotonic() + 20
    while in_session(leader) and time.monotonic() < end:
        time.sleep(0.1)
    return not in_session(leader)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("raise", "of seed 0 (worse:Worse-v0), episode"),
        ("die", "its process died with exit code -9; out of memory is the usual cause"),
    ],
)
def test_a_run_whose_worker_fails_says_so_and_ends(tmp_path, trouble, says):
    process = begin(tmp_path, trouble)
    _, err = process.communicate(timeout=200)
    assert process.returncode == {"raise": 1, "die": 2}[trouble]
    assert says in err
    assert ("Traceback" in err) == (trouble == "raise")
    for part in ("raised ZeroDivisionError: the physics blew up\n", 'raise ZeroDivisionError("the physics blew up")'):
        assert (part in err) == (trouble == "raise")
    assert none_left(process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_worker(tmp_path, number):
    """Even killed outright: the workers find the other end of their pipes gone."""
    process = begin(tmp_path, "slow")
    while not (tmp_path / "run" / "config.yaml").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    time.sleep(1)
    assert len(in_session(process.pid)) >= 3
    os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert none_left(process.pid)
