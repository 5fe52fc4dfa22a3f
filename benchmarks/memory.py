"""Whether a long run grows: resident memory of a training, minute by minute.

    python benchmarks/memory.py --minutes 62                              # PPO on CartPole, 8 seeds
    python benchmarks/memory.py --minutes 15 --job sac --json
    python benchmarks/memory.py --minutes 15 -- algo=trpo env=Hopper-v5   # any run of your own

A run without an end is started, looked at once a minute, and stopped with SIGINT. Curves are logged, checkpoints
written and evaluations played often enough for what any of them leaves behind to show. A replay memory is made so small
that it is full within the first seconds: its filling is no growth. Prints each figure in MiB, and what came between the
tenth minute and the sixtieth (or the last).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMON = ["total_steps=1000000000000", "hardware.threads=1", "hardware.compile=false", "eval.episodes=5"]
SMALL_MEMORY = ["algo.buffer_capacity=5000", "algo.learning_starts=500", "log.every=500"]
JOBS = {
    "ppo": [
        *["algo=ppo", "env=CartPole-v1", "seeds=8", "log.every=2048", "eval.every=50000", "checkpoint.every=50000"],
        *["algo.normalize_obs=true", "algo.normalize_reward=true"],
    ],
    "sac": ["algo=sac", "env=Pendulum-v1", "seeds=2", *SMALL_MEMORY, "eval.every=2000", "checkpoint.every=2000"],
    "dqn": ["algo=dqn", "env=CartPole-v1", "seeds=8", *SMALL_MEMORY, "eval.every=10000", "checkpoint.every=10000"],
}
EARLY, LATE = 10.0, 60.0  # minutes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of a run of your own, behind --")
    parser.add_argument("--job", default="ppo", choices=list(JOBS), help="what to train (ppo)")
    parser.add_argument("--minutes", type=float, default=62.0, help="for how long (62)")
    parser.add_argument("--every", type=float, default=1.0, help="minutes between looks (1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    flags = parser.parse_args(arguments)
    overrides = [*(flags.overrides or JOBS[flags.job]), *COMMON]
    folder = Path(tempfile.mkdtemp(prefix="memory_"))
    try:
        samples = watch(overrides, folder / "run", flags.minutes, flags.every, quiet=flags.json)
        steps = json.loads((folder / "run" / "summary.json").read_text())["total_steps"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {"overrides": overrides, "steps": steps, **report(samples)}
    print(json.dumps(found, indent=2) if flags.json else told(found), flush=True)
    return 0


def watch(overrides: list[str], run: Path, minutes: float, every: float, *, quiet: bool) -> list[tuple[float, float]]:
    """(minutes since the first look, resident MiB) of a training of `overrides` that ends when time is up."""
    command = [sys.executable, "-m", "deeprl_cli", "train", *overrides, f"run_dir={run}"]
    log = run.parent / "log.txt"
    asked: list[int] = []  # in the middle of a start, a child would be left behind that nobody knows of
    former = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    signal.signal(signal.SIGTERM, former)
    samples: list[tuple[float, float]] = []
    try:
        if asked:
            sys.exit(128 + asked[0])
        while not (run / "checkpoints" / "last" / "manifest.json").exists():  # it trains, and all of it is loaded
            _alive(process, log)
            time.sleep(0.2)
        began = time.monotonic()
        while (passed := (time.monotonic() - began) / 60) <= minutes:
            _alive(process, log)
            samples.append((round(passed, 2), resident(process.pid)))
            if not quiet:
                print(f"{samples[-1][0]:6.1f} min  {samples[-1][1]:8.1f} MiB", flush=True)
            time.sleep(max(0.0, began + len(samples) * every * 60 - time.monotonic()))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return samples


def _alive(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        sys.exit(f"the training ended with {process.returncode}: {log.read_text()[-2000:]}")


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True).stdout
    return round(int(kilobytes) / 1024, 1)


def report(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Memory early and late, and what came in between: where a run was shorter, its first and last looks."""
    early = next((sample for sample in samples if sample[0] >= EARLY), samples[0])
    late = next((sample for sample in samples if sample[0] >= LATE), samples[-1])
    hours = (late[0] - early[0]) / 60
    growth = round(late[1] - early[1], 1)
    return {
        "samples": [list(sample) for sample in samples],
        "early": {"minutes": early[0], "mib": early[1]},
        "late": {"minutes": late[0], "mib": late[1]},
        "growth_mib": growth,
        "growth_mib_per_hour": round(growth / hours, 1) if hours > 0 else None,
    }


def told(found: dict[str, Any]) -> str:
    early, late = (f"after {at['minutes']:.0f} min {at['mib']:.1f} MiB" for at in (found["early"], found["late"]))
    return f"{early}, {late}: {found['growth_mib']:+.1f} MiB ({found['steps']:,} steps of each seed in all)"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, too
    sys.exit(main())
