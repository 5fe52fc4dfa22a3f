"""Steps a second of PPO in one process and in data-parallel ranks, in turn, round by round.

    python benchmarks/ranks.py                                  # one process against two ranks
    python benchmarks/ranks.py --ranks 1,2,4 --rounds 5 --json ranks.json
    python benchmarks/ranks.py env=HalfCheetah-v5 algo.num_envs=16   # KEY=VALUE is passed on to every run

The figure is `steps_per_second` of `summary.json`: start, compilation and evaluation are left out. An untimed run of
each fills the compile cache first. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = ["algo=ppo", "env=CartPole-v1", "tuned=none", "algo.num_envs=8", "algo.rollout_length=32"]
SMALL += ["algo.batch_size=256", "algo.epochs=20", "total_steps=100000"]
LARGE = ["algo=ppo", "env=CartPole-v1", "tuned=none", "algo.num_envs=8", "algo.rollout_length=128"]
LARGE += ["algo.batch_size=1024", "algo.epochs=10", "algo.hidden=[512,512]", "total_steps=50000"]
JOBS = {"small": SMALL, "large": LARGE}
QUIET = ["eval.every=0", "eval.final_episodes=1", "checkpoint.every=0", "hardware.compile=true", "log.every=5000"]


def steps_per_second(overrides: list[str], ranks: int) -> float:
    """Of one run, in as many ranks, with one thread each."""
    hardware = ["hardware=multiprocess", f"hardware.ranks={ranks}"] if ranks > 1 else ["hardware=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deeprl_cli", "train", *overrides, *hardware, "hardware.threads=1"]
        subprocess.run([*command, f"run_dir={folder}/run"], check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(Path(folder, "run", "summary.json").read_text())["steps_per_second"])


def markdown(results: dict[str, dict[int, list[float]]]) -> str:
    """Medians, ranges, and the ratio to the fewest ranks."""
    lines = ["| job | ranks | steps/s (median, range) | ratio |", "|---|---|---|---|"]
    for job, by_ranks in results.items():
        first = statistics.median(by_ranks[min(by_ranks)])
        for ranks, found in by_ranks.items():
            middle = statistics.median(found)
            lines.append(
                f"| {job} | {ranks} | {middle:,.0f} ({min(found):,.0f}–{max(found):,.0f}) | {middle / first:.2f}× |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2", help="numbers of ranks (1,2)")
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"of {', '.join(JOBS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="passed on to every run")
    flags = parser.parse_args()
    counts = [int(count) for count in flags.ranks.split(",")]
    results: dict[str, dict[int, list[float]]] = {job: {count: [] for count in counts} for job in flags.jobs.split(",")}
    for round_number in range(flags.rounds + 1):
        for job, by_ranks in results.items():
            for count, found in by_ranks.items():
                speed = steps_per_second([*JOBS[job], *QUIET, *flags.overrides], count)
                if round_number:  # the first fills the compile cache
                    found.append(speed)
                    print(f"round {round_number}: {job}, {count} ranks: {speed:,.0f} steps/s", file=sys.stderr)
    print(markdown(results))
    if flags.json is not None:
        flags.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
