"""Whole commands as a person types them, against scripts of peers that do the same work. README.md says how to read it.

Usage: python benchmarks/door.py [--sb3 PYTHON] [--sbx PYTHON] [--jobs JOB,…] [--rounds N] [--cold] [--json FILE]
[KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

SCRIPT = Path(__file__).with_name("door_peers.py")
DEEPRL = Path(sys.executable).with_name("deeprl")
ALIKE = 0.1  # of the larger return: how far two final returns may be apart for a row to count


@dataclass(frozen=True)
class Job:
    """What is typed, and how many times as fast as SB3's script it should be, from a warm and from a cold cache."""

    command: str
    warm: float
    cold: float | None = None


JOBS = {
    "ppo": Job("algo=ppo env=CartPole-v1", 5, 2.5),
    "a2c": Job("algo=a2c env=CartPole-v1", 3),
    "dqn": Job("algo=dqn env=CartPole-v1", 4),
    "sac": Job("algo=sac env=Pendulum-v1", 2.8),
    "cheetah": Job("algo=ppo env=HalfCheetah-v5 total_steps=100000", 3),
}


@dataclass
class Row:
    """Every run of one job: seconds from Enter to the prompt, and the final return, by who made it."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    returns: dict[str, list[float]] = field(default_factory=dict)
    ours: list[dict[str, float]] = field(default_factory=list)  # first step, peak memory, what evaluations took

    def add(self, who: str, seconds: float, final: float) -> None:
        self.seconds.setdefault(who, []).append(seconds)
        self.returns.setdefault(who, []).append(final)


class RunError(Exception):
    """A run ended with an error."""


def timed(command: Sequence[str], folder: Path, **environment: str) -> tuple[float, float, str]:
    """Seconds, peak memory (MiB) and standard output of a command in `folder`. Raises RunError."""
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RunError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
    # of the largest child so far: whoever was larger before hides it, so peaks are those of the first rounds
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, done.stdout


def ours(job: Job, seed: int, overrides: Sequence[str], cache: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of `deeprl train …` as typed, and what the run says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(DEEPRL), "train", *job.command.split(), f"seed={seed}", "run_dir=run", *overrides]
        seconds, peak, _ = timed(command, Path(folder), XDG_CACHE_HOME=str(cache))
        run = Path(folder) / "run"
        summary: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        return seconds, {
            "return": summary["eval"]["return_mean"][0],
            "steps": summary["total_steps"],
            "evaluation_steps": summary["evaluation_steps"],
            "to_first_step_s": summary["startup_seconds"],
            "compiling_s": summary["compile_seconds"],
            "training_s": round(summary["total_steps"] / summary["steps_per_second"], 2),
            "peak_mib": peak,
        }


def peer(library: str, python: str, name: str, seed: int, evaluation_steps: int) -> tuple[float, float]:
    """Seconds of the peer's script, and its final return."""
    command = [python, str(SCRIPT), library, name, "--seed", str(seed), "--evaluation-steps", str(evaluation_steps)]
    with tempfile.TemporaryDirectory() as folder:
        seconds, _, said = timed(command, Path(folder))
    return seconds, float(json.loads(said.splitlines()[-1])["return"])


def compare(name: str, job: Job, pythons: Mapping[str, str], options: argparse.Namespace) -> Row:
    """The rounds of one job: ours, then each peer, and again."""
    row = Row()
    with tempfile.TemporaryDirectory() as kept:
        warm = Path(kept)
        if not options.cold:
            say(f"{name}: filling the cache")
            ours(job, 0, options.overrides, warm)
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory() as empty:
                seconds, told = ours(job, number, options.overrides, Path(empty) if options.cold else warm)
            row.add("deeprl", seconds, told["return"])
            row.ours.append(told)
            say(f"{name} round {number}: deeprl {seconds:.1f} s, {told}")
            for library, python in pythons.items():
                if library == "sbx" and name == "a2c":
                    continue  # SBX has no A2C
                seconds, final = peer(library, python, name, number, int(told["evaluation_steps"]))
                row.add(library, seconds, final)
                say(f"{name} round {number}: {library} {seconds:.1f} s, return {final:.1f}")
    return row


def table(rows: Mapping[str, Row], cold: bool) -> list[str]:
    """Markdown: medians, ratios, and whether the returns are alike."""
    lines = ["| typed | deeprl | peer | ratio | bar | final returns |", "|---|--:|--:|--:|--:|---|"]
    for name, row in rows.items():
        typed = JOBS[name].command
        mine, final = median(row.seconds["deeprl"]), median(row.returns["deeprl"])
        for who in [who for who in row.seconds if who != "deeprl"] or [""]:
            if not who:
                lines.append(f"| `{typed}` | {mine:.1f} s | | | | {final:.1f} |")
                continue
            theirs, other = median(row.seconds[who]), median(row.returns[who])
            bar = (JOBS[name].cold if cold else JOBS[name].warm) if who == "sb3" else 1
            alike = abs(final - other) <= ALIKE * max(abs(final), abs(other)) or final >= other
            counts = "" if alike else ", not alike: does not count"
            asked = "" if bar is None else f"{bar:g}×"
            lines.append(
                f"| `{typed}` | {mine:.1f} s | {who} {theirs:.1f} s | {theirs / mine:.2f}× | {asked} "
                f"| {final:.1f}, {other:.1f}{counts} |"
            )
    return lines


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3", metavar="PYTHON")
    parser.add_argument("--sbx", metavar="PYTHON")
    parser.add_argument("--jobs", type=lambda text: text.split(","), default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="compile anew each time: an empty cache folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if unknown := set(options.jobs) - set(JOBS):
        parser.error(f"--jobs {','.join(sorted(unknown))}: there are {', '.join(JOBS)}")
    if os.getloadavg()[0] > 0.5:
        say(f"warning: something else is running (load {os.getloadavg()[0]:.1f})")
    pythons = {name: python for name in ("sb3", "sbx") if (python := getattr(options, name))}
    rows = {name: compare(name, JOBS[name], pythons, options) for name in options.jobs}
    if options.json:
        told = {name: vars(row) for name, row in rows.items()}
        options.json.write_text(json.dumps({"cold": options.cold, "rows": told}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(rows, options.cold)))


if __name__ == "__main__":
    main()
