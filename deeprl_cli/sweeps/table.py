"""A sweep as a table, with a row for each setting and the best first: on the screen, in `sweep.csv` and `sweep.md`."""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deeprl_cli.reports.cells import cell, clock, interval, number
from deeprl_cli.runs.sweep_folder import SEED, Job, SweepRecord, label, pairs, short_names, shown, varying
from deeprl_cli.sweeps.ranking import BEST, HIGHEST, LESS, SAME, UNKNOWN, Row, answer, keys_of, ranked

STYLES = {BEST: "bold green", HIGHEST: "green", SAME: "green", UNKNOWN: "yellow", LESS: "dim"}
_ORDER = {"done": 0, "running": 1, "stopped": 1, "waiting": 2, "failed": 3}
_PIPED_WIDTH = 160  # width without a terminal
_NARROW = 120  # below this width, columns are left out; the files have them
_FAILURES = 10  # failures that are named below the table; the rest is counted
ESTIMATES = ("mean", "iqm", "low", "high")
TITLES = ("return, IQM", "95% CI", "mean", "best policy, IQM", "95% CI", "mean")
_LEAST = (2, 4, 5)  # of those, left out where it is narrow


def show(jobs: Sequence[Job], policy: str = "last") -> None:
    """Print the table, the failures, and the answer."""
    stream = sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _PIPED_WIDTH)
    rows = ranked(jobs, policy)
    names = short_names(keys_of(jobs)[0])
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names.values():
        table.add_column(name, overflow="fold")
    kept = [console.width >= _NARROW or index not in _LEAST for index in range(len(TITLES))]
    for title in ("seeds", *itertools.compress(TITLES, kept), "time"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        # as Text, because a value may contain what rich takes for markup
        values = [Text(shown(key, row.setting.values[key])) for key in names]
        numbers = [_seeds(row), *itertools.compress(_numbers(row), kept), clock(row.setting.seconds)]
        table.add_row(*values, *numbers, Text(_told(row), STYLES.get(row.verdict, "")))
    console.print(table)
    for line in [*failures(jobs), *answer(rows, policy)]:
        console.print(line, markup=False, soft_wrap=True)


def progress(sweep: SweepRecord) -> str:
    """`5 of 9 runs done, 1 running, 3 waiting: about 1:20 left`."""
    counts = Counter(job["status"] for job in sweep.jobs)
    parts = [f"{counts.pop('done', 0)} of {len(sweep.jobs)} runs done"]
    parts += [f"{count} {status}" for status, count in counts.items()]
    left = sweep.seconds_left()
    return ", ".join(parts) + ("" if left is None else f": about {clock(left)} left")


def failures(jobs: Sequence[Job]) -> list[str]:
    """A line for each job that failed, and why."""
    failed = [job for job in jobs if job["status"] == "failed"]
    lines = [f"failed: {_label(job, jobs)}: {cause(job)}" for job in failed[:_FAILURES]]
    return lines + [f"… and {len(failed) - _FAILURES} more"] * (len(failed) > _FAILURES)


def files(jobs: Sequence[Job], name: str) -> dict[str, str]:
    """The files that a sweep called `name` writes: names and texts."""
    return {"sweep.csv": as_csv(jobs), "sweep.md": as_markdown(jobs, name)}


def as_csv(jobs: Sequence[Job]) -> str:
    """A row for each setting (`row` is setting), then one for each job (run), each ordered as `ranked` and `ordered`.
    `return` and `best_return` are means over seeds; intervals are of the IQM."""
    keys, text = keys_of(jobs)[0], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    estimated = [f"{policy}{name}" for policy in ("return", "best_return") for name in ("", "_iqm", "_low", "_high")]
    writer.writerow(["row", *keys, SEED, "seeds", *estimated, "seconds", "verdict", "status", "run", "error"])
    for row in ranked(jobs):
        cells = [_plain(value) for values in _estimated(row) for value in values]
        setting = row.setting
        told = [_plain(setting.seconds), row.verdict, _statuses(row), "", ""]
        writer.writerow(["setting", *setting.values.values(), "", _count(row), *cells, *told])
    for job in ordered(jobs):
        values = [_plain(job.get("return")), "", "", "", _plain(job.get("best_return")), "", "", ""]
        given, seeds = pairs(job), job.get("seeds") or []
        told = [_plain(job.get("seconds")), "", job["status"], job.get("run", ""), cause(job)]
        named = [*(given.get(key, "") for key in keys), given.get(SEED, "")]
        writer.writerow(["run", *named, len(seeds) or "", *values, *told])
    return text.getvalue()


def as_markdown(jobs: Sequence[Job], name: str) -> str:
    """The table of settings, what it says, and how it is read."""
    rows, keys = ranked(jobs), keys_of(jobs)[0]
    titles = [*short_names(keys).values(), "seeds", *TITLES, "time", ""]
    lines = [f"# Sweep {name}", "", *(f"{line}  " for line in answer(rows)), ""]
    lines += [f"| {' | '.join(map(cell, titles))} |", f"|{'---|' * len(keys)}{'--:|' * (len(TITLES) + 2)}---|"]
    for row in rows:
        cells = [*row.setting.values.values(), _seeds(row), *_numbers(row), clock(row.setting.seconds), _told(row)]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    lines += ["", *(f"- {cell(line)}" for line in failures(jobs))]
    lines += [
        "",
        "Returns are those of fresh evaluation episodes of each seed; IQM is the interquartile mean over seeds, with",
        "its 95% bootstrap interval. `≈ best` can't be told apart from the best (Yuen's test; 5% over all comparisons,",
        "by Holm's method).",
    ]
    return "\n".join(lines) + "\n"


def as_json(jobs: Sequence[Job], policy: str = "last") -> dict[str, Any]:
    """The table for programs: settings in the same order, all digits."""
    rows = ranked(jobs, policy)
    return {
        "jobs": dict(Counter(job["status"] for job in jobs)),
        "settings": [
            {
                "values": row.setting.values,
                "last": row.last,
                "best": row.best,
                "seconds": row.setting.seconds,
                "verdict": row.verdict,
                "p": None if row.p != row.p else row.p,
                "seeds_needed": row.seeds_needed,
                "runs": [job["run"] for job in row.setting.jobs if job.get("run")],
            }
            for row in rows
        ],
        "answer": answer(rows, policy),
    }


def ordered(jobs: Sequence[Job]) -> list[Job]:
    """Those that are done first, the highest return of the last policy first; then what was stopped or never ran; then
    the failures. Returns of different environments can't be compared: each environment is a block."""
    envs = list(dict.fromkeys(pairs(job).get("env") for job in jobs))

    def place(job: Job) -> tuple[int, int, bool, float]:
        status = _ORDER.get(job["status"], 3)
        block = envs.index(pairs(job).get("env")) if status == 0 else 0
        return status, block, job.get("return") is None, -(job.get("return") or 0.0)

    return sorted(jobs, key=place)


def cause(job: Job) -> str:
    """Why a job failed, in one line."""
    return next(iter(str(job.get("error") or "").splitlines()), "")


def _label(job: Job, jobs: Sequence[Job]) -> str:
    return label({key: pairs(job).get(key, "") for key in varying(jobs)})


def _estimated(row: Row) -> list[list[float | None]]:
    """Of the last and of the best policy: mean, IQM and the interval's ends."""
    return [
        [None] * 4 if found is None else [found["mean"], found["iqm"], *found["iqm_ci95"]]
        for found in (row.last, row.best)
    ]


def _numbers(row: Row) -> list[str]:
    """The cells below TITLES."""
    cells = []
    for mean, iqm, low, high in _estimated(row):
        cells += [number(iqm), interval([low, high]), number(mean)]
    return cells


def _count(row: Row) -> int:
    return len(row.last["returns"]) if row.last else 0


def _seeds(row: Row) -> str:
    return str(_count(row)) if _count(row) else "–"


def _told(row: Row) -> str:
    """The verdict, and how many seeds aren't done."""
    statuses = _statuses(row)
    return ", ".join(text for text in (row.verdict, "" if statuses == "done" else statuses) if text)


def _statuses(row: Row) -> str:
    """`done`, or `1 failed, 2 waiting`."""
    counts = Counter(job["status"] for job in row.setting.jobs)
    undone = [f"{count} {status}" for status, count in counts.items() if status != "done"]
    return ", ".join(undone) if undone else "done"


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
