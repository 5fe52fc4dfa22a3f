"""Kill training at random moments, resume it, and hold the result against a run that was never stopped, bit for bit.

    python benchmarks/kill_resume.py --kills 50                          # SAC, PPO and DQN, 50 kills each
    python benchmarks/kill_resume.py --kills 20 --jobs ppo --out kills   # run again, it goes on where it was

A job is several small runs ("parts"): seeds stacked and alone, normalisers, classic control, Box2D and MuJoCo,
eager and compiled. Each part is trained once without a break, from the command line. Then it is trained again and
killed with SIGKILL (no clean-up, no last words), resumed, killed again, until it ends; that is repeated until there
were enough kills. Moments are drawn over the processor time that the run still has before it, whatever else the machine
does; every second one then waits for the writing of a checkpoint to begin. What a killed process leaves of one half
written is counted. Compared at each end: the hash chain over the weights, the whole last checkpoint (replay memory,
optimisers, generators, environments, counters), metrics.csv and TensorBoard's events without times, the final
evaluation, the best checkpoints.

Most processes are forked from this one, which has imported what they need: a kill costs what is lost by it, not the
seconds that torch takes to load. Every tenth is a fresh interpreter, killed while it imports, too.
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
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; forked processes must find no threads

COMMON = [
    *["tuned=none", "hardware.threads=1", "hardware.compile=false", "eval.episodes=1", "eval.final_episodes=2"],
    *["log.every=60", "checkpoint.every=30"],
]
OFF_POLICY = ["algo.hidden=[16,16]", "algo.batch_size=32", "algo.learning_starts=60", "algo.buffer_capacity=150"]
ON_POLICY = ["algo.hidden=[16,16]", "algo.num_envs=2", "algo.rollout_length=64", "algo.epochs=3"]
NORMALISED = ["algo.normalize_obs=true", "algo.normalize_reward=true"]
COMPILED = ["hardware.compile=true"]
SAC = ["algo=sac", *OFF_POLICY, "total_steps=260", "eval.every=100"]
DQN = ["algo=dqn", *OFF_POLICY, "algo.target_every=100", "total_steps=900", "eval.every=300", "checkpoint.every=60"]
PPO = ["algo=ppo", *ON_POLICY, "total_steps=1500", "eval.every=500", "checkpoint.every=120", "log.every=120"]
# job -> part -> (its share of the kills, overrides)
JOBS: dict[str, dict[str, tuple[float, list[str]]]] = {
    "sac": {
        "pendulum": (0.4, [*SAC, "env=Pendulum-v1", "seeds=2", *NORMALISED]),
        "lander": (0.2, [*SAC, "env=LunarLander-v3", "env.kwargs.continuous=true", "algo.num_envs=2"]),
        "hopper": (0.3, [*SAC, "env=Hopper-v5", "seeds=2"]),
        "pendulum-compiled": (0.1, [*SAC, "env=Pendulum-v1", "algo.normalize_obs=true", *COMPILED]),
    },
    "ppo": {
        "cartpole": (0.3, [*PPO, "env=CartPole-v1", "seeds=3"]),
        "lander": (0.3, [*PPO, "env=LunarLander-v3", *NORMALISED]),
        "hopper": (0.3, [*PPO, "env=Hopper-v5", "seeds=2", *NORMALISED]),
        "cartpole-compiled": (0.1, [*PPO, "env=CartPole-v1", "seeds=2", *COMPILED]),
    },
    "dqn": {
        "cartpole": (0.5, [*DQN, "env=CartPole-v1", "seeds=2", *NORMALISED]),
        "lander": (0.4, [*DQN, "env=LunarLander-v3"]),
        "cartpole-compiled": (0.1, [*DQN, "env=CartPole-v1", "seeds=2", *COMPILED]),
    },
}
RECORD = "kills.json"
FRESH_EVERY = 10  # processes: one interpreter of its own among forked ones
STUCK = 900.0  # seconds without an end


@dataclass
class Record:
    """What came of one part so far."""

    kills: int = 0
    in_checkpoint: int = 0  # of them, those that left a checkpoint half written
    before_the_first: int = 0  # those before there was a checkpoint
    runs: int = 0  # runs that came to their end after kills, and were compared
    mismatches: list[str] = field(default_factory=list)
    whole_seconds: float = 0.0  # processor time of the unbroken run, forked
    start_seconds: float = 0.0  # what of it passed before its first step, and in fetching compiled graphs
    seconds: float = 0.0  # of the whole part


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(JOBS)
    parser.add_argument("--jobs", default=names, help=f"of {names} (all), one after another")
    parser.add_argument("--parts", default="", help="only parts of these names")
    parser.add_argument("--kills", type=int, default=50, help="of each job (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (0)")
    parser.add_argument("--out", type=Path, help="folder to work in and leave; goes on there (a temporary one)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    flags = parser.parse_args(arguments)
    folder = flags.out or Path(tempfile.mkdtemp(prefix="kill_resume_"))
    folder.mkdir(parents=True, exist_ok=True)
    preload()
    result: dict[str, Any] = {}
    for job in flags.jobs.split(","):
        records: dict[str, Record] = {}
        wanted = [part for part in JOBS[job] if not flags.parts or part in flags.parts.split(",")]
        for part in wanted:
            share, overrides = JOBS[job][part]
            kills = max(1, round(flags.kills * share))
            chosen = later_wins([*COMMON, *overrides])
            records[part] = Part(folder / f"{job}-{part}", chosen, kills, flags.seed).carry_out()
            if not flags.json:
                print(f"{job} {part}: {told(records[part])}", flush=True)
        result[job] = {"total": asdict(added(records.values())), "parts": {p: asdict(r) for p, r in records.items()}}
        if not flags.json:
            print(f"{job}: {told(added(records.values()))}", flush=True)
    if flags.json:
        print(json.dumps(result, indent=2))
    wrong = sum(len(job["total"]["mismatches"]) for job in result.values())
    if flags.out is None and not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


def told(record: Record) -> str:
    return (
        f"{record.kills} kills survived over {record.runs} runs, {len(record.mismatches)} mismatches "
        f"({record.in_checkpoint} kills in the writing of a checkpoint, {record.before_the_first} before the first, "
        f"{record.seconds:.0f} s)" + "".join(f"\n  {line}" for line in record.mismatches)
    )


def added(records: Any) -> Record:
    total = Record()
    for record in records:
        for name, value in asdict(record).items():
            setattr(total, name, getattr(total, name) + value)
    return total


def later_wins(overrides: Sequence[str]) -> list[str]:
    """One override for each key: a command with two is refused."""
    return [f"{key}={value}" for key, value in dict(override.split("=", 1) for override in overrides).items()]


class Part:
    """One small run, killed `kills` times over as many repetitions as that takes."""

    def __init__(self, folder: Path, overrides: list[str], kills: int, seed: int) -> None:
        self.folder, self.overrides, self.kills, self.seed = folder, overrides, kills, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.record = Record()
        if (folder / RECORD).exists():
            self.record = Record(**json.loads((folder / RECORD).read_text()))

    def carry_out(self) -> Record:
        began, before = time.monotonic(), self.record.seconds
        whole = self.folder / "whole"
        if not self.record.whole_seconds:
            shutil.rmtree(whole, ignore_errors=True)
            self.wait(self.start(["train", *self.overrides, f"run_dir={whole}"], fresh=True))
            # the second time, for how long it takes: whatever had to be compiled is there now
            shutil.rmtree(self.folder / "again", ignore_errors=True)
            process = self.start(["train", *self.overrides, f"run_dir={self.folder / 'again'}"], fresh=False)
            cpu = self.wait(process)
            if wrong := differences(whole, self.folder / "again"):
                self.record.mismatches.append(f"{whole}: trained twice, differs in {', '.join(wrong)}")
            told = summary(self.folder / "again")
            before_training = (told["startup_seconds"] + told["compile_seconds"]) / told["wall_seconds"]
            self.record.whole_seconds, self.record.start_seconds = cpu, cpu * min(before_training, 0.9)
            self.save(began, before)
        expected_steps = summary(whole)["total_steps"]
        while True:
            run = self.folder / f"run-{self.record.runs}"
            if self.record.kills >= self.kills and not run.exists():
                return self.record
            if not self.to_its_end(run, expected_steps):
                self.save(began, before)
                continue
            self.record.runs += 1
            wrong = differences(whole, run)
            if wrong:
                self.record.mismatches.append(f"{run}: differs in {', '.join(wrong)}")
                print(self.record.mismatches[-1], file=sys.stderr, flush=True)
            else:
                shutil.rmtree(run)
            self.save(began, before)

    def to_its_end(self, run: Path, total_steps: int) -> bool:
        """Start or resume `run` and perhaps kill it; whether it has come to its end, unharmed."""
        record = self.record
        if finished(run):
            return True  # killed after its last word
        moment = random.Random(f"{self.seed} {self.folder.name} {record.runs} {record.kills}")
        last = run / "checkpoints" / "last"
        if (run / "config.yaml").exists():
            arguments = ["resume", str(run)]
        else:
            shutil.rmtree(run, ignore_errors=True)
            arguments = ["train", *self.overrides, f"run_dir={run}"]
        fresh = record.kills % FRESH_EVERY == FRESH_EVERY - 1
        left = 1.0 - steps_done(last) / total_steps
        start = record.start_seconds + 2.5 * fresh
        # mostly within what is left; now and then beyond it: runs come to their end, and kills meet their last words
        share = 1.3 if moment.random() < 0.25 else 0.85
        training = (record.whole_seconds - record.start_seconds) * max(left, 0.1) * share
        spare = moment.uniform(0.0, start) if moment.random() < 0.1 else start + moment.uniform(0.0, training)
        if record.kills >= self.kills:
            spare = float("inf")  # the last one comes to its end, and is compared
        aimed = moment.random() < 0.5 and left > 0
        process = self.start(arguments, fresh=fresh)
        try:
            killed = process.kill_after(spare, last if aimed else None)
        finally:
            process.kill()  # this program was told to stop
        if killed:
            record.kills += 1
            record.in_checkpoint += half_written(last)
            record.before_the_first += not (last / "manifest.json").exists()
            return False
        if process.code:
            tail = (self.folder / "log.txt").read_text()[-2000:]
            record.mismatches.append(f"{run}: {' '.join(arguments[:2])} ended with {process.code}: {tail}")
            print(record.mismatches[-1], file=sys.stderr, flush=True)
            record.runs += 1  # left there to be looked at; the next repetition begins
            record.kills += 1  # so that nothing goes on for ever
            return False
        return True

    def start(self, arguments: list[str], *, fresh: bool) -> Process:
        return Process(arguments, self.folder / "log.txt", fresh=fresh)

    def wait(self, process: Process) -> float:
        """Until it ends; its processor time."""
        try:
            process.kill_after(float("inf"), None)
        finally:
            process.kill()
        if process.code:
            sys.exit(f"{process.arguments} ended with {process.code}: {(self.folder / 'log.txt').read_text()[-2000:]}")
        return process.cpu

    def save(self, began: float, before: float) -> None:
        self.record.seconds = before + time.monotonic() - began
        partial = self.folder / f".{RECORD}"
        partial.write_text(json.dumps(asdict(self.record)))
        partial.replace(self.folder / RECORD)


class Process:
    """`deeprl <arguments>` in a process of its own, forked from this one or a fresh interpreter."""

    def __init__(self, arguments: list[str], log: Path, *, fresh: bool) -> None:
        self.arguments, self.cpu = arguments, 0.0
        self.code: int | None = None
        with log.open("wb") as file:
            if fresh:
                command = [sys.executable, "-m", "deeprl_cli", *arguments]
                self._popen = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
                self.pid = self._popen.pid
                return
            sys.stdout.flush()
            self.pid = os.fork()
            if self.pid == 0:
                os.setsid()
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                _be(arguments)

    def kill_after(self, cpu: float, checkpoint: Path | None) -> bool:
        """Kill it when it has used `cpu` seconds (and begins to write `checkpoint`, where given); False where it
        ends before that. SystemExit where it does neither."""
        deadline = time.monotonic() + STUCK
        before: set[str] | None = None  # what was there when the waiting for a new file began
        while not self._ended():
            if time.monotonic() > deadline:
                sys.exit(f"{self.arguments}: neither killed nor at its end after {STUCK:.0f} s")
            if self.cpu < cpu:
                time.sleep(0.002)
                continue
            now = listed(checkpoint) if checkpoint is not None else None
            before = now if before is None else before
            if now is None or now - (before or set()):
                self.kill()
                return True
            time.sleep(0.0005)
        return False

    def kill(self) -> None:
        if self.code is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.code = -signal.SIGKILL

    def _ended(self) -> bool:
        with suppress(OSError):  # Linux; its group may not be there yet
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            self.cpu = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
        return bool(pid)


def preload() -> None:
    """Import what runs need, so that forked processes have it."""
    import gymnasium.envs.box2d
    import gymnasium.envs.classic_control
    import gymnasium.envs.mujoco  # noqa: F401

    import deeprl_cli.cli
    import deeprl_cli.commands.resume  # noqa: F401
    from deeprl_cli.config.compose import load_config

    for job in JOBS:
        load_config(job)


def _be(arguments: list[str]) -> None:
    """In a forked process: the program, and its end."""
    code = 1
    try:
        from deeprl_cli.cli import main as program

        program(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# --- what runs leave --------------------------------------------------------------------------------------------------


def listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def half_written(folder: Path) -> bool:
    """Whether a checkpoint was being written in `folder`: data files that no manifest names, a manifest under way."""
    names = listed(folder)
    if any(name.endswith(".tmp") for name in names):
        return True
    named: set[str] = set()
    for name in names:
        if name.endswith(".json"):
            with suppress(OSError, ValueError):  # just replaced
                named |= set(json.loads((folder / name).read_bytes())["files"])
    return any(name.endswith(".safetensors") and name not in named for name in names)


def steps_done(folder: Path) -> int:
    """Of the checkpoint in `folder`; 0 where there is none."""
    try:
        steps: int = json.loads((folder / "manifest.json").read_bytes())["state"]["steps"]
        return steps
    except OSError:
        return 0


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def finished(run: Path) -> bool:
    """Whether its summary says so."""
    return (run / "summary.json").exists() and summary(run)["status"] == "finished"


def differences(whole: Path, run: Path) -> list[str]:
    """In what `run` differs from `whole`."""
    expected, found = left(whole), left(run)
    return [key for key in expected if found[key] != expected[key]]


def left(run: Path) -> dict[str, Any]:
    """What must be equal: everything that a run leaves but for times."""
    told = summary(run)
    manifest = json.loads((run / "checkpoints" / "last" / "manifest.json").read_text())
    best = sorted((run / "checkpoints" / "best").iterdir())
    state = {key: value for key, value in manifest["state"].items() if key not in ("clock", "log")}
    return {
        "weights": (run / "weights.sha256").read_text(),
        "metrics": {path.parent.name: metrics(path) for path in sorted(run.glob("seed_*/metrics.csv"))},
        "TensorBoard": {path.name: events(path) for path in sorted(run.glob("seed_*"))},
        "summary": {key: told[key] for key in ("status", "total_steps", "eval")},
        "best": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in best},
        "tensors of the last checkpoint": manifest["files"][manifest["tensors"]]["sha256"],
        "replay memory": {name: manifest["files"][file]["sha256"] for name, file in manifest["segments"].items()},
        "state of the last checkpoint": state,
    }


def metrics(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def events(folder: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) of every point that TensorBoard would show, in their order, times apart."""
    from tensorboard.compat.proto.event_pb2 import Event

    points = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            points += [(event.step, v.tag, v.simple_value) for v in event.summary.value if v.tag[:5] != "time/"]
            at += 16 + length
    return [point for point in points if point[1] != "config"]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, too
    sys.exit(main())
