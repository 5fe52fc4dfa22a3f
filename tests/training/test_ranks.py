"""Data-parallel ranks: what one process computes, and what becomes of the run when one of them dies.

Real processes throughout. None outlives its test.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprl_cli.cli import main
from deeprl_cli.commands.resume import resume
from deeprl_cli.config.changes import changed
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs import replayed
from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.returns import explained_variance, normalise
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.reading import read_run
from deeprl_cli.training.assemble import training_envs
from deeprl_cli.training.launch import _max_restarts, check_ranks, counted
from deeprl_cli.training.run import train
from tests.training.rank_jobs import samples

pytestmark = pytest.mark.slow  # processes that start, and load torch, again and again

SHORT = ["tuned=none", "eval.every=0", "eval.final_episodes=1", "log.tensorboard=false", "hardware.threads=1"]
SHORT += ["log.every=64", "checkpoint.every=0", "algo.hidden=[16,16]", "seed=3"]
STEPS = "algo.num_envs=4 total_steps=256 hardware.compile=false"
ENVIRONMENTS = {"CARTPOLE": f"env=CartPole-v1 {STEPS}", "PENDULUM": f"env=Pendulum-v1 {STEPS}"}
# one process and two ranks do the same
SAME = {
    "ppo": "algo=ppo CARTPOLE algo.rollout_length=32 algo.batch_size=32 algo.epochs=3 seeds=2 algo.normalize_obs=true "
    "algo.normalize_reward=true algo.kl.mode=stop algo.kl.target=0.003",
    "ppo_sample": "algo=ppo PENDULUM algo.rollout_length=16 algo.subepisodes_per_update=2 algo.minibatch=sample "
    "algo.updates=5 algo.batch_size=24 algo.kl.mode=penalty algo.kl.adaptive=true algo.kl.target=0.01 "
    "algo.kl.ref=initial",
    "a2c": "algo=a2c CARTPOLE algo.rollout_length=8 algo.normalize_advantage=true seeds=2",
    "a2c_sum": "algo=a2c PENDULUM algo.rollout_length=8 algo.reduction=sum algo.lr=1e-4",
    "actor_critic": "algo=actor_critic CARTPOLE algo.gamma_t=true algo.normalize_reward=true",
    "trpo": "algo=trpo CARTPOLE algo.rollout_length=32 algo.batch_size=32 algo.epochs=2",
}
REPLAY = "algo.buffer_capacity=300 algo.learning_starts=32 algo.batch_size=16 algo.train_every=8"
# two ranks have other minibatches than one process
OTHERWISE = {
    "dqn": f"algo=dqn CARTPOLE {REPLAY} algo.normalize_obs=true",
    "sac": f"algo=sac PENDULUM {REPLAY} algo.exploration.kind=ou",
    "compiled": f"{SAME['ppo']} hardware.compile=true",
}
STARTUP = 300.0  # seconds; a busy machine takes long to import torch three times


def options(name: str) -> list[str]:
    """What `deeprl train` is given for one of these."""
    text = (SAME | OTHERWISE)[name]
    for word, meaning in ENVIRONMENTS.items():
        text = text.replace(word, meaning)
    return [*SHORT, *text.split()]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs that two ranks do: once for all of pytest's workers, of which the others wait."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pair"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            run_pair(folder)
    return folder


def run_pair(folder: Path) -> None:
    folder.mkdir()
    runs = {name: options(name) for name in SAME | OTHERWISE}
    (folder / "jobs.json").write_text(json.dumps({"ports": free_ports(len(runs) + 1), "runs": runs}))
    processes = []
    for rank in range(2):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.training.rank_jobs", str(folder)]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    (folder / "done").touch()


def curves(run: Path) -> dict[str, dict[str, list[float]]]:
    """Of each seed, all that was logged but times."""
    found = {}
    for path in sorted(run.glob("seed_*/metrics.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if not name.startswith("time/")]
        found[path.parent.name] = {name: [float(row[name] or "nan") for row in rows] for name in names}
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / "last").state["policy"]


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_equal_one_process(name, pair, tmp_path):
    """The same episodes, losses, statistics and weights, to float tolerance: half of the environments each."""
    alone = train(load_config([*options(name), f"run_dir={tmp_path / 'alone'}"]))
    expected, found = curves(alone), curves(pair / name)
    assert found.keys() == expected.keys()
    for seed in expected:
        assert found[seed].keys() == expected[seed].keys()
        for metric, values in expected[seed].items():
            np.testing.assert_allclose(found[seed][metric], values, rtol=2e-3, atol=1e-4, err_msg=metric)
    whole, theirs = weights(alone), weights(pair / name)
    assert whole.keys() == theirs.keys()
    for key, tensor in whole.items():
        if isinstance(tensor, torch.Tensor):
            torch.testing.assert_close(theirs[key], tensor, rtol=1e-3, atol=1e-4, msg=key)
    assert json.loads((pair / name / "summary.json").read_text())["status"] == "finished"


def test_one_compiled_graph_holds_the_collectives(pair):
    """Traced whole (`fullgraph`), by inductor with its C++ wrapper, two ranks update as they do eagerly."""
    eager, compiled = weights(pair / "ppo"), weights(pair / "compiled")
    for key, tensor in eager.items():
        if isinstance(tensor, torch.Tensor):
            torch.testing.assert_close(compiled[key], tensor, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_replay_algorithms_learn_in_ranks(name, pair):
    """Each from a memory of its own: as many updates as one process does, of weights that stay the same on both (a
    rank that has others ends the run); the checkpoint has the noise of all environments, and no memory."""
    (curve,) = curves(pair / name).values()
    updates = [count for count in curve["optim/updates"] if not math.isnan(count)]  # the last point is an evaluation's
    assert updates[-1] == (256 - 32) // 8 + 1
    state = load_checkpoint(pair / name / "checkpoints" / "last").state
    assert state["memory"] is None
    assert state["envs"]["envs_per_seed"] == 4
    if name == "sac":
        assert state["policy"]["algorithm.exploration.x"].shape == (1, 4, 1)


def test_sums_over_ranks(pair):
    """Each rank gets what one process computes from everything."""
    value, returns, weight = samples()
    whole = normalise(returns, weight)
    for rank in range(2):
        found = json.loads((pair / f"arithmetic-{rank}.json").read_text())
        part = whole[:, 6 * rank : 6 * rank + 6]
        torch.testing.assert_close(torch.tensor(found["normalised"]), part, rtol=1e-3, atol=2e-4)
        expected = explained_variance(value, returns, weight)
        torch.testing.assert_close(torch.tensor(found["explained"]), expected, rtol=1e-4, atol=1e-4)
        assert found["pooled"] == torch.arange(12.0).expand(2, 12).tolist()
        assert found["average"] == [1.5]
        assert found["total"] == [0, 1]
        assert found["any"] == [True, False]
        assert found["told"] == 7


def test_the_state_of_environments_divides_and_joins():
    """A checkpoint doesn't depend on the number of ranks: what four hold together is what one process holds."""
    cfg = load_config(["algo=ppo", "env=CartPole-v1", "algo.num_envs=4", "seeds=2", "tuned=none"])
    envs = training_envs(cfg)
    envs.reset()
    for t in range(40):
        envs.step(np.arange(8) * t % 3 % 2)
    whole = envs.state_dict()
    envs.close()
    parts = [replayed.part(whole, which, 4) for which in range(4)]
    assert [len(part["actions"]) for part in parts] == [
        sum(whole["lengths"][i] for i in (which, 4 + which)) for which in range(4)
    ]
    for joined in (replayed.joined(parts), replayed.joined([replayed.part(whole, which, 2) for which in range(2)])):
        assert joined.keys() == whole.keys()
        for key, value in whole.items():
            np.testing.assert_array_equal(joined[key], value)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("algo=ppo", "give hardware.ranks=2"),
        ("algo=reinforce hardware.ranks=2", "waits for whole episodes"),
        ("algo=grpo env=CartPole-v1 hardware.ranks=2", "waits for whole episodes"),
        ("algo=a2c algo.subepisodes=terminal hardware.ranks=2", "algo=a2c in this form waits for whole episodes"),
        ("algo=bc hardware.ranks=2", "learns from demonstrations"),
        ("algo=ppo env.backend=native hardware.ranks=2", "use env.backend=sync"),
        ("algo=ppo algo.num_envs=10 algo.batch_size=320 hardware.ranks=4", "algo.num_envs=8"),
        ("algo=ppo algo.num_envs=6 algo.rollout_length=10 algo.batch_size=10 hardware.ranks=3", "algo.batch_size=12"),
        ("algo=dqn algo.num_envs=6 algo.batch_size=64 hardware.ranks=3", "algo.batch_size=63"),
        ("algo=ppo hardware.ranks=2 hardware.on_death=continue", "hardware.on_death=restart or fail"),
        ("algo=ppo hardware.ranks=2 hardware.device=cuda", "takes 2 GPUs"),
    ],
)
def test_refused(options, says, monkeypatch):
    """In one line that says what to type instead."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    cfg = load_config(["tuned=none", "env=CartPole-v1", "hardware=multiprocess", *options.split()])
    with pytest.raises(ConfigError, match=says) as refusal:
        check_ranks(cfg)
    assert "\n" not in str(refusal.value)


def test_torchrun_must_have_started_as_many(monkeypatch):
    """Where the number isn't given, torchrun's is the run's."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    options = ["algo=ppo", "env=CartPole-v1", "tuned=none", "hardware=multiprocess"]
    check_ranks(load_config(options))
    assert counted(load_config(options)).hardware.ranks == 4
    with pytest.raises(ConfigError, match=r"hardware\.ranks=4"):
        check_ranks(load_config([*options, "hardware.ranks=2"]))


