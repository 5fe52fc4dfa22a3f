"""A sweep in one table, the best first and the failures below: `sweep.csv`, and on the screen."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Job = Mapping[str, Any]  # of sweep.json
RESULTS = ("return", "best_return", "seconds", "status", "run", "error")
_ORDER = {"done": 0, "running": 1, "stopped": 1, "waiting": 2, "failed": 3}
_PIPED_WIDTH = 160  # columns where there is no terminal to ask


def varying(jobs: Sequence[Job]) -> list[str]:
    """The keys that the jobs' overrides differ in, in the order typed."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for key, value in _pairs(job).items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def ordered(jobs: Sequence[Job]) -> list[Job]:
    """Those that are done first, the highest return of the last policy first; then what was stopped or never ran; then
    the failures. Returns of different environments can't be compared: each environment is a block."""
    envs = list(dict.fromkeys(_pairs(job).get("env") for job in jobs))

    def place(job: Job) -> tuple[int, int, bool, float]:
        status = _ORDER[job["status"]]
        block = envs.index(_pairs(job).get("env")) if status == 0 else 0
        return status, block, job.get("return") is None, -(job.get("return") or 0.0)

    return sorted(jobs, key=place)


def as_csv(jobs: Sequence[Job]) -> str:
    """A row for each job: the overrides that vary, returns (means over seeds), seconds, status, run folder, error."""
    keys, text = varying(jobs), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *RESULTS])
    for job in ordered(jobs):
        results = {**job, "error": cause(job)}
        writer.writerow([*(_pairs(job).get(key, "") for key in keys), *(_cell(results.get(name)) for name in RESULTS)])
    return text.getvalue()


def show(jobs: Sequence[Job]) -> None:
    stream = sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _PIPED_WIDTH)
    keys = varying(jobs)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in keys:
        table.add_column(key, overflow="fold")
    for title in ("return", "best policy", "time"):
        table.add_column(title, justify="right")
    table.add_column("status")
    table.add_column("run, or why not", overflow="fold", ratio=1)
    for job in ordered(jobs):
        numbers = [_number(job.get("return")), _number(job.get("best_return")), _time(job.get("seconds"))]
        told = cause(job) or job.get("run", "")
        # as Text: an error may hold what rich takes for markup
        table.add_row(*map(Text, (*(_pairs(job).get(key, "") for key in keys), *numbers, job["status"], told)))
    console.print(table)


def cause(job: Job) -> str:
    """Why a job failed, in one line."""
    return next(iter(str(job.get("error") or "").splitlines()), "")


def _pairs(job: Job) -> dict[str, str]:
    pairs = [text.lstrip("+~").partition("=") for text in job["overrides"]]
    return {key: value for key, _, value in pairs}


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
