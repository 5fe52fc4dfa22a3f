"""Sweeps whose jobs run side by side, with real processes: through joblib, submitit (also against a Slurm made of shell
scripts) and Ray. Nothing they start outlives them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from deeprl_cli.cli import main
from deeprl_cli.processes.cores import available_cores
from deeprl_cli.schema.typed import build
from deeprl_cli.sweeps import engines

pytestmark = pytest.mark.slow  # processes that start, and load torch, again and again

ROOT = Path(__file__).parents[2]
MARK = "DEEPRL_TEST_MARK"

# In the working directory, as a user's own would be. Its import tells what a job's process has been given.
ENVIRONMENTS = """
import os, time
import gymnasium
import torch
from deeprl_cli.processes.cores import available_cores
from deeprl_cli.envs.testing import Chain

class Trouble(Chain):
    def __init__(self, trouble="none"):
        super().__init__()
        self.trouble, self.steps = trouble, 0

    def step(self, action):
        self.steps += 1
        if self.steps > 10 and self.trouble == "raise":
            raise ZeroDivisionError("the physics blew up")
        if self.steps > 10 and self.trouble == "die":
            time.sleep(1)
            os.kill(os.getpid(), 9)
        if self.trouble == "slow":
            time.sleep(0.02)
        return super().step(action)

gymnasium.register("Trouble-v0", Trouble, max_episode_steps=5)
with open("given.txt", "a") as file:
    print(available_cores(), os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads(), file=file)
"""
SMALL = [
    "algo=ppo",
    "algo.num_envs=1",
    "algo.rollout_length=32",
    "algo.batch_size=32",
    "algo.hidden=[8]",
    "env=troubles:Trouble-v0",
    "hardware.compile=false",
    "eval.every=0",
    "eval.final_episodes=1",
    "log.tensorboard=false",
]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "submitit_slurm": ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.qos=low"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"],
}

# ---- a Slurm of one machine: sbatch starts the array's tasks in the background, the others look after their files

SBATCH = """#!/bin/sh
for script; do :; done
state() { echo $2 > "$FAKE_SLURM/new-$1"; mv "$FAKE_SLURM/new-$1" "$FAKE_SLURM/state-$1"; }
id=4711; echo "Submitted batch job $id"
cp "$script" "$FAKE_SLURM/script"  # as Slurm does: submitit moves its file away as soon as sbatch has returned
script="$FAKE_SLURM/script"
grep -E '^#SBATCH' "$script" > "$FAKE_SLURM/options"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$script")
for task in $(seq 0 "${last:-0}"); do
  state $task PENDING  # sacct knows a job as soon as sbatch has returned
  ( export SLURM_JOB_ID=$((id + task + 1)) SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task SLURM_PROCID=0 \\
      SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here
    setsid sh "$script" </dev/null >"$FAKE_SLURM/out-$task" 2>&1 &
    state $task RUNNING
    wait $! && state $task COMPLETED || state $task FAILED ) </dev/null >/dev/null 2>&1 &
done
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case "$1" in --output|--error) shift 2;; *) shift;; esac
done
exec "$@"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for file in "$FAKE_SLURM"/state-*; do echo "4711_${file##*-}|$(cat "$file")|here"; done
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$FAKE_SLURM/cancelled"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT), ("scancel", SCANCEL)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a module of environments; nothing that was started from it is left in the end."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "troubles.py").write_text(ENVIRONMENTS)
    monkeypatch.chdir(here)
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield here
    end = time.monotonic() + 20
    while left := started_here(mark):
        if time.monotonic() > end:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"left behind: {left}")
        time.sleep(0.2)


