"""Whether `auto` chooses well: whole commands with each choice of compiling and threads, against the one that deeprl
makes by itself. README.md says how to read it.

Usage: python benchmarks/auto.py [--jobs JOB,…] [--cold] [--rounds N] [--json FILE] [KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import yaml

DEEPRL = Path(sys.executable).with_name("deeprl")
BAR = 1.1  # of the best choice's time

# twelve, of which `unseen` steps an environment that no value is tuned for
JOBS = {
    "ppo_20k": "algo=ppo env=CartPole-v1 total_steps=20000",
    "ppo_100k": "algo=ppo env=CartPole-v1 total_steps=100000",
    "ppo_500k": "algo=ppo env=CartPole-v1 total_steps=500000",
    "a2c_20k": "algo=a2c env=CartPole-v1 total_steps=20000",
    "a2c_100k": "algo=a2c env=CartPole-v1 total_steps=100000",
    "a2c_500k": "algo=a2c env=CartPole-v1 total_steps=500000",
    "dqn_20k": "algo=dqn env=CartPole-v1 total_steps=20000",
    "dqn_100k": "algo=dqn env=CartPole-v1 total_steps=100000",
    "sac_20k": "algo=sac env=Pendulum-v1 total_steps=20000",
    "sac_100k": "algo=sac env=Pendulum-v1 total_steps=100000",
    "unseen_20k": "algo=ppo env=CliffWalking-v1 total_steps=20000",
    "unseen_100k": "algo=ppo env=CliffWalking-v1 total_steps=100000",
}


def choices() -> dict[str, list[str]]:
    """What a person could type instead of leaving it to deeprl."""
    threads = sorted({1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1})
    return {
        called(compiled, count): [f"hardware.compile={str(compiled).lower()}", f"hardware.threads={count}"]
        for compiled in (True, False)
        for count in threads
    }


def called(compiled: bool, threads: int) -> str:
    return f"{'compiled' if compiled else 'eager'}, {threads} thread{'s' if threads > 1 else ''}"


def seconds(typed: Sequence[str], cache: Path) -> tuple[float, str]:
    """Of the whole command, and what was chosen. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        command = [str(DEEPRL), "train", *typed, "run_dir=run"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        took = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
        chosen = yaml.safe_load((Path(folder) / "run" / "config.yaml").read_text(encoding="utf-8"))["resolved"]
    return took, called(chosen["compile"], chosen["threads"])


def measure(job: str, options: argparse.Namespace) -> dict[str, object]:
    """The medians of each choice, and of `auto`, in turn; warm: an untimed run of each compiled choice comes first."""
    typed = [*JOBS[job].split(), *options.overrides]
    offered = {"auto": [], **choices()}
    took: dict[str, list[float]] = {name: [] for name in offered}
    chosen = ""
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder)
        if not options.cold:
            for name, more in offered.items():
                if name.startswith("compiled"):
                    seconds([*typed, *more], warm)
        for _ in range(options.rounds):
            for name, more in offered.items():
                with tempfile.TemporaryDirectory() as empty:
                    time_, what = seconds([*typed, *more], Path(empty) if options.cold else warm)
                took[name].append(time_)
                if name == "auto":
                    chosen = what
    medians = {name: median(times) for name, times in took.items()}
    best = min((name for name in offered if name != "auto"), key=lambda name: medians[name])
    return {"job": job, "auto": chosen, "best": best, "ratio": medians["auto"] / medians[best], "seconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=lambda text: text.split(","), default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="an empty cache folder each time")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if unknown := set(options.jobs) - set(JOBS):
        parser.error(f"--jobs {','.join(sorted(unknown))}: there are {', '.join(JOBS)}")
    if os.getloadavg()[0] > 0.5:
        print(f"warning: something else is running (load {os.getloadavg()[0]:.1f})", file=sys.stderr)
    names = ["auto", *choices()]
    print(f"| job | auto chose | {' | '.join(names)} | auto over best |\n|---|---|{'--:|' * (len(names) + 1)}")
    rows = []
    for job in options.jobs:
        row = measure(job, options)
        rows.append(row)
        times = row["seconds"]
        assert isinstance(times, dict)
        ratio = row["ratio"]
        assert isinstance(ratio, float)
        missed = "" if ratio <= BAR else " (missed)"
        figures = " | ".join(f"{times[name]:.1f} s" for name in names)
        print(f"| {job} | {row['auto']} | {figures} | {ratio:.2f}{missed} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"cold": options.cold, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
