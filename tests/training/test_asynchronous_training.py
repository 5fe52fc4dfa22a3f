"""Asynchronous training in real processes: equal to one process where there is one worker, and its faults survived.

No test leaves a process behind (`alone`).
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deeprl_cli.cli import main
from deeprl_cli.commands.resume import resume
from deeprl_cli.commands.verify import verify
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError, TrainingError, UserError
from deeprl_cli.processes.kernel_lock import KernelLock
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.training import crew
from deeprl_cli.training.asynchronous import AsynchronousTrainer
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.run import train
from deeprl_cli.training.worker import Desk, Job, Shared, WorkerPolicy, worker_seed
from tests.contract.harness import configured, make_algorithm, trained

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fcntl")

QUICK = [
    "tuned=none",
    "algo.hidden=[16]",
    "eval.every=0",
    "eval.episodes=2",
    "eval.final_episodes=2",
    "checkpoint.every=0",
    "log.every=100",
    "log.tensorboard=false",
    "env.max_episode_steps=30",
]
WORKERS = ["hardware=multiprocess", "hardware.compile=false"]
FAULTY = '''
import multiprocessing, os, signal, time
import gymnasium as gym
import numpy as np


class Faulty(gym.Env):
    """Does each of `faults` once, in a worker, at about the `at`-th step: the files in `folder` say what has been."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, folder="", faults="", at=20, always=""):
        self.folder, self.faults, self.at, self.always, self.t = folder, faults.split("+"), at, always, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        if multiprocessing.parent_process() is None:
            return self.observation_space.sample(), 0.0, self.t % 10 == 0, False, {}
        time.sleep(0.004)  # so that one worker doesn't finish before another is missed
        if self.t == self.at:
            self.fail(self.always or next((f for f in self.faults if f and self.first(f)), ""))
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), self.t % 10 == 0, False, {}

    def first(self, fault):
        try:
            os.close(os.open(os.path.join(self.folder, fault), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def fail(self, fault):
        if fault == "raise":
            raise RuntimeError("the motor is on fire")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)


gym.register("Faulty-v0", Faulty, max_episode_steps=30)
'''


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Restarts without waiting long; and at the end no process of ours is left."""
    monkeypatch.setattr(crew, "BACK_OFF", 0.01)
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """`faulty(…)`: overrides for an environment that misbehaves in workers."""
    (tmp_path / "faulty_env.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    marks = tmp_path / "marks"
    marks.mkdir()

    def overrides(**kwargs):
        return [
            "env=faulty_env:Faulty-v0",
            f"env.kwargs.folder={marks}",
            *(f"env.kwargs.{k}={v}" for k, v in kwargs.items()),
        ]

    return overrides


def config(run_dir, *overrides):
    return load_config([*overrides[:1], *QUICK, *WORKERS, f"run_dir={run_dir}", *overrides[1:]])


def summary(run):
    return json.loads((Path(run) / "summary.json").read_text())


# --- one worker is one process ----------------------------------------------------------------------------------------

A2C_OF_THE_DECK = [
    "algo.subepisodes_per_update=4",
    "algo.reduction=sum",
    "algo.vf_coef=1",
    "algo.ent_coef=0",
    "algo.optim=sgd",
    "algo.lr=1e-3",
    "algo.lr_schedule=constant",
    "algo.clip_norm=null",
]
SINGLE = {
    "a3c": (["experiment=deck/a2c"], ["algo=a3c", *A2C_OF_THE_DECK]),
    "async_q": (["experiment=deck/async_q"], ["experiment=deck/async_q"]),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_worker_equals_the_decks_single_thread(name, tmp_path):
    """T19: the weights after some hundred steps agree to 1e-6."""
    alone, worker = SINGLE[name]
    options = [*QUICK[2:], "algo.hidden=[16]", "total_steps=400", "seed=5"]
    _, expected = trained(load_config([*alone, *options, "hardware.compile=false", f"run_dir={tmp_path / 'one'}"]))
    several = [*worker, *(["tuned=none"] if name == "a3c" else []), *options, *WORKERS, "hardware.workers=1"]
    _, found = trained(load_config([*several, "algo.lock=true", f"run_dir={tmp_path / 'worker'}"]))
    names = [key for key in found if key.endswith("flat")]
    assert names
    for key in names:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-6)
    assert found["algorithm.optimiser.steps"].item() == expected["algorithm.optimiser.steps"].item() > 20
    if name == "async_q":  # what an evaluation with noise explores by; here the last sub-episode lies in between
        torch.testing.assert_close(found["algorithm.epsilon"], expected["algorithm.epsilon"], rtol=0, atol=0.05)


@pytest.mark.slow
def test_compiled_workers_do_the_same(tmp_path):
    """Each compiles before the first step; one of them alone ends where an eager one does, to rounding."""
    options = ["experiment=deck/async_q", *QUICK[2:], "algo.hidden=[16]", "total_steps=200", *WORKERS[:1]]
    runs = [
        trained(load_config([*options, "hardware.workers=1", f"hardware.compile={c}", f"run_dir={tmp_path / c}"]))[1]
        for c in ("true", "false")
    ]
    torch.testing.assert_close(runs[0]["algorithm.q.flat"], runs[1]["algorithm.q.flat"], rtol=1e-4, atol=1e-5)
    cfg = load_config([*options, "hardware.workers=2", "hardware.compile=true", f"run_dir={tmp_path / 'two'}"])
    assert summary(train(cfg))["status"] == "finished"


# --- what workers share -----------------------------------------------------------------------------------------------

CLAIMS, TAKEN, PERIOD = 200, 7, 50


def claim_often(job: Job, path: str) -> None:
    """Claim steps over and over, noting each copy of the target in one line of the file."""
    cfg = job.cfg
    ours, shared = (WorkerPolicy(make_algorithm("async_q", seeds=[0], options=OPTIONS), 1) for _ in range(2))
    copy = shared.algorithm.copy_if_due

    def noted(steps: torch.Tensor) -> None:
        before = int(shared.algorithm.copies)
        copy(steps)
        if int(shared.algorithm.copies) > before:
            file = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(file, f"{int(shared.algorithm.copies)}\n".encode())
            os.close(file)

    shared.algorithm.copy_if_due = noted
    desk = Desk(dataclasses.replace(job, cfg=cfg), ours, shared)
    for _ in range(CLAIMS):
        desk.claim(TAKEN)
        desk.updated()


OPTIONS = [f"algo.target_every={PERIOD}", "algo.num_envs=1"]


@pytest.mark.slow
def test_targets_are_copied_once_for_each_period(tmp_path):
    """Three processes race for the count of steps: every multiple of the period is met by one of them, none by two."""
    cfg = configured("algo=async_q", "tuned=none", "algo.hidden=[16,16]", *OPTIONS)
    policy = WorkerPolicy(make_algorithm("async_q", seeds=[0], options=OPTIONS), 1)
    shared = Shared.of(policy, 0, 3)
    path = tmp_path / "copies"
    path.touch()
    context = torch.multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=claim_often, args=(Job(cfg, None, i, i, shared, None), str(path))) for i in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    steps = 3 * CLAIMS * TAKEN
    assert int(shared.steps) == steps
    assert [int(line) for line in path.read_text().split()] == list(range(1, steps // PERIOD + 1))


def hold_and_die(lock: KernelLock, held) -> None:
    lock.__enter__()
    held.set()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_killed_in_the_lock_blocks_nobody():
    lock, context = KernelLock(), torch.multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold_and_die, args=(lock, held))
    process.start()
    held.wait(60)
    waited = []
    lock.while_waiting = lambda: waited.append(time.monotonic())
    with lock, lock:  # twice, as an update under algo.lock takes it
        pass
    process.join()
    assert not waited or waited[-1] - waited[0] < 10


def test_workers_play_episodes_of_their_own():
    """The first of a fresh run is the run's seed; whoever else there is, or comes after it, is nobody else."""
    assert worker_seed(3, 0, 0, 0) == 3
    seeds = [worker_seed(s, i, g, t) for s in (3, 4) for i in (0, 1) for g in (0, 1) for t in (0, 100)]
    assert len(set(seeds)) == len(seeds)


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_two_workers_train_log_evaluate_and_go_on(tmp_path, capsys, monkeypatch):
    """Steps, updates and episodes are those of both; `resume` starts from the weights, squares and counters left."""
    options = ["hardware.workers=2", "eval.every=200", "algo.normalize_obs=true"]
    run = train(config(tmp_path / "run", "algo=a3c", *options, "total_steps=600"))
    told = capsys.readouterr().out
    assert "no two runs are alike" in told
    first = load_checkpoint(run / "checkpoints" / "last").state
    assert 600 <= first["steps"] <= 600 + 2 * 5
    assert summary(run)["status"] == "finished"
    assert (run / "checkpoints" / "best" / "seed_0.safetensors").exists()
    policy = first["policy"]
    assert policy["algorithm.optimiser.steps"].item() >= first["steps"] / 5
    assert policy["obs_statistics.count"].item() == first["steps"]
    rows = (run / "seed_0" / "metrics.csv").read_text().splitlines()
    assert len(rows) > 4
    assert "loss/policy" in rows[0]

    with pytest.raises(UserError, match="2 asynchronous workers, which race"):
        verify(run, steps=None, trust=False)
    main(["eval", str(run), "--episodes", "2"])
    assert "return" in capsys.readouterr().out

    started_from = {}
    of = Shared.of

    def spied(*args):
        shared = of(*args)
        started_from.update({name: tensor.clone() for name, tensor in shared.tensors.items()})
        started_from["steps"], started_from["updates"] = int(shared.steps), float(shared.updates.sum())
        return shared

    monkeypatch.setattr(Shared, "of", spied)
    resume(run, ["total_steps=1000"])
    for name in ("algorithm.model.flat", "algorithm.optimiser.v0", "obs_statistics.mean"):
        torch.testing.assert_close(started_from[name], policy[name], rtol=0, atol=0)
    assert started_from["steps"] == first["steps"]
    assert started_from["updates"] == policy["algorithm.optimiser.steps"].item()
    second = load_checkpoint(run / "checkpoints" / "last").state
    assert 1000 <= second["steps"] <= 1010
    assert second["best"][0] >= first["best"][0]
    assert second["policy"]["algorithm.optimiser.steps"] > policy["algorithm.optimiser.steps"]


@pytest.mark.slow
def test_workers_that_raise_are_killed_or_hang_are_replaced(tmp_path, faulty, capsys):
    """One run in which all three happen: it comes to its end, and says what happened, with the worker's traceback."""
    env = faulty(faults="raise+kill+stop")
    run = train(
        config(
            tmp_path / "run",
            "algo=async_q",
            *env,
            "hardware.workers=2",
            "hardware.heartbeat=6",
            "hardware.max_restarts=8",
            "total_steps=4000",
        )
    )
    told = capsys.readouterr().out
    assert "the motor is on fire" in told
    assert "in fail" in told  # the traceback's frames
    assert "was killed by signal 9" in told
    assert "gave no sign of life for 6 s" in told
    assert summary(run)["status"] == "finished"
    assert summary(run)["total_steps"] >= 4000


def test_without_restarts_the_others_go_on_until_none_is_left(tmp_path, faulty, capsys):
    """The checkpoint is kept, the summary says failed, the error is one line."""
    cfg = config(
        tmp_path / "run", "algo=a3c", *faulty(always="raise", at=40), "hardware.workers=2", "hardware.max_restarts=0"
    )
    with pytest.raises(TrainingError, match="all 2 workers are dead") as caught:
        train(cfg)
    assert "\n" not in str(caught.value)
    told = capsys.readouterr().out
    assert told.count("RuntimeError: the motor is on fire") == 2
    assert "isn't replaced" in told
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last").state
    assert state["steps"] >= 35
    assert summary(tmp_path / "run")["status"] == "failed"


def test_weights_that_are_no_numbers_end_the_run_at_the_last_good_ones(tmp_path, monkeypatch):
    iterate = AsynchronousTrainer.iterate

    def poisoned(self):
        iterate(self)
        if self.steps >= 300:
            self.shared.tensors["algorithm.q.flat"].fill_(torch.nan)

    monkeypatch.setattr(AsynchronousTrainer, "iterate", poisoned)
    cfg = config(tmp_path / "run", "algo=async_q", "hardware.workers=1", "total_steps=5000")
    with pytest.raises(TrainingError, match=r"no longer finite \(algorithm.q.flat.*resume"):
        train(cfg)
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last").state
    assert all(t.isfinite().all() for t in state["policy"].values() if isinstance(t, torch.Tensor))
    assert state["policy"]["algorithm.optimiser.steps"] > 0
    assert 100 <= state["steps"] < 1000
    assert summary(tmp_path / "run")["status"] == "failed"


# --- signals ----------------------------------------------------------------------------------------------------------


def members(session: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(session: int, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while members(session) and time.monotonic() < end:
        time.sleep(0.1)
    return not members(session)


@pytest.fixture
def started(tmp_path):
    """`deeprl train` with two workers in a session of its own, once it has learned something; and its run folder."""
    run = tmp_path / "run"
    options = [*QUICK, *WORKERS, "hardware.workers=2", "total_steps=1_000_000", f"run_dir={run}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deeprl_cli", "train", "algo=a3c", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    metrics = run / "seed_0" / "metrics.csv"
    end = time.monotonic() + 240
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    try:
        yield process, run
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table")


@needs_proc
def test_ctrl_c_leaves_a_checkpoint_and_no_process(started):
    """SIGINT goes to all processes of a terminal: workers leave the decision to their parent."""
    process, run = started
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert gone(process.pid)
    assert summary(run)["status"] == "interrupted"
    assert load_checkpoint(run / "checkpoints" / "last").state["steps"] == summary(run)["total_steps"] > 200
    assert "Traceback" not in process.stdout.read()


@needs_proc
@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(started):
    process, _ = started
    assert len(members(process.pid)) >= 3
    process.kill()
    assert gone(process.pid)


@needs_proc
@pytest.mark.slow
def test_a_signal_to_the_whole_group_is_a_stop_and_no_death(started):
    process, run = started
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert gone(process.pid)
    assert summary(run)["status"] == "interrupted"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("algo=a3c hardware.workers=2 seeds=2", "seeds=2: workers share the weights of one seed"),
        ("algo=ppo hardware.workers=2", "hardware.ranks=2"),
        ("algo=async_q hardware.ranks=2", "hardware.workers=2"),
        ("algo=a3c hardware.workers=2 hardware.device=cuda", "hardware.device=cpu"),
        ("algo=async_q algo.subepisodes=fixed hardware.workers=2 env.backend=native", "env.backend=sync"),
    ],
)
def test_what_workers_cant_do_is_said_in_one_line(overrides, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = load_config(["hardware=multiprocess", *overrides.split()])
    with pytest.raises(ConfigError, match=words) as caught:
        preflight(cfg)
    assert "\n" not in str(caught.value)