def started_here(mark: str) -> dict[int, str]:
    """The processes, other than this one, that have the mark in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            other = entry.name.isdecimal() and int(entry.name) != os.getpid()
            if other and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        except OSError:
            continue  # it has just ended
    return found


def begin(launcher: str, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deeprl_cli", "train", "-m", *SMALL, *LAUNCHERS[launcher], *overrides]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def jobs() -> list[dict]:
    (path,) = Path("runs/sweeps").glob("*/sweep.json")
    return json.loads(path.read_text())["jobs"]


def table() -> list[dict]:
    (path,) = Path("runs/sweeps").glob("*/sweep.csv")
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["row"] == "run"]


def needs(launcher: str, request) -> None:
    pytest.importorskip(engines.ENGINES[launcher][1], reason=f"needs the extra '{engines.ENGINES[launcher][2]}'")
    if launcher == "submitit_slurm":
        request.getfixturevalue("slurm")


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_jobs_find_what_the_program_found_and_have_their_share(place, request, launcher):
    """The same configurations (arguments of the environment too), modules of the working directory, and folder."""
    needs(launcher, request)
    process = begin(launcher, "total_steps=64,96", "env.kwargs.trouble=slow")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert err == ""
    done = jobs()
    assert [job["status"] for job in done] == ["done"] * 2
    assert len({job["run"] for job in done}) == 2
    for job, steps in zip(done, (64, 96), strict=True):
        assert json.loads(Path(job["run"], "summary.json").read_text())["total_steps"] == steps
        assert "trouble: slow" in Path(job["run"], "config.yaml").read_text()
    assert sorted(row["total_steps"] for row in table()) == ["64", "96"]
    assert {"return", "best_return", "seconds", "status", "run"} <= set(table()[0])
    assert "2 of 2 runs done" in out
    # the first line is of the program itself, which has checked the jobs with all cores; each job has its share
    shares = {"joblib": available_cores() // 2, "submitit_local": available_cores() // 2}
    share = max(1, shares.get(launcher, 1))
    given = Path("given.txt").read_text().split("\n")
    assert given[0].split()[:2] == [str(available_cores()), "None"]
    assert given[1:-1]
    assert set(given[1:-1]) == {f"{share} {share} {share}"}
    if launcher == "submitit_slurm":
        options = Path(os.environ["FAKE_SLURM"], "options").read_text()
        assert all(f"#SBATCH --{text}" in options for text in ("qos=low", "cpus-per-task=1", "time=60", "array=0-1%"))


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_job_that_fails_and_one_whose_process_dies_stop_no_other(place, request, launcher):
    needs(launcher, request)
    process = begin(launcher, "total_steps=64", "env.kwargs.trouble=raise,die,none,slow")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1
    raised, died, *others = jobs()
    assert (raised["status"], raised["error"]) == ("failed", "ZeroDivisionError: the physics blew up")
    assert died["status"] == "failed"
    assert err.count("Traceback") == 1  # said once, and at once; the table has a line of it
    assert err.count("ZeroDivisionError: the physics blew up") == 1
    assert out.count("ZeroDivisionError: the physics blew up") == 1
    assert [row["env.kwargs.trouble"] for row in table()][-2:] == ["raise", "die"]
    assert [job["status"] for job in others] == ["done", "done"]
    if launcher == "joblib":
        assert died["error"] == "its process was killed by signal 9: out of memory is the usual cause"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_ctrl_c_ends_every_run_cleanly(place, request, launcher):
    needs(launcher, request)
    process = begin(launcher, "total_steps=100_000", "env.kwargs.trouble=slow", "seed=0,1,2")
    wanted = 3 if launcher.startswith("submitit_slurm") else 2 if launcher != "submitit_local" else 1
    end = time.monotonic() + 200
    while sum(", seed " in log.read_text() for log in Path("runs/sweeps").glob("*/jobs/?.log")) < wanted:
        assert time.monotonic() < end, process.stderr.read()
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the program and all in its group
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.count("\n") <= 2, err  # what it does about it, and nothing else
    ended = [job for job in jobs() if job["status"] != "waiting"]
    assert len(ended) >= wanted
    assert {job["status"] for job in ended} == {"stopped"}
    begun = [job for job in ended if "run" in job]  # one that was still importing has no folder yet
    assert len(begun) >= wanted
    for job in begun:
        assert json.loads(Path(job["run"], "summary.json").read_text())["status"] == "interrupted"
        assert Path(job["run"], "checkpoints/last/manifest.json").exists()
    assert [row["status"] for row in table()].count("stopped") == len(ended)
    assert "0 of 3 runs done" in out
    if launcher == "submitit_slurm":
        assert "4711" in Path(os.environ["FAKE_SLURM"], "cancelled").read_text()


def test_ctrl_c_twice_leaves_nothing_either(place):
    pytest.importorskip("joblib", reason="needs the extra 'joblib'")
    process = begin("joblib", "total_steps=100_000", "env.kwargs.trouble=slow", "seed=0,1")
    while len(list(Path("runs/sweeps").glob("*/jobs/?.log"))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    while "once more to quit at once" not in (line := process.stderr.readline()):  # two at once are one to Python
        assert line, "it ended without a word"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(table()) == 2


# ---- options


def options(name: str) -> dict:
    import yaml

    return own(yaml.safe_load((ROOT / f"configs/hydra/launcher/{name}.yaml").read_text()))


def own(settings: dict) -> dict:
    """A launcher's options without those that say what is stacked: the sweep takes them."""
    return {key: value for key, value in settings.items() if key not in ("stacked", "members")}


