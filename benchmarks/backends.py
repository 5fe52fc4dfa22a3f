"""Steps a second of each environment back-end: stepping alone, and a short training. README.md says how to read it.

Usage: python benchmarks/backends.py [--only PATTERN,…] [--rounds N] [--seconds S] [--quick] [--json FILE]
[--markdown FILE] [KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

BACKENDS = ("sync", "async", "native", "envpool")
COUNTS = (1, 8, 64)  # environments
ACTIONS = 256  # drawn before the clock starts, and used over and over
WARM_UP = 0.3  # of the seconds that are timed, before them
TIMEOUT = 1800.0  # seconds of one measurement
# PPO, the same amount of learning from every step however many environments there are
TRAINING = (
    *("algo=ppo", "tuned=none", "algo.epochs=4", "algo.batch_size=256", "eval.every=0", "eval.final_episodes=1"),
    *("checkpoint.every=0", "log.tensorboard=false"),
)
SAMPLES = 1024  # of an update, over all environments


@dataclass(frozen=True)
class Case:
    """An environment: its overrides, EnvPool's where its name differs, and the steps of a training."""

    overrides: tuple[str, ...]
    steps: int
    pool: tuple[str, ...] | None = None
    backends: tuple[str, ...] = BACKENDS

    def of(self, backend: str) -> tuple[str, ...]:
        chosen = self.pool if backend == "envpool" and self.pool is not None else self.overrides
        return (*chosen, f"env.backend={backend}")


CASES = {
    "CartPole-v1": Case(("env=CartPole-v1",), 65_536),
    "HalfCheetah-v5": Case(("env=HalfCheetah-v5",), 32_768, backends=("sync", "async", "envpool")),
    "ALE/Pong-v5": Case(
        ("env=ALE/Pong-v5",),
        8_192,
        pool=("env=Pong-v5", "env.atari.enabled=true", "env.frame_stack=4"),
        backends=("sync", "async", "envpool"),
    ),
}


@dataclass
class Row:
    """One environment, so many of them, one way: the rate of each round by back-end, or why there is none."""

    case: str
    what: str  # stepping | training
    count: int
    rates: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.what}/{self.case}/{self.count}"


# ---- one measurement, in a process of its own ----------------------------------------------------------------------


