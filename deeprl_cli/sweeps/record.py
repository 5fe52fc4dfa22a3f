"""What became of each job of a sweep: kept in `sweep.json`, reported as it happens, shown as a table at the end."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.runs.sweep_folder import SWEEP_NAME
from deeprl_cli.sweeps import table
from deeprl_cli.sweeps.bands import write_bands
from deeprl_cli.sweeps.job import Outcome


class Record:
    """What became of each job, kept in `sweep.json` and reported at once: waiting, running, done, failed or stopped;
    its run folder, return and time, or its error. More than one thread may write."""

    def __init__(
        self, folder: Path, jobs: Sequence[Sequence[str]], begun: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self.folder, self.path = folder, folder / SWEEP_NAME
        fresh: list[dict[str, Any]] = [{"overrides": list(job), "status": "waiting"} for job in jobs]
        self.jobs = fresh if begun is None else list(begun)
        self._lock, self._unwritten, self._began = threading.RLock(), False, time.time()
        self._write()

    @classmethod
    def again(cls, folder: Path, waiting: Sequence[int]) -> Record:
        """The record of a sweep that goes on with its jobs `waiting`. Raises UserError if it can't be read."""
        jobs = read_jobs(folder)
        record = cls(folder, [job["overrides"] for job in jobs], begun=jobs)
        for number in waiting:
            record.jobs[number] = {"overrides": jobs[number]["overrides"], "status": "waiting"}
        record._write()
        return record

    def label(self, number: int) -> str:
        return " ".join(self.jobs[number]["overrides"])

    def count(self, status: str) -> int:
        return sum(job["status"] == status for job in self.jobs)

    def numbers(self, status: str) -> list[int]:
        return [number for number, job in enumerate(self.jobs) if job["status"] == status]

    def running(self, number: int, run: str = "") -> None:
        """Job `number` has begun, in the folder `run` if that is known."""
        with self._lock:
            if self.jobs[number]["status"] == "waiting":
                self.jobs[number] |= {"status": "running", **({"run": run} if run else {})}
                self._write()
                print(f"[{number + 1}/{len(self.jobs)}] {self.label(number)}", flush=True)

    def ended(self, number: int, outcome: Outcome) -> None:
        """Record what became of a job, once. A failure is reported at once and in full."""
        with self._lock:
            job = self.jobs[number]
            if job["status"] not in ("waiting", "running"):
                return
            trace = outcome.get("traceback")
            job.update({k: v for k, v in outcome.items() if k not in ("traceback", "code") and v != ""})
            self._write()
            if job["status"] == "failed":
                print(f"deeprl: failed: {self.label(number)}{'' if trace else ': ' + job['error']}", file=sys.stderr)
                print(trace or "", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write the table, and show it."""
        with self._lock:
            for name, text in table.files(self.jobs, self.folder.name).items():
                self._save(self.folder / name, text)
            with suppress(OSError):  # what is missing has been told
                write_bands(self.folder, self.jobs)
        table.show(self.jobs)
        folder = quote(str(self.folder))
        print(f"{self.count('done')} of {len(self.jobs)} runs done; {self.folder / 'sweep.csv'}")
        if self.count("done"):
            print(f"again: deeprl sweep {folder}; its curves: deeprl plot {folder}", flush=True)

    def _write(self) -> None:
        self._save(
            self.path, json.dumps({"began": self._began, "jobs": self.jobs}, indent=2, ensure_ascii=False) + "\n"
        )

    def _save(self, path: Path, text: str) -> None:
        """A full disk must not end runs that could go on. It is reported once."""
        try:
            atomic_write(path, text.encode())
        except OSError as error:
            if not self._unwritten:
                print(f"deeprl: {path}: can't be written ({error.strerror}); the table below is right", file=sys.stderr)
            self._unwritten = True


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """What `sweep.json` says of each job. Raises UserError where it isn't there, or is damaged."""
    path = folder / SWEEP_NAME
    try:
        jobs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        if not all(isinstance(job["overrides"], list) and isinstance(job["status"], str) for job in jobs):
            raise ValueError("not the jobs of a sweep")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: damaged or missing, so the sweep can't go on") from error
    return jobs