@pytest.mark.parametrize("launcher", engines.ENGINES)
def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys, launcher):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "installed", lambda package: False)
    with pytest.raises(SystemExit) as stop:
        main(["train", "-m", "seed=0,1", f"hydra/launcher={launcher}"])
    package, extra = engines.ENGINES[launcher][1:]
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"deeprl: hydra/launcher={launcher} needs {package}: pip install 'deeprl-cli[{extra}]'\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["hydra/launcher=basik"], "unknown hydra/launcher 'basik'; did you mean 'basic'?"),
        (["hydra.launcher.n_jobs=2"], "'hydra.launcher.n_jobs': choose a hydra/launcher=… too"),
        (["hydra/launcher=joblib", "hydra.launcher.n_job=2"], "did you mean 'hydra.launcher.n_jobs'?"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=two"], "hydra.launcher.n_jobs=two: must be a whole number"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "must be a number of processes"),
        (["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=0"], "must be at least 1"),
        (["hydra/launcher=submitit_slurm"], "no sbatch and srun here"),
        (["hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpu=2"], "hydra.launcher.ray.remote.num_cpus'?"),
        (["hydra/launcher=ray", "hardware=cuda"], "give hydra.launcher.ray.remote.num_gpus=1"),
        (["hydra/launcher=submitit_local", "hardware=cuda"], "give hydra.launcher.gpus_per_node=1"),
    ],
)
def test_options_are_checked_before_anything_starts(tmp_path, monkeypatch, capsys, overrides, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "installed", lambda package: True)
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main(["train", "-m", "seed=0,1", *overrides])
    (line,) = capsys.readouterr().err.splitlines()
    assert (stop.value.code, says in line) == (2, True), line
    assert not list(tmp_path.iterdir())


def test_options_of_sbatch_that_have_no_key_of_their_own(slurm):
    from deeprl_cli.config.compose import expand_sweep, sweep_settings

    sweep = expand_sweep(["hydra/launcher=submitit_slurm", "hydra.launcher.additional_parameters.reservation=mine"])
    engine = engines.make_engine("submitit_slurm", own(sweep_settings(sweep)[1]))
    assert engine.additional_parameters == {"reservation": "mine"}


@pytest.mark.parametrize(
    ("launcher", "changed", "count", "cores"),
    [
        ("joblib", {"n_jobs": 4}, 9, 4),
        ("joblib", {"n_jobs": -1}, 2, 8),
        ("joblib", {"n_jobs": -1}, 99, 1),
        ("submitit_local", {}, 3, 5),
        ("submitit_local", {"cpus_per_task": 2}, 3, 2),
        ("submitit_local", {"cpus_per_task": 99}, 3, 16),
        ("submitit_slurm", {}, 3, None),
        ("submitit_slurm", {"cpus_per_task": 6}, 3, 6),
        ("ray", {}, 3, 1),
        ("ray", {"ray": {**options("ray")["ray"], "remote": {"num_cpus": 3, "num_gpus": 0}}}, 3, 3),
    ],
)
def test_the_cores_are_divided(monkeypatch, slurm, launcher, changed, count, cores):
    monkeypatch.setattr(engines, "available_cores", lambda: 16)
    engine = build(engines.ENGINES[launcher][0], {**options(launcher), **changed}, "hydra.launcher")
    assert engine.cores(count) == cores
