"""Runs jobs of a sweep side by side: follows their files, stops them together, and leaves none behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from deeprl_cli.schema.run import RunConfig
from deeprl_cli.sweeps.engines import Engine, Jobs
from deeprl_cli.sweeps.job import STOP, command, run_job, write_plan
from deeprl_cli.sweeps.record import Record

LOOK = 0.3  # seconds between checks of the jobs' files
LATE = 10.0  # seconds that a file may take to be seen, from the machine of a job that has just ended to this one
PATIENCE = 60.0  # seconds that jobs asked to stop have for their last checkpoint


def run_side_by_side(
    engine: Engine, configs: Sequence[RunConfig], record: Record, units: Sequence[Sequence[int]]
) -> int:
    """Run all jobs through `engine`, those of a unit together, as the first of them; the exit code of an interruption,
    else 0. Raises UserError where the engine can't be had, and what the engine itself raises."""
    folder = record.folder.resolve()
    write_plan(folder, configs, engine.cores(len(units)), units)
    follower = Follower(folder, record, units)
    work = partial(run_job, str(folder))
    jobs = Jobs(work, partial(command, str(folder)), follower.waiting, follower.stopping, folder / "jobs")
    with follower.following(), follower.stoppable():
        try:
            for number, cause in engine.run(jobs):
                follower.engine_says(number, cause)
        except Exception:
            if not follower.stopping():  # a job that was asked to stop, or killed, may end in any way
                raise
        finally:
            follower.end_all()
    return 128 + follower.received if follower.received is not None else 0


class Process(NamedTuple):
    """A job's, on this machine; `leads`: a process group of its own, with all it has started."""

    pid: int
    leads: bool

    def alive(self) -> bool:
        """Whether it is still running. A zombie is not."""
        if Path("/proc/self").exists():
            try:
                stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                return False
            return stat.rpartition(")")[2].split()[0] != "Z"
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            (os.killpg if self.leads else os.kill)(self.pid, signal.SIGKILL)


class Follower:
    """Passes on what the jobs' files say to the record, and tells the jobs when to stop."""

    def __init__(self, folder: Path, record: Record, units: Sequence[Sequence[int]]) -> None:
        self.folder, self.record = folder, record
        self.units = {unit[0]: unit for unit in units}  # what an engine runs, by the number under which it knows it
        self.received: int | None = None
        self._asked_at = 0.0
        self._over = threading.Event()
        self._processes: dict[int, Process] = {}  # of jobs that run on this machine

    def waiting(self) -> list[int]:
        self.look()
        return [number for number in self.record.numbers("waiting") if number in self.units]

    def stopping(self) -> bool:
        return self.received is not None

    def engine_says(self, number: int, cause: str) -> None:
        """A job has ended: its file says how, or else its engine says why."""
        end = time.monotonic() + (0 if cause or self.stopping() else LATE)
        self.look()
        unit = self.units[number]
        while self._open(unit) and time.monotonic() < end:
            time.sleep(LOOK)
            self.look()
        for job in unit:
            process = self._processes.pop(job, None)
            if process is not None and not process.alive():
                process.kill()  # what it has started, if anything is left of that
            if not self.stopping():
                self.record.ended(job, {"status": "failed", "error": cause or "it ended without saying why"})
            elif self.record.jobs[job]["status"] == "running":
                self.record.ended(job, {"status": "stopped"})

    def _open(self, unit: Sequence[int]) -> bool:
        return any(self.record.jobs[job]["status"] in ("waiting", "running") for job in unit)

    def look(self) -> None:
        for number in [*self.record.numbers("waiting"), *self.record.numbers("running")]:
            told = self._read(number)
            if told is None:
                continue
            self.record.running(number, told.get("run", ""))
            if told["status"] != "running":
                self._processes.pop(number, None)
                self.record.ended(number, told)
            elif told["host"] == socket.gethostname():
                self._processes[number] = Process(told["pid"], told["leads"])

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = json.loads((self.folder / f"jobs/{number}.json").read_text(encoding="utf-8"))
            return told
        except (OSError, ValueError):
            return None

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Look at the files again and again while engines wait."""

        def follow() -> None:
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while not self._over.wait(LOOK):
                self.look()
                if self.stopping() and time.monotonic() > self._asked_at + PATIENCE:
                    self.kill()

        thread = threading.Thread(target=follow, daemon=True)
        with _sigint_blocked():  # processes started here don't get the terminal's Ctrl-C; we tell the jobs
            thread.start()
            try:
                yield
            finally:
                self._over.set()
                thread.join()
                self.look()

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks the jobs to stop, the next kills them."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stopping():
                self.kill()
                raise KeyboardInterrupt
            self.ask(number)
            os.write(2, b"\nstopping: the runs write their last checkpoints (once more to quit at once)\n")

        former: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs us there handles signals
            for number in (signal.SIGINT, signal.SIGTERM):
                former[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for restored, handler in former.items():
                signal.signal(restored, handler)

    def ask(self, number: int) -> None:
        self.received, self._asked_at = number, time.monotonic()
        (self.folder / STOP).touch()

    def end_all(self) -> None:
        """Make sure that no job on this machine is running when this returns, whatever the engine did."""
        self.look()
        with contextlib.suppress(OSError):
            (self.folder / STOP).touch()
        end = (self._asked_at if self.stopping() else time.monotonic()) + PATIENCE
        while any(job.alive() for job in self._processes.values()) and time.monotonic() < end:
            time.sleep(LOOK)
            self.look()
        self.kill()
        for number in self.record.numbers("running"):
            gone = {"status": "failed", "error": "its process died: out of memory is the usual cause"}
            self.record.ended(number, {"status": "stopped"} if self.stopping() else gone)

    def kill(self) -> None:
        """Kill the jobs on this machine, and what they have started."""
        for job in list(self._processes.values()):
            job.kill()


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """In this thread, and in the threads and processes it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
