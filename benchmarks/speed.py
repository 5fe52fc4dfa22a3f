"""Training speed through `deeprl train`, against peers that run the same jobs in turn. README.md says how to read it.

Usage: python benchmarks/speed.py [--sb3 PYTHON] [--sbx PYTHON] [--jobs JOB,…] [--rounds N] [--quick] [--json FILE]
[KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

PEERS = Path(__file__).with_name("peers.py")
DEEPRL = Path(sys.executable).with_name("deeprl")
# measured: training itself, so no tuned values, no evaluations, no checkpoint but the last
COMMON = ("tuned=none", "eval.every=0", "eval.final_episodes=1", "checkpoint.every=0")
STARTUP_BAR, STARTUP_RUNS = 2.0, 5  # seconds
STARTUP = ("algo=sac", "env=Pendulum-v1", "total_steps=10", "algo.learning_starts=0", "hardware.compile=false")


@dataclass(frozen=True)
class Job:
    """One set of hyper-parameters, the same here as in peers.py, and how much faster than each peer it should be."""

    overrides: tuple[str, ...]
    steps: int  # environment steps of a seed: ten seconds or more on the machine of the README
    first_steps: int  # enough to run every compiled graph once
    bars: Mapping[str, float]
    untrained: int = 0  # steps before learning starts
    seeds: int = 1
    peer_job: str | None = None  # in peers.py; None: the job's own name


PPO = (
    *("algo=ppo", "env=CartPole-v1", "algo.hidden=[64,64]", "algo.activation=tanh", "algo.lr=3e-4", "algo.gamma=0.99"),
    *("algo.gae_lambda=0.95", "algo.clip_eps=0.2", "algo.clip_norm=0.5", "algo.vf_coef=0.5", "algo.ent_coef=0"),
    *("algo.lr_schedule=constant", "algo.normalize_advantage=true", "algo.kl.mode=none"),
)
PPO_SHORT = (*PPO, "algo.num_envs=8", "algo.rollout_length=32", "algo.batch_size=256", "algo.epochs=20")
PPO_DEFAULT = (*PPO, "algo.num_envs=1", "algo.rollout_length=2048", "algo.batch_size=64", "algo.epochs=10")
REPLAY = ("algo.num_envs=1", "algo.learning_starts=100", "algo.train_every=1", "algo.gradient_steps=1")
SAC = (
    *("algo=sac", "env=Pendulum-v1", *REPLAY, "algo.hidden=[256,256]", "algo.activation=relu", "algo.batch_size=256"),
    *("algo.lr_actor=3e-4", "algo.lr_critic=3e-4", "algo.lr_alpha=3e-4", "algo.rho=0.995", "algo.gamma=0.99"),
    *("algo.alpha=auto", "algo.buffer_capacity=1000000"),
)
DQN = (
    *("algo=dqn", "env=CartPole-v1", *REPLAY, "algo.hidden=[64,64]", "algo.activation=relu", "algo.batch_size=64"),
    *("algo.lr=1e-4", "algo.gamma=0.99", "algo.target_update=hard", "algo.target_every=10000", "algo.double=none"),
    *("algo.loss=huber", "algo.clip_norm=10", "algo.buffer_capacity=1000000"),
)
PONG = ("env=PongNoFrameskip-v4",)
PPO_PIXELS = (
    *("algo=ppo", *PONG, "algo.num_envs=8", "algo.rollout_length=128", "algo.batch_size=256", "algo.epochs=4"),
    *("algo.lr=2.5e-4", "algo.lr_schedule=constant", "algo.gamma=0.99", "algo.gae_lambda=0.95", "algo.clip_eps=0.1"),
    *("algo.clip_norm=0.5", "algo.vf_coef=0.5", "algo.ent_coef=0.01", "network.share=true"),
)
DQN_PIXELS = (
    *("algo=dqn", *PONG, "algo.num_envs=1", "algo.learning_starts=1000", "algo.train_every=4", "algo.gradient_steps=1"),
    *("algo.batch_size=32", "algo.lr=1e-4", "algo.gamma=0.99", "algo.target_update=hard", "algo.target_every=1000"),
    *("algo.double=none", "algo.loss=huber", "algo.clip_norm=10", "algo.buffer_capacity=10000"),
)
JOBS = {
    "sac": Job(SAC, 8_000, 400, {"sb3": 3.0, "sbx": 1.25}, untrained=100),
    "dqn": Job(DQN, 80_000, 400, {"sb3": 4.0, "sbx": 6.0}, untrained=100),
    "ppo": Job(PPO_SHORT, 409_600, 512, {"sb3": 4.2, "sbx": 2.5}),
    "ppo_default": Job(PPO_DEFAULT, 163_840, 4_096, {"sb3": 4.2, "sbx": 3.8}),
    # by time: eight seeds here against one run there
    "ppo_8_seeds": Job(PPO_SHORT, 102_400, 512, {"sb3": 1.0}, seeds=8, peer_job="ppo"),
    "ppo_pixels": Job(PPO_PIXELS, 4_096, 1_024, {"sb3": 1.5}),
    "dqn_pixels": Job(DQN_PIXELS, 5_000, 1_016, {"sb3": 1.5}, untrained=1_000),
}


@dataclass
class Result:
    """All rounds of one job: environment steps (of all seeds) per second, by who made them (`sb3, 2 threads`)."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    ours: list[dict[str, Any]] = field(default_factory=list)  # summary.json of each round
    peers: list[dict[str, Any]] = field(default_factory=list)

    def add(self, who: str, rate: float) -> None:
        self.rates.setdefault(who, []).append(rate)

    def best(self, library: str) -> str | None:
        """The thread count with which a peer has the higher median."""
        runs = {who: median(rates) for who, rates in self.rates.items() if who.startswith(library)}
        return max(runs, key=lambda who: runs[who]) if runs else None


