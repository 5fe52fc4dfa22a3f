"""The worker processes of a run, managed by their parent: started, read from, replaced when they die, and stopped.

Deaths are of three kinds: a worker raises, and has sent its traceback; it is killed, as the kernel does where memory
runs out; or it hangs: gives no sign of life for `hardware.heartbeat` seconds, and is killed here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch.multiprocessing as mp

from deeprl_cli.schema.run import MultiprocessConfig
from deeprl_cli.training.worker import Job, Shared, main

BACK_OFF = 0.5  # seconds before the first restart of a worker; twice that before the next, and so on
STARTUP = 600.0  # seconds a worker may take to import, build and compile all it needs, if the heartbeat is shorter
PATIENCE = 10.0  # seconds workers have to stop by themselves
TERM = 2.0  # and to do so when terminated
LONGEST_LOOK = 1.0  # seconds of silence counted between two looks: a machine that slept makes nobody silent

Report = tuple[dict[str, float], int, list[tuple[int, float, int]]]  # metrics, of how many updates, episodes


class WorkersLost(Exception):  # noqa: N818
    """No worker is left, or one died with hardware.on_death=fail."""


@dataclass
class Member:
    """One worker's place: the process that fills it, or when the next one will."""

    index: int
    process: BaseProcess | None = None
    pipe: Any = None
    generation: int = 0  # how many processes filled the place before
    ready: bool = False
    done: bool = False  # it ended normally
    raised: bool = False
    hung: bool = False
    beat: int = -1
    silent: float = 0.0  # seconds since the beat moved
    restart_at: float | None = None

    @property
    def given_up(self) -> bool:
        return self.process is None and self.restart_at is None and not self.done


