"""Running the rows of a suite, each in a process of its own; report.py compares their returns with the bars.

`<out>/<row>/` holds `run/` (an ordinary run folder), `train.log` and `row.json`, what the row was when it was started:
a row that has finished and is still the same isn't run again. No torch in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from deeprl_cli.bench import report
from deeprl_cli.bench.plan import half_done, plan_of, source_of, stale
from deeprl_cli.bench.suite import Row, Suite
from deeprl_cli.errors import UserError
from deeprl_cli.processes.cores import available_cores
from deeprl_cli.reports.cells import clock, number
from deeprl_cli.runs.folder import atomic_write, read_summary

TRAIN = (sys.executable, "-m", "deeprl_cli", "train")
RESUME = (sys.executable, "-m", "deeprl_cli", "resume")
POLL = 0.2  # seconds between looks at the rows that run
PATIENCE = 60.0  # seconds that a stopped row has to end by itself
_LOG_TAIL = 8192  # bytes


class Bench:
    """The rows of a suite and what has become of each."""

    def __init__(self, suite: Suite, chosen: set[str], out: Path, jobs: int, fresh: bool, console: Console) -> None:
        self.out, self.jobs, self.console = out, jobs, console
        self.rows = suite.rows
        self.results: dict[str, dict[str, Any]] = {}
        self.waiting: list[tuple[Row, dict[str, Any]]] = []
        self.half_done: set[str] = set()  # of them, those whose run goes on from its checkpoint
        self.started = 0
        parts = [(part, row.name in chosen) for row in suite.rows for part in row.parts()]
        for row, wanted in parts:
            try:
                plan = plan_of(row, self.out)
                reason = stale(self.out / row.name, plan)
            except UserError as error:
                self.results[row.name] = report.unfinished(row, report.REFUSED, str(error))
                continue
            if fresh and wanted and reason is None:
                reason = "--fresh"
            if reason is None and any(row.init_from == other.name for other, _ in self.waiting):
                reason = f"{row.init_from}, which it starts from, runs again"
            if reason is None:
                self._judge(row)
            elif wanted:
                _check_own(self.out / row.name)
                self.waiting.append((row, plan))
                goes_on = not fresh and half_done(self.out / row.name, plan)
                if goes_on:
                    self.half_done.add(row.name)
                if reason:
                    self._say(f"{row.name}: {reason}: {'going on with it' if goes_on else 'running it again'}")
        for row, wanted in parts:
            if wanted and row.name in self.results:
                self._say(f"{self._said(row)}{' (done before)' if 'run' in self.results[row.name] else ''}")

    def records(self) -> list[dict[str, Any]]:
        """What is known of every row of the suite, in its order."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> dict[str, Any]:
        not_run = report.NOT_RUN
        found = [self.results.get(part.name) or report.unfinished(part, not_run) for part in row.parts()]
        return found[0] if row.together else report.joined(row, found, self.out / row.name)

    def run(self, signals: Signals) -> None:
        """Run the rows that wait, `jobs` at a time, until all are done or a signal stops them."""
        total, running = len(self.waiting), list[Job]()
        live = Live(console=self.console, auto_refresh=False, transient=True)
        with live if self.console.is_terminal else contextlib.nullcontext():
            try:
                while (self.waiting or running) and signals.received is None:
                    while len(running) < self.jobs and (job := self._next(running, total)) is not None:
                        running.append(job)
                    for job in [job for job in running if job.process.poll() is not None]:
                        running.remove(job)
                        self._finish(job)
                    if self.console.is_terminal:
                        lines = "\n".join(job.line() for job in running)
                        live.update(Text(lines, no_wrap=True, overflow="ellipsis"), refresh=True)
                    time.sleep(POLL)
            finally:
                self._stop(running, signals)

    def _next(self, running: Sequence[Job], total: int) -> Job | None:
        """The next row, started; None where none waits, or each waits for one that hasn't ended."""
        pending = {row.name for row, _ in self.waiting} | {job.row.name for job in running}
        for row, plan in self.waiting:
            if row.init_from in pending:
                continue
            self.waiting.remove((row, plan))
            self.started += 1
            if row.init_from is not None and "run" not in self.results[row.init_from]:
                why = f"{row.init_from}, which it starts from, has no result"
                self.results[row.name] = report.unfinished(row, report.REFUSED, why)
                self._say(self._said(row))
                return self._next(running, total)
            self._say(f"[{self.started}/{total}] {row.name}: {row.command}")
            plan = {**plan, "started_from": source_of(row, self.out)}
            return Job(row, plan, self.out, self._threads(row), row.name in self.half_done)
        return None

    def _threads(self, row: Row) -> int | None:
        """Rows side by side share the cores; a row alone, or one that says itself, is left to choose."""
        if self.jobs == 1 or any(override.startswith("hardware.threads=") for override in row.overrides):
            return None
        return max(1, available_cores() // self.jobs)

    def _finish(self, job: Job) -> None:
        code = job.process.returncode
        if code == 0 and stale(job.folder, job.plan) is None:
            self._judge(job.row)
        else:
            status = report.REFUSED if code == 2 else report.CRASHED
            self.results[job.row.name] = report.unfinished(job.row, status, job.last_words(), job.log)
        self._say(self._said(job.row))

    def _judge(self, row: Row) -> None:
        run = self.out / row.name / "run"
        self.results[row.name] = report.finished(row, read_summary(run), run)

    def _said(self, row: Row) -> str:
        record = self.results[row.name]
        if "run" not in record:
            return f"{row.name}: {record['status']}: {record['reason']}"
        counted = record[row.policy]
        bar = "" if row.bar is None else f", bar {number(row.bar)}"
        took = clock(record["wall_seconds"])
        return f"{row.name}: {record['status']}: mean {number(counted['mean'])}{bar}, in {took}"

    def _stop(self, running: Sequence[Job], signals: Signals) -> None:
        if not running:
            return
        for job in running:
            job.stop(signal.SIGINT)
        self._say("stopping: rows that are running will go on next time (Ctrl-C again quits at once)")
        end = time.monotonic() + PATIENCE
        while any(job.process.poll() is None for job in running):
            if signals.count > 1 or time.monotonic() > end:
                for job in running:
                    job.stop(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            time.sleep(POLL)
        for job in running:
            # a row that came to its end while it was asked to stop has a result all the same
            if job.process.returncode == 0 and stale(job.folder, job.plan) is None:
                self._judge(job.row)
            else:
                self.results[job.row.name] = report.unfinished(job.row, report.STOPPED)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


class Job:
    """A row under way: `deeprl train` in a process group of its own, so that Ctrl-C reaches it through us alone."""

    def __init__(self, row: Row, plan: dict[str, Any], out: Path, threads: int | None, goes_on: bool = False) -> None:
        folder = out / row.name
        self.row, self.plan, self.folder, self.log = row, plan, folder, folder / "train.log"
        run = folder / "run"
        if goes_on:
            command = [*RESUME, str(run), "--trust"]  # what it names, the suite has named
        else:
            shutil.rmtree(run, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / "row.json", (json.dumps(plan, indent=2, ensure_ascii=False) + "\n").encode())
            command = [*TRAIN, *row.train_overrides, f"run_dir={_quoted(run)}"]
            command += [] if row.init_from is None else [f"init_from={_quoted(out / row.init_from / 'run')}"]
            command += [] if threads is None else [f"hardware.threads={threads}"]
        environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
        options: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        self.began = time.monotonic()
        with self.log.open("ab" if goes_on else "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                **options,
            )

    def line(self) -> str:
        """Its name, how long it has been at work, and the newest line of its log."""
        return f"{self.row.name}  {clock(time.monotonic() - self.began)}  {self._newest()}"

    def last_words(self) -> str:
        """Why it ended, as far as its log tells: our own line of error, or the last of a traceback."""
        code = self.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        if code == 0:
            return "has written no summary that can be read"
        return f"{how}: {self._newest().removeprefix('deeprl: ')}" if code != 2 else self._newest()[len("deeprl: ") :]

    def stop(self, number: int) -> None:
        """Send the signal to the process and all it has started."""
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(self.process.pid, number)
            else:
                self.process.terminate()

    def _newest(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _check_own(folder: Path) -> None:
    """A run is deleted before its row starts again: it must be ours. Raises UserError."""
    if (folder / "run").exists() and not (folder / "row.json").is_file():
        raise UserError(f"{folder / 'run'}: no bench made this folder: give another --out, or move it away")


def _quoted(path: Path) -> str:
    """A path as Hydra's grammar takes it, whatever characters it holds."""
    return "'" + str(path).replace("'", "\\'") + "'"


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Of two benches in one folder the second would delete what the first is writing: it is refused."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{out}: another deeprl bench is at work here: wait for it, or give another --out"
            ) from None
        yield


@dataclass
class Signals:
    """The first signal that asked us to stop, and how many have come."""

    received: int | None = None
    count: int = 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Signals]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request to stop."""
    signals = Signals()

    def handle(number: int, frame: FrameType | None) -> None:
        signals.received, signals.count = signals.received or number, signals.count + 1

    previous: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, ValueError):  # not on this system; not the main thread
            previous[getattr(signal, name)] = signal.signal(getattr(signal, name), handle)
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