# --- launched, broken off, killed -------------------------------------------------------------------------------------

RUN = ["algo=ppo", "env=CartPole-v1", "tuned=none", "algo.num_envs=4", "algo.rollout_length=16", "algo.batch_size=32"]
RUN += ["algo.epochs=2", "algo.hidden=[16,16]", "eval.every=0", "eval.final_episodes=1", "log.tensorboard=false"]
RUN += ["log.every=64", "hardware=multiprocess", "hardware.ranks=2", "hardware.compile=false"]
ENDLESS = ["total_steps=10000000", "checkpoint.every=128"]


class Job:
    """`deeprl` in a process of its own, what it says, and its ranks."""

    def __init__(self, *arguments: str, command: tuple[str, ...] = ("-m", "deeprl_cli")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.seen: set[int] = set()

    def ranks(self) -> dict[int, int]:
        """Process ids by rank of those that live."""
        found = {}
        for pid in descendants(self.process.pid):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            named = dict(entry.split(b"=", 1) for entry in environment if b"=" in entry)
            if b"RANK" in named:
                found[int(named[b"RANK"])] = pid
        self.seen |= set(found.values())
        return found

    def wait_for(self, path: Path, newer_than: float = 0.0) -> None:
        """Until a file is there that was written after a time."""
        deadline = time.monotonic() + STARTUP
        while not (path.exists() and path.stat().st_mtime > newer_than):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Exit code and output, when it and all its ranks have ended."""
        output, _ = self.process.communicate(timeout=STARTUP)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in self.seen):
            assert time.monotonic() < deadline, "a rank outlived its launcher"
            time.sleep(0.05)
        return self.process.returncode, output


def descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [pid for child in children for pid in descendants(child)]


@pytest.fixture
def job() -> Iterator[type[Job]]:
    """Starts jobs, and sees that nothing of them is left."""
    started: list[Job] = []

    class Watched(Job):
        def __init__(self, *arguments: str, **keywords: tuple[str, ...]) -> None:
            super().__init__(*arguments, **keywords)
            started.append(self)

    yield Watched
    for one in started:
        left = [pid for pid in {one.process.pid, *one.seen, *descendants(one.process.pid)} if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        one.process.wait()
        assert not left, "a process outlived the test"


@pytest.fixture
def launch(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`deeprl` with its launcher in this process, which has torch already: exit code and output, of the ranks too.

    For what ends by itself; what is sent signals is a `job`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: str) -> tuple[int, str]:
        before, code = set(descendants(os.getpid())), 0
        capfd.readouterr()
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
        assert not any(alive(pid) for pid in set(descendants(os.getpid())) - before), "a rank outlived its launcher"
        out, err = capfd.readouterr()
        return code, err + out

    return run


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def last(run: Path) -> Path:
    return run / "checkpoints" / "last" / "manifest.json"


def test_a_run_is_launched_stopped_resumed_and_evaluated(job, launch, tmp_path):
    """Ctrl-C ends all ranks at one step, with a checkpoint, and leaves no process; resumed, the run ends as it would
    have: the chain of hashes of its weights is the unbroken run's."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    first = job("train", *RUN, *ENDLESS, f"run_dir={run}")
    first.wait_for(last(run))
    assert len(first.ranks()) == 2
    first.process.send_signal(signal.SIGINT)
    code, output = first.end()
    assert code == 130, output
    assert "Traceback" not in output
    summary = json.loads((run / "summary.json").read_text())
    stopped = load_checkpoint(last(run).parent).state["steps"]
    assert summary["status"] == "interrupted"
    assert summary["total_steps"] == stopped

    steps = (stopped // 64 + 4) * 64
    code, output = launch("resume", str(run), f"total_steps={steps}")
    assert code == 0, output
    assert f"goes on from step {stopped}" in output
    horizon = f"horizon={ENDLESS[0].partition('=')[2]}"
    code, output = launch("train", *RUN, f"total_steps={steps}", horizon, f"run_dir={whole}")
    assert code == 0, output
    assert (run / "weights.sha256").read_text() == (whole / "weights.sha256").read_text()
    _, output = launch("eval", str(run), "--checkpoint", "last", "--episodes", "3", "--json")
    assert json.loads(output.strip().splitlines()[-1])["episodes"] == 3
    assert read_run(run)[1].hardware.ranks == 2


@pytest.mark.slow
def test_a_rank_that_is_killed(job, launch, tmp_path):
    """All start again from the last checkpoint, and the run ends as if nothing had happened."""
    options = [*RUN, "total_steps=1920", "checkpoint.every=128"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    broken = job("train", *options, f"run_dir={run}")
    broken.wait_for(last(run))
    os.kill(broken.ranks()[1], signal.SIGKILL)
    broken.wait_for(last(run), newer_than=time.time())
    os.kill(broken.ranks()[0], signal.SIGKILL)
    code, output = broken.end()
    assert code == 0, output
    assert "restart 1 of 3" in output
    assert "restart 2 of 3" in output
    assert "Traceback" not in output
    assert "exitcode" not in output  # the agent's own words
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    code, output = launch("train", *options, f"run_dir={whole}")
    assert code == 0, output
    assert (run / "weights.sha256").read_text() == (whole / "weights.sha256").read_text()


@pytest.mark.parametrize(("option", "count"), [("max_restarts=0", 0), ("on_death=fail", 0), ("max_restarts=2", 2)])
def test_how_often_ranks_are_started_again(option, count):
    assert _max_restarts(load_config([*RUN, f"hardware.{option}"])) == count


@pytest.mark.slow
def test_no_more_restarts(job, tmp_path):
    """One line, an exit code, a summary that says so, and a checkpoint to resume from."""
    run = tmp_path / "run"
    broken = job("train", *RUN, *ENDLESS, "hardware.on_death=fail", f"run_dir={run}")
    broken.wait_for(last(run))
    os.kill(broken.ranks()[0], signal.SIGKILL)
    code, output = broken.end()
    assert code == 1, output
    assert "Traceback" not in output
    *_, line = output.strip().splitlines()
    assert "rank 0 was killed by signal 9" in line
    assert f"deeprl resume {run}" in line
    step = load_checkpoint(last(run).parent).state["steps"]
    assert f"the last whole checkpoint is of step {step}" in line
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["total_steps"]) == ("failed", step)
    resume(run, ["hardware=cpu", f"total_steps={step + 128}"])
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


BROKEN = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Broken(CartPoleEnv):
    made = 0

    def __init__(self, how="", **kwargs):
        super().__init__(**kwargs)
        self.how, self.count = how, 0

    def step(self, action):
        self.count += 1
        obs, reward, *rest = super().step(action)
        if self.count == 60 and self.spec.id == "Broken-v0":
            if self.how == "raise":
                raise ValueError("the game is broken")
            reward = float("nan")
        return obs, reward, *rest

gym.register("Broken-v0", Broken, max_episode_steps=500)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code", "tracebacks"), [("nan", 2, 0), ("raise", 1, 2)])
def test_an_error_is_told_once_and_not_tried_again(how, code, tracebacks, launch, tmp_path, monkeypatch):
    """What the user can mend is one line; an exception has its traceback, from the rank that it came to."""
    (tmp_path / "broken_env.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    options = [option for option in RUN if not option.startswith("env=")]
    broken = ["env=broken_env:Broken-v0", f"+env.kwargs.how={how}"]
    found, output = launch("train", *options, *ENDLESS, *broken, f"run_dir={run}")
    assert found == code, output
    assert output.count("Traceback") <= tracebacks
    assert ("the game is broken" if how == "raise" else "returned NaN or infinity in its reward") in output
    assert "restart" not in output
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_torchrun_and_verify(job, launch, tmp_path):
    """Started by torch's own program, processes become ranks, of which one talks; `deeprl verify` has ranks, too."""
    run = tmp_path / "run"
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "deeprl_cli")
    options = [option for option in RUN if not option.startswith("hardware.ranks")]
    code, output = job("train", *options, "total_steps=640", f"run_dir={run}", command=command).end()
    assert code == 0, output
    assert output.count("finished: 640 steps") == 1
    lines = (run / "weights.sha256").read_text().splitlines()
    (run / "weights.sha256").write_text("\n".join([*lines[:4], lines[4][:-8] + "00000000", ""]))
    code, output = launch("verify", str(run))
    assert code == 1, output
    assert "NOT reproduced: other weights at step 320; the same up to step 256" in output


@pytest.mark.slow
def test_resumed_with_another_number_of_ranks(launch, tmp_path):
    """A checkpoint is that of one process: two ranks' run goes on in one, and in four."""
    run = tmp_path / "run"
    code, output = launch("train", *RUN, "total_steps=640", f"run_dir={run}")
    assert code == 0, output
    resume(run, ["hardware=cpu", "total_steps=1280"])
    code, output = launch("resume", str(run), "hardware=multiprocess", "hardware.ranks=4", "total_steps=1920")
    assert code == 0, output
    assert "4 ranks, 1 of 4 environments each" in output
    (curve,) = curves(run).values()
    assert curve["step"][-1] == 1920


def test_hardware_of_a_run_that_goes_on():
    """hardware=… keeps what it can and takes the rest from the defaults."""
    before = load_config(["algo=ppo", "env=CartPole-v1", "tuned=none", "hardware.threads=2"])
    after = changed(before, ["hardware=multiprocess", "hardware.ranks=2"])
    assert (after.hardware.name, after.hardware.ranks, after.hardware.threads) == ("multiprocess", 2, 2)
    back = changed(after, ["hardware=cpu"])
    assert dataclasses.replace(back, typed=before.typed) == before
    with pytest.raises(ConfigError, match="must be one of cpu, cuda, multiprocess"):
        changed(before, ["hardware=gpu"])


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_ranks_on_gpus(job, tmp_path):
    """nccl, a GPU each."""
    run = tmp_path / "run"
    code, output = job("train", *RUN, "hardware.device=cuda", "total_steps=640", f"run_dir={run}").end()
    assert code == 0, output
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