class Crew:
    """`make_job(index, generation, pipe)` says what a worker is told; `say` shows a line; `take` receives reports."""

    def __init__(
        self,
        shared: Shared,
        hardware: MultiprocessConfig,
        make_job: Callable[[int, int, Any], Job],
        say: Callable[[str], None],
        take: Callable[[Report], None],
    ) -> None:
        self.shared, self.hardware, self.make_job, self.say, self.take = shared, hardware, make_job, say, take
        self.members = [Member(index) for index in range(len(shared.beats))]
        self.context: Any = mp.get_context("forkserver")
        self.context.set_forkserver_preload(["deeprl_cli.training.worker"])  # torch is loaded once, not by each
        self._last_look = time.monotonic()

    @property
    def at_work(self) -> bool:
        return any(member.process is not None for member in self.members)

    @property
    def ready(self) -> bool:
        """Whether all workers are ready."""
        return all(member.ready or member.given_up for member in self.members)

    def start(self) -> None:
        for member in self.members:
            self._fill(member)

    def watch(self, timeout: float = 0.0) -> None:
        """Take what has been sent, for at most `timeout` seconds until something is; see to those that died or hang.

        Raises WorkersLost.
        """
        self._listen(timeout)
        now = time.monotonic()
        passed, self._last_look = min(now - self._last_look, LONGEST_LOOK), now
        for member in self.members:
            if member.process is not None and member.process.exitcode is not None:
                self._ended(member)
            elif member.process is not None:
                self._feel(member, passed)
            elif member.restart_at is not None and now >= member.restart_at:
                member.generation += 1
                self._fill(member)
        if not any(member.process or member.restart_at or member.done for member in self.members):
            count = len(self.members)
            raise WorkersLost(f"all {count} workers are dead" if count > 1 else "the only worker is dead")

    def stop(self, patience: float = PATIENCE) -> None:
        """Stop all workers, patiently at first, and wait for them. May be called twice."""
        self.shared.stop.fill_(1)
        for member in self.members:
            member.restart_at = None
        ways: list[tuple[float, Callable[[BaseProcess], None]]] = [
            (patience, lambda process: None),
            (TERM, lambda process: process.terminate()),
            (PATIENCE, lambda process: process.kill()),
        ]
        for seconds, end in ways:
            for member in self.members:
                if member.process is not None:
                    end(member.process)
            until = time.monotonic() + seconds
            while self.at_work and (left := until - time.monotonic()) > 0:
                self._listen(min(left, 0.1))
                for member in self.members:
                    if member.process is not None and member.process.exitcode is not None:
                        self._release(member)

    # --- one worker -------------------------------------------------------------------------------------------------

    def _fill(self, member: Member) -> None:
        ours, theirs = self.context.Pipe(duplex=False)
        job = self.make_job(member.index, member.generation, theirs)
        process = self.context.Process(target=main, args=(job,), name=f"deeprl worker {member.index}")
        # read as a process imports torch; one that compiles starts no processes of its own for it
        environment = _environment(OMP_NUM_THREADS=str(job.hardware.threads), TORCHINDUCTOR_COMPILE_THREADS="1")
        with environment, _without_interrupts():
            process.start()
        theirs.close()
        member.process, member.pipe, member.restart_at = process, ours, None
        member.ready = member.raised = member.hung = False
        member.beat, member.silent = int(self.shared.beats[member.index]), 0.0

    def _listen(self, timeout: float) -> None:
        """Empty the pipes, waiting for a message or an end."""
        alive = [member for member in self.members if member.process is not None]
        by_pipe = {member.pipe: member for member in alive}
        ends = [member.process.sentinel for member in alive if member.process is not None]
        for found in connection.wait([*by_pipe, *ends], timeout):
            if found in by_pipe:
                self._read(by_pipe[found])

    def _read(self, member: Member) -> None:
        try:
            while member.pipe.poll():
                kind, *content = member.pipe.recv()
                if kind == "report":
                    metrics, updates, episodes = content
                    self.take((metrics, updates, episodes))
                elif kind == "ready":
                    member.ready = True
                elif kind == "done":
                    member.done = True
                else:
                    member.raised = True
                    self.say(f"worker {member.index} raised:\n{content[0].rstrip()}")
        except (EOFError, OSError):
            pass  # its end has been closed: the process is about to

    def _release(self, member: Member) -> int:
        """What is left in the pipe is read, and the place is empty; the exit code."""
        assert member.process is not None
        member.process.join()
        self._read(member)
        code = member.process.exitcode
        member.pipe.close()
        member.process.close()
        member.process = None
        return int(code or 0)

    def _feel(self, member: Member, passed: float) -> None:
        """Whether it shows signs of life. If not, it is killed."""
        assert member.process is not None
        beat = int(self.shared.beats[member.index])
        member.silent = 0.0 if beat != member.beat else member.silent + passed
        member.beat = beat
        allowed = self.hardware.heartbeat if member.ready else max(STARTUP, self.hardware.heartbeat)
        if member.silent > allowed and not member.hung:
            member.hung = True
            member.process.kill()  # and not terminate: it may be stopped

    def _ended(self, member: Member) -> None:
        """A process has come to its end: in order, or its place is filled again, or not, as the configuration says."""
        code = self._release(member)
        if member.done:
            return
        how = (
            "raised"
            if member.raised
            else f"gave no sign of life for {self.hardware.heartbeat:g} s and was ended"
            if member.hung
            else f"was killed by signal {-code}{' (out of memory is the usual cause)' if code == -9 else ''}"
            if code < 0
            else f"left with exit code {code}"
        )
        if self.hardware.on_death == "fail":
            raise WorkersLost(f"worker {member.index} {how}, and hardware.on_death=fail")
        if self.hardware.on_death == "restart" and member.generation < self.hardware.max_restarts:
            pause = BACK_OFF * 2**member.generation
            member.restart_at = time.monotonic() + pause
            number = f"restart {member.generation + 1} of {self.hardware.max_restarts}"
            self.say(f"worker {member.index} {how}: it starts again in {pause:g} s ({number})")
            return
        left = sum(other.process is not None or other.restart_at is not None for other in self.members)
        self.say(f"worker {member.index} {how}, and isn't replaced: {left} of {len(self.members)} go on")


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in here never get Ctrl-C. One that comes meanwhile reaches us later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