def step_alone(overrides: Sequence[str], count: int, seconds: float) -> float:
    """Environment steps a second, dummy ones left out; the environments act at random."""
    import numpy as np

    from deeprl_cli.config.compose import load_config
    from deeprl_cli.envs.make import make_vector_env

    envs = make_vector_env(load_config(overrides).env, [0], count, training=True)
    try:
        space = envs.spec.action_space
        space.seed(0)
        actions = [np.stack([space.sample() for _ in range(count)]) for _ in range(ACTIONS)]
        envs.reset()

        def run(duration: float) -> float:
            taken, rounds, began = 0.0, 0, time.perf_counter()
            while (elapsed := time.perf_counter() - began) < duration or rounds == 0:
                for action in actions[: max(1, ACTIONS // count)]:
                    taken += float(envs.step(action).weight.sum())
                rounds += 1
            return taken / (elapsed if rounds and elapsed else 1e-9)

        run(WARM_UP * seconds)
        return run(seconds)
    finally:
        envs.close()


def train(overrides: Sequence[str], count: int, steps: int) -> float:
    """`steps_per_second` of a run: collection and learning, without start, compilation and evaluation."""
    from deeprl_cli.config.compose import load_config
    from deeprl_cli.runs.folder import read_summary
    from deeprl_cli.training.run import train as train_run

    sizes = (f"algo.num_envs={count}", f"algo.rollout_length={SAMPLES // count}", f"total_steps={steps}")
    with tempfile.TemporaryDirectory() as folder:
        run = train_run(load_config([*TRAINING, *overrides, *sizes, f"run_dir={folder}/run"]))
        return float(read_summary(run)["steps_per_second"])


def measured(row: Row, backend: str, options: argparse.Namespace) -> float | str:
    """One round, or in one line why it can't be had."""
    case = CASES[row.case]
    request = {
        "what": row.what,
        "overrides": [*case.of(backend), *options.overrides],
        "count": row.count,
        "seconds": options.seconds,
        "steps": SAMPLES if options.quick else case.steps,
    }
    command = [sys.executable, __file__, "--measure", json.dumps(request)]
    # a group of its own: what a measurement that takes too long has started ends with it
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=os.name == "posix"
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9) if os.name == "posix" else process.kill()
        process.communicate()
        return f"took more than {TIMEOUT:.0f} s"
    if process.returncode:
        return ([line for line in err.splitlines() if line.strip()] or [f"exit code {process.returncode}"])[-1]
    return float(json.loads(out.splitlines()[-1]))


def measure_here(request: Mapping[str, Any]) -> None:
    """What `--measure` does: the number is the last line printed."""
    from deeprl_cli.errors import UserError

    try:
        if request["what"] == "stepping":
            rate = step_alone(request["overrides"], request["count"], request["seconds"])
        else:
            rate = train(request["overrides"], request["count"], request["steps"])
    except UserError as error:
        sys.exit(str(error))
    print(json.dumps(rate))


# ---- all of them ---------------------------------------------------------------------------------------------------


def rows(patterns: Sequence[str]) -> list[Row]:
    every = [Row(case, what, count) for what in ("stepping", "training") for case in CASES for count in COUNTS]
    return [row for row in every if any(fnmatch(row.name, pattern) for pattern in patterns)]


def run_all(chosen: Sequence[Row], options: argparse.Namespace) -> Iterator[str]:
    """Round by round and back-end by back-end, so that a machine that slows down slows all of them; what to say."""
    for number in range(options.rounds):
        for row in chosen:
            for backend in CASES[row.case].backends:
                if backend in row.missing:
                    continue
                rate = measured(row, backend, options)
                if isinstance(rate, str):
                    row.missing[backend] = rate
                    row.rates.pop(backend, None)
                    yield f"{row.name} {backend}: {rate}"
                else:
                    row.rates.setdefault(backend, []).append(rate)
                    yield f"[{number + 1}/{options.rounds}] {row.name} {backend}: {rate:,.0f} steps/s"


def markdown(chosen: Sequence[Row]) -> str:
    """Two tables, medians with ranges in thousands of steps a second, the highest median in bold."""
    parts = []
    for what, title in (("stepping", "Stepping alone"), ("training", "Training (PPO, collection and learning)")):
        of_kind = [row for row in chosen if row.what == what]
        if not of_kind:
            continue
        lines = [
            f"| {title} | environments | {' | '.join(BACKENDS)} |",
            f"|---|---:|{'---:|' * len(BACKENDS)}",
        ]
        for row in of_kind:
            best = max((median(rates) for rates in row.rates.values()), default=None)
            cells = [_cell(row.rates.get(backend), best) for backend in BACKENDS]
            lines.append(f"| {row.case} | {row.count} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(rates: Sequence[float] | None, best: float | None) -> str:
    if not rates:
        return "–"
    middle = median(rates)
    shown = f"**{_rate(middle)}**" if middle == best else _rate(middle)
    return shown if len(rates) == 1 else f"{shown} ({_rate(min(rates))}–{_rate(max(rates))})"


def _rate(rate: float) -> str:
    """Three digits, in thousands."""
    thousands = rate / 1000
    return f"{thousands:.0f}k" if thousands >= 100 else f"{thousands:.1f}k" if thousands >= 10 else f"{thousands:.2f}k"


def machine() -> dict[str, Any]:
    packages = {}
    for name in ("deeprl-cli", "torch", "gymnasium", "mujoco", "ale-py", "envpool", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"python": platform.python_version(), "platform": platform.platform(), "cores": cores, "packages": packages}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="passed on to every measurement")
    parser.add_argument("--only", default="*", help="patterns of WHAT/ENV/COUNT, e.g. 'stepping/*,training/CartPole*'")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="timed, of each stepping alone")
    parser.add_argument("--quick", action="store_true", help="does everything run? (figures mean nothing)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        measure_here(json.loads(options.measure))
        return
    if options.quick:
        options.rounds, options.seconds = 1, 0.2
    chosen = rows(options.only.split(","))
    if not chosen:
        parser.error(f"--only {options.only}: no such row; they are named stepping/CartPole-v1/8")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 and not options.quick:
        print(f"something else is running (load {load:.1f}): figures won't be worth quoting", file=sys.stderr)
    for line in run_all(chosen, options):
        print(line, flush=True)
    table = markdown(chosen)
    print(f"\n{table}")
    results = {
        "machine": machine(),
        "load_before": load,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "overrides": options.overrides,
        "rows": [
            {
                "what": row.what,
                "env": row.case,
                "environments": row.count,
                "median": {backend: median(rates) for backend, rates in row.rates.items()},
                "rates": row.rates,
                "missing": row.missing,
            }
            for row in chosen
        ],
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
