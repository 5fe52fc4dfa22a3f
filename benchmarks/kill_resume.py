"""Kill training at random moments, resume it, and hold the result against a run that was never stopped, bit for bit.

    python benchmarks/kill_resume.py --kills 50                       # SAC, PPO and DQN
    python benchmarks/kill_resume.py --kills 20 --jobs ppo --seed 7 --keep /tmp/kills

A job is trained once without a break. Then it is trained again and killed with SIGKILL (no clean-up, no last words) at
random moments, while a checkpoint is being written too, and resumed until it ends; that is repeated until there were
enough kills. Compared at each end: the hash chain over the weights, metrics.csv without its `time/` columns, the final
evaluation, the best checkpoints and the last one's weights. Prints kills survived and mismatches; exit code 1 on any.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMON = ["eval.episodes=2", "eval.final_episodes=4", "log.every=200", "hardware.threads=1"]
JOBS = {
    "sac": ["algo=sac", "env=Pendulum-v1", "seeds=2", "total_steps=1500", "eval.every=400", "checkpoint.every=150"],
    "ppo": ["algo=ppo", "env=CartPole-v1", "seeds=3", "total_steps=10000", "eval.every=3000", "checkpoint.every=500"],
    "dqn": ["algo=dqn", "env=CartPole-v1", "seeds=2", "total_steps=12000", "eval.every=3000", "checkpoint.every=1000"],
    "ppo-lander": [
        *["algo=ppo", "env=LunarLander-v3", "total_steps=20000", "eval.every=10000", "checkpoint.every=2000"],
        *["algo.num_envs=4", "algo.rollout_length=128", "algo.normalize_obs=true", "algo.normalize_reward=true"],
    ],
    "sac-hopper": ["algo=sac", "env=Hopper-v5", "total_steps=1500", "eval.every=500", "checkpoint.every=150"],
}
DEFAULT_JOBS = ["sac", "ppo", "dqn"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jobs", default=",".join(DEFAULT_JOBS), help=f"of {', '.join(JOBS)} ({','.join(DEFAULT_JOBS)})"
    )
    parser.add_argument("--kills", type=int, default=50, help="of each job (50)")
    parser.add_argument("--compile", default="false", choices=["true", "false"], help="hardware.compile (false)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (0)")
    parser.add_argument("--keep", type=Path, help="folder to work in and leave (default: a temporary one)")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="kill_resume_"))
    mismatches = 0
    for name in arguments.jobs.split(","):
        mismatches += job(name, arguments.kills, arguments.compile, random.Random(f"{arguments.seed} {name}"), folder)
    if arguments.keep is None:
        shutil.rmtree(folder)
    sys.exit(1 if mismatches else 0)


def job(name: str, kills: int, compiled: str, moments: random.Random, folder: Path) -> int:
    """Kill and resume one job; how many of its runs ended in anything else than the unbroken one did."""
    overrides = [*JOBS[name], *COMMON, f"hardware.compile={compiled}"]
    whole = folder / f"{name}-whole"
    began = time.perf_counter()
    subprocess.run(command("train", *overrides, f"run_dir={whole}"), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    expected = result(whole)
    print(f"{name}: unbroken run {seconds:.1f} s, weights {expected['chain'][-1][-12:]}", flush=True)
    done, runs, mismatches, restarts, in_checkpoint = 0, 0, 0, 0, 0
    while done < kills:
        run = folder / f"{name}-{runs}"
        while not finished(run):
            if (run / "config.yaml").exists():
                process = start(command("resume", str(run)))
            else:
                shutil.rmtree(run, ignore_errors=True)
                process = start(command("train", *overrides, f"run_dir={run}"))
            try:
                # from the start of the process on: some kills meet it still importing, some at the very end
                process.wait(timeout=moments.uniform(0.5, 1.1 * seconds) if done < kills else None)
                if process.returncode:
                    sys.exit(f"{name}: {' '.join(process.args)} ended with {process.returncode}")  # type: ignore[arg-type]
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                partial = list((run / "checkpoints" / "last").glob(".*.tmp")) + unnamed(run / "checkpoints" / "last")
                in_checkpoint += bool(partial)
                restarts += not (run / "checkpoints" / "last" / "manifest.json").exists()
        found = result(run)
        different = [key for key in expected if found[key] != expected[key]]
        mismatches += bool(different)
        runs += 1
        if different:
            print(f"{name}: {run} differs in {', '.join(different)}", flush=True)
        elif not mismatches:
            shutil.rmtree(run)
    print(
        f"{name}: {done} kills over {runs} runs survived, {mismatches} mismatches "
        f"({in_checkpoint} in the writing of a checkpoint, {restarts} before the first one)",
        flush=True,
    )
    return mismatches


def finished(run: Path) -> bool:
    """Whether nothing is left to do: the kill came after the last words."""
    path = run / "summary.json"
    return path.exists() and json.loads(path.read_text())["status"] == "finished"


def command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "deeprl_cli", verb, *arguments]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)


def unnamed(folder: Path) -> list[Path]:
    """Data files that no manifest names: a checkpoint was being written."""
    named = {name for path in folder.glob("manifest*.json") for name in json.loads(path.read_text())["files"]}
    return [path for path in folder.glob("*.safetensors") if path.name not in named]


def result(run: Path) -> dict[str, Any]:
    """What must be equal: everything that a run leaves but for times."""
    summary = json.loads((run / "summary.json").read_text())
    manifest = json.loads((run / "checkpoints" / "last" / "manifest.json").read_text())
    weights = manifest["files"][manifest["tensors"]]["sha256"]
    best = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (run / "checkpoints" / "best").iterdir()}
    return {
        "chain": (run / "weights.sha256").read_text().split(),
        "metrics": {path.parent.name: metrics(path) for path in sorted(run.glob("seed_*/metrics.csv"))},
        "summary": {key: summary[key] for key in ("status", "total_steps", "eval")},
        "best": best,
        "last": weights,
    }


def metrics(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


if __name__ == "__main__":
    main()
