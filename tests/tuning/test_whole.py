"""A whole study as it happens: two processes on it, one killed, the other stopped, and a third that ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from deeprl_cli.cli import main
from deeprl_cli.runs.lock import held
from deeprl_cli.runs.reading import read_run
from tests.tuning.test_tune import counts, trials

COMMAND = [
    "algo=ppo",
    "env=CartPole-v1",
    "tuned=none",
    "algo.num_envs=2",
    "algo.rollout_length=64",
    "hardware.compile=false",
    "hardware.threads=1",
    "total_steps=1024",
    "checkpoint.every=256",
    "eval.episodes=1",
    "eval.final_episodes=2",
    "algo.lr=interval(1e-5,1e-2)",
    "algo.batch_size=32,64",
    "trials=12",
    "seeds=2",
    "batch=2",
    "startup=4",
    "halving=3",
    "rungs=2",
    "fresh_seeds=2",
]


def until(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_one_killed_one_stopped(tmp_path, monkeypatch, capsys):
    """No trial is counted twice, none is lost, and what the killed process had under way is taken over."""
    monkeypatch.chdir(tmp_path)
    program = [sys.executable, "-m", "deeprl_cli", "tune", *COMMAND]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    def units():
        return sorted(Path("runs/tune").glob("*/*/*/units/*/unit.json"))

    try:
        until(lambda: sum(held(path.parent) for path in units()) == 2)  # each trains something
        assert len({path.parents[2] for path in units()}) == 1, "the same command is the same study"
        both[0].kill()
        both[0].wait()
        until(lambda: any(json.loads(path.read_text())["done"] for path in units()))
        both[1].send_signal(signal.SIGINT)
        said = both[1].communicate(timeout=120)[0]
        assert both[1].returncode == 130
    finally:
        for process in both:
            process.kill()
            process.wait()
    study = units()[0].parents[2]
    assert f"go on with it: deeprl tune {study}" in said
    assert counts(study)["RUNNING"] > 0
    main(["tune", str(study)])
    told = capsys.readouterr().out
    assert "on fresh seeds 2 to 3" in told
    assert counts(study) == {"COMPLETE": 4, "PRUNED": 8} | ({"FAIL": 2} if counts(study)["FAIL"] else {})
    records = [json.loads(path.read_text()) for path in units()]
    assert all(record["done"] for record in records)
    for start in (0, 341):  # each trial has been trained to each rung once at most
        found = Counter(n for record in records if record["start"] == start for n in record["trials"])
        assert set(found.values()) == {1}
    assert sum(record["start"] == 0 for record in records) == 6
    best = max((trial for trial in trials(study) if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    assert json.loads((study / "result.json").read_text())["trial"] == best.number
    searched = f"hydra.searchpath=[file://{study.resolve()}]"
    main(["train", "algo=ppo", "env=CartPole-v1", searched, "total_steps=128", "run_dir=mine"])
    assert read_run(Path("mine"))[1].algo.lr == best.user_attrs["algo.lr"]