class RunError(Exception):
    """A run ended with an error."""


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """Standard output of a command run in `folder`. Raises RunError with the end of what it said."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def train(overrides: Sequence[str]) -> dict[str, Any]:
    """The summary.json of one `deeprl train`."""
    with tempfile.TemporaryDirectory() as folder:
        run([str(DEEPRL), "train", *overrides, *COMMON, "run_dir=run"], Path(folder))
        summary: dict[str, Any] = json.loads((Path(folder) / "run" / "summary.json").read_text(encoding="utf-8"))
    return summary


def peer(library: str, python: str, job: str, threads: int, steps: int | None) -> dict[str, Any]:
    """What peers.py prints for one job."""
    command = [python, str(PEERS), library, job, "--threads", str(threads)]
    command += [] if steps is None else ["--steps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        lines = run(command, Path(folder), TMPDIR=folder).splitlines()
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def compare(name: str, job: Job, pythons: Mapping[str, str], options: argparse.Namespace) -> Result:
    """`options.rounds` rounds of one job, ours and each peer in turn."""
    overrides = [*job.overrides, f"seeds={job.seeds}", "hardware.compile=true", *options.overrides]
    say(f"{name}: filling the compile cache")
    train([*overrides, f"total_steps={job.first_steps}"])
    steps = max(job.steps // 10, job.first_steps) if options.quick else job.steps
    result = Result()
    for number in range(options.rounds):
        summary = train([*overrides, f"total_steps={steps}"])
        # steps that learned nothing were cheap: don't count them
        rate = summary["steps_per_second"] * (1 - job.untrained / summary["total_steps"])
        result.ours.append(summary)
        result.add("deeprl", rate)
        said = [f"deeprl {rate:,.0f}"]
        for library, python in pythons.items():
            if library not in job.bars:
                continue
            for threads in options.threads if library == "sb3" else options.threads[-1:]:
                line = peer(library, python, job.peer_job or name, threads, 500 if options.quick else None)
                result.peers.append(line)
                result.add(label(library, threads), line["steps_per_second"])
                said.append(f"{label(library, threads)} {line['steps_per_second']:,.0f}")
        say(f"{name}: round {number + 1} of {options.rounds}, steps/s: {'; '.join(said)}")
    return result


def startup(options: argparse.Namespace) -> list[float]:
    """Seconds from the start of the process to the first environment step."""
    overrides = [*STARTUP, *options.overrides]
    runs = [float(train(overrides)["startup_seconds"]) for _ in range(2 if options.quick else STARTUP_RUNS + 1)]
    seconds = runs[1:]  # the first reads the libraries from the disk
    say(f"startup: {', '.join(f'{value:.2f}' for value in seconds)} s")
    return seconds


def label(library: str, threads: int) -> str:
    return f"{library}, {threads} thread{'s' if threads > 1 else ''}" if library == "sb3" else library


def ratio(job: Job, ours: float, theirs: float) -> float:
    """How many times as fast; of several seeds, our time for all of them over theirs for one."""
    return ours / theirs if job.seeds == 1 else job.seeds * theirs / ours


def markdown(results: Mapping[str, Result], startups: Sequence[float]) -> str:
    lines = ["| job | deeprl, steps/s | peer, steps/s | ratio of medians | bar | |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        job, ours = JOBS[name], result.rates["deeprl"]
        for library, bar in job.bars.items():
            best = result.best(library)
            if best is None:
                lines.append(f"| {name} | {spread(ours)} | {library}: not measured | | | |")
                continue
            theirs = result.rates[best]
            value = ratio(job, median(ours), median(theirs))
            met = value >= bar if job.seeds == 1 else value <= bar
            kind, sign = ("×", "≥") if job.seeds == 1 else (" of one run's time", "≤")
            lines.append(
                f"| {name} | {spread(ours)} | {best}: {spread(theirs)} | {value:.2f}{kind} | {sign} {bar:g} "
                f"| {'met' if met else '**missed**'} |"
            )
    if startups:
        met = median(startups) <= STARTUP_BAR
        lines.append(
            f"| startup | {median(startups):.2f} s ({min(startups):.2f}–{max(startups):.2f}) | | "
            f"| ≤ {STARTUP_BAR:g} s | {'met' if met else '**missed**'} |"
        )
    return "\n".join(lines)


def spread(rates: Sequence[float]) -> str:
    """Median (least–most)."""
    return f"{median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})"


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: version(name) for name in ("deeprl-cli", "torch", "gymnasium", "numpy")}
    return {"processor": model, "cores": cores, "python": platform.python_version(), **versions}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(names: Sequence[str]) -> Callable[[str], list[str]]:
    def choose(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown job {', '.join(unknown)}: there are {', '.join(names)}")
        return text.split(",")

    return choose


def thread_counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed of deeprl, and of its peers in the same minutes.")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="more overrides for our runs, said in the result"
    )
    parser.add_argument("--sb3", metavar="PYTHON", help="the Python of an environment with Stable-Baselines3")
    parser.add_argument("--sbx", metavar="PYTHON", help="the Python of an environment with SBX")
    names = [*JOBS, "startup"]
    parser.add_argument("--jobs", type=chosen(names), default=names, metavar="JOB,…", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="runs of each job (3)")
    help_threads = "torch threads that SB3 is tried with; the better counts (1,2)"
    parser.add_argument("--threads", type=thread_counts, default=[1, 2], metavar="N,…", help=help_threads)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one round: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here, after each job")
    options = parser.parse_intermixed_args()
    if any("=" not in override for override in options.overrides):
        parser.error(f"not KEY=VALUE: {' '.join(options.overrides)}")
    if options.quick:
        options.rounds = 1
    if not DEEPRL.exists():
        parser.error(f"{DEEPRL} is missing: run this with the Python that deeprl is installed for")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        say(f"warning: the machine is busy (load {load:.1f}): these figures will be too low, and unfair to either side")
    pythons = {library: path for library, path in (("sb3", options.sb3), ("sbx", options.sbx)) if path}

    results: dict[str, Result] = {}
    startups: list[float] = []
    try:
        for name in options.jobs:
            if name == "startup":
                startups = startup(options)
            else:
                results[name] = compare(name, JOBS[name], pythons, options)
            if options.json:
                record = {
                    "machine": machine(),
                    "load_before": load,
                    "overrides": options.overrides,
                    "jobs": {job: dataclasses.asdict(result) for job, result in results.items()},
                    "startup_seconds": startups,
                }
                options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except RunError as error:
        sys.exit(f"failed: {error}")
    facts = machine()
    print(f"{facts['processor']}, {facts['cores']} cores, torch {facts['torch']}, {options.rounds} rounds")
    versions = {f"{line['library']} {line['version']}" for result in results.values() for line in result.peers}
    print(f"peers: {', '.join(sorted(versions)) or 'none'}")
    if options.overrides:
        print(f"deeprl with {' '.join(options.overrides)}")
    print(f"\n{markdown(results, startups)}")


if __name__ == "__main__":
    main()
