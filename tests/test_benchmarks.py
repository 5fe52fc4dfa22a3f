"""The jobs of benchmarks/speed.py compose, and ask of us what they ask of the peers; so do those of its neighbours.
No speed is judged."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.training.run import train
from tests.contract.harness import short_run, small

FOLDER = Path(__file__).parent.parent / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


speed, peers = load("speed"), load("peers")
kill_resume, memory, checkpoint_stall = load("kill_resume"), load("memory"), load("checkpoint_stall")


@pytest.mark.parametrize("name", speed.JOBS)
def test_jobs_compose(name):
    job = speed.JOBS[name]
    cfg = load_config([*job.overrides, *speed.COMMON, f"seeds={job.seeds}", f"total_steps={job.steps}"])
    algorithm, env_id, num_envs, arguments, _ = peers.JOBS[job.peer_job or name]
    assert (cfg.algo.name.upper(), cfg.env.id, cfg.algo.num_envs) == (algorithm, env_id, num_envs or 1)
    ours = {"n_steps": "rollout_length", "n_epochs": "epochs", "train_freq": "train_every", "learning_rate": "lr"}
    ours |= {"clip_range": "clip_eps", "buffer_size": "buffer_capacity", "target_update_interval": "target_every"}
    for key, value in arguments.items():
        assert getattr(cfg.algo, ours.get(key, key)) == value


def test_the_run_that_is_timed_to_its_first_step_trains(tmp_path):
    run = train(load_config([*speed.STARTUP, *speed.COMMON, f"run_dir={tmp_path / 'run'}"]))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["startup_seconds"] > 0


def test_table():
    results = {
        "sac": speed.Result({"deeprl": [400, 300, 800], "sb3, 1 thread": [90], "sb3, 2 threads": [100, 80, 160]}),
        "ppo_8_seeds": speed.Result({"deeprl": [80_000], "sb3, 1 thread": [7_000]}),
    }
    sac, sbx, seeds, startup = speed.markdown(results, [1.5, 2.5, 2.4]).splitlines()[2:]
    assert sac == "| sac | 400 (300–800) | sb3, 2 threads: 100 (80–160) | 4.00× | ≥ 3 | met |"
    assert "sbx: not measured" in sbx
    assert "0.70 of one run's time | ≤ 1 | met" in seeds
    assert "2.40 s (1.50–2.50)" in startup
    assert "missed" in startup


PARTS = [(job, part) for job, parts in kill_resume.JOBS.items() for part in parts]


@pytest.mark.parametrize(("job", "part"), PARTS)
def test_parts_compose(job, part):
    cfg = load_config([*kill_resume.COMMON, *kill_resume.JOBS[job][part][1]])
    assert cfg.algo.name == job
    assert cfg.checkpoint.every * 5 < cfg.total_steps
    assert cfg.hardware.compile is part.endswith("compiled")


@pytest.mark.parametrize("job", kill_resume.JOBS)
def test_shares_add_up(job):
    assert sum(share for share, _ in kill_resume.JOBS[job].values()) == pytest.approx(1.0)


def test_a_run_that_ended_otherwise_is_told_from_one_that_did_not(tmp_path):
    """The same run twice has no differences; one with another seed, or whose files were touched, has."""
    options = ["log.tensorboard=true"]
    runs = {name: train(short_run("dqn", tmp_path / name, *options)) for name in "ab"}
    assert kill_resume.differences(runs["a"], runs["b"]) == []
    assert kill_resume.events(runs["a"] / "seed_0")
    train(short_run("dqn", tmp_path / "c", "algo.lr=0.01", *options))
    found = kill_resume.differences(runs["a"], tmp_path / "c")
    assert {"weights", "metrics", "TensorBoard", "best", "tensors of the last checkpoint"} <= set(found)
    (table,) = runs["b"].glob("seed_0/metrics.csv")
    table.write_text(table.read_text() + table.read_text().splitlines()[-1] + "\n")  # a doubled row
    assert kill_resume.differences(runs["a"], runs["b"]) == ["metrics"]


def test_a_half_written_checkpoint_is_seen(tmp_path):
    last = train(short_run("dqn", tmp_path / "run")) / "checkpoints" / "last"
    assert not kill_resume.half_written(last)
    (last / "state-0123456789abcdef.safetensors").write_bytes(b"x")
    assert kill_resume.half_written(last)
    (last / "state-0123456789abcdef.safetensors").unlink()
    (last / ".manifest.json.tmp").write_bytes(b"{")
    assert kill_resume.half_written(last)
    assert not kill_resume.half_written(tmp_path / "none")


@pytest.mark.slow
def test_kills_are_survived_and_go_on_where_they_were(tmp_path):
    command = [sys.executable, str(FOLDER / "kill_resume.py"), "--jobs", "dqn", "--parts", "cartpole"]
    command += ["--out", str(tmp_path / "kills"), "--json"]
    for kills in (2, 6):
        done = subprocess.run([*command, "--kills", str(kills)], capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        (record,) = json.loads(done.stdout)["dqn"]["parts"].values()
        assert record["kills"] == kills / 2  # the part's share
        assert record["mismatches"] == []
        assert record["runs"] >= 1


def test_memory_between_early_and_late():
    samples = [(0.0, 100.0), (5.0, 180.0), (10.0, 200.0), (30.0, 202.0), (60.02, 205.0), (61.0, 300.0)]
    found = memory.report(samples)
    assert (found["early"]["mib"], found["late"]["mib"], found["growth_mib"]) == (200.0, 205.0, 5.0)
    assert memory.told({**found, "steps": 1000}) == (
        "after 10 min 200.0 MiB, after 60 min 205.0 MiB: +5.0 MiB (1,000 steps of each seed in all)"
    )
    assert memory.report([(0.0, 10.0)])["growth_mib"] == 0.0


@pytest.mark.parametrize("job", memory.JOBS)
def test_memory_jobs_compose(job):
    load_config([*memory.JOBS[job], *memory.COMMON])


@pytest.mark.slow
def test_memory_is_watched_and_the_training_ended(tmp_path):
    """Told to stop in the middle, too."""
    command = [sys.executable, str(FOLDER / "memory.py"), "--every", "0.02", "--json", "--minutes"]
    overrides = ["--", *small("ppo"), "env=CartPole-v1", "checkpoint.every=100", "log.tensorboard=false"]
    done = subprocess.run([*command, "0.05", *overrides], capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert len(found["samples"]) >= 2
    assert all(mib > 50 for _, mib in found["samples"])
    process = subprocess.Popen([*command, "60", *overrides], stdout=subprocess.DEVNULL, cwd=tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not (started := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(started[0]), 0)


backends = load("backends")


@pytest.mark.parametrize("name", backends.CASES)
def test_back_ends_compose(name):
    """Each back-end gets the same environment, the same learning from each step, and as many environments."""
    case = backends.CASES[name]
    for backend in case.backends:
        cfg = load_config([*backends.TRAINING, *case.of(backend), "algo.num_envs=8", "algo.rollout_length=128"])
        assert cfg.env.backend == backend
        assert cfg.env.id.rpartition("/")[2] == name.rpartition("/")[2]
        assert cfg.env.atari.enabled == name.startswith("ALE/")
        assert cfg.env.frame_stack == (4 if name.startswith("ALE/") else 1)
        assert cfg.algo.samples_per_update == backends.SAMPLES
        assert case.steps % backends.SAMPLES == 0


@pytest.mark.slow
def test_one_stepping_is_measured_in_a_process_of_its_own():
    (row,) = backends.rows(["stepping/CartPole-v1/8"])
    options = SimpleNamespace(seconds=0.05, quick=True, overrides=[])
    assert backends.measured(row, "sync", options) > 0
    row.case = "Pendulum-v1"
    backends.CASES["Pendulum-v1"] = backends.Case(("env=Pendulum-v1",), 1024)
    try:
        assert "has no vector form of its own" in backends.measured(row, "native", options)
    finally:
        del backends.CASES["Pendulum-v1"]


def test_table_of_back_ends():
    stepping, training = backends.rows(["*/CartPole-v1/8"])
    stepping.rates = {"sync": [9_000.0, 150_000.0, 110_000.0], "async": [8_000.0], "native": [12_345.0, 12_345.0]}
    lines = backends.markdown([stepping, training]).splitlines()
    assert lines[2] == "| CartPole-v1 | 8 | **110k** (9.00k–150k) | 8.00k | 12.3k (12.3k–12.3k) | – |"
    assert lines[-1] == "| CartPole-v1 | 8 | – | – | – | – |"


def test_only_what_is_new_since_the_last_checkpoint_is_written(tmp_path, capsys):
    """The figures of checkpoint_stall.py: a full memory once, then about the share that is new."""
    assert checkpoint_stall.main(["--rows", "200000", "--folder", str(tmp_path), "--json"]) == 0
    whole, *later = json.loads(capsys.readouterr().out)
    assert whole["new_rows"] == 200_000
    assert whole["mib"] > 30  # 17 + 17 + 6 numbers and more, four bytes each
    assert all(row["milliseconds"] > 0 for row in (whole, *later))
    assert later[0]["mib"] < later[-1]["mib"] < whole["mib"]  # whole segments of 65,536 transitions
    assert list(tmp_path.iterdir()) == []
