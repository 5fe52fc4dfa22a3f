"""The jobs of benchmarks/speed.py compose, and ask of us what they ask of the peers. Nothing is timed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from deeprl_cli.config import load_config

FOLDER = Path(__file__).parent.parent / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


speed, peers = load("speed"), load("peers")


@pytest.mark.parametrize("name", speed.JOBS)
def test_jobs_compose(name):
    job = speed.JOBS[name]
    cfg = load_config([*job.overrides, *speed.COMMON, f"seeds={job.seeds}", f"total_steps={job.steps}"])
    algorithm, env_id, num_envs, arguments, _ = peers.JOBS[job.peer_job or name]
    assert (cfg.algo.name.upper(), cfg.env.id, cfg.algo.num_envs) == (algorithm, env_id, num_envs or 1)
    ours = {"n_steps": "rollout_length", "n_epochs": "epochs", "train_freq": "train_every"}
    for key, value in arguments.items():
        assert getattr(cfg.algo, ours.get(key, key)) == value


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
