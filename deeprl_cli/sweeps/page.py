"""The report of a sweep: the answer, every setting with its interval, the curves of the best, and what failed."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from shlex import quote

import numpy as np

from deeprl_cli.errors import UserError
from deeprl_cli.reports import chart
from deeprl_cli.reports.cells import clock, interval, number
from deeprl_cli.reports.curves import SeedCurve, read_metric
from deeprl_cli.reports.page import Block, Commands, Figure, Figures, Page, Table, Text
from deeprl_cli.reports.run_page import RETURNS, line_of
from deeprl_cli.runs.catalogue import last_used
from deeprl_cli.runs.sweep_folder import SweepRecord, pairs, read_sweep, run_of, short_names, shown
from deeprl_cli.sweeps.ranking import BEST, HIGHEST, SAME, Row, answer, keys_of, ranked
from deeprl_cli.sweeps.table import failures, progress

LINES = 6  # settings whose curves are drawn; more could not be told apart
SHOWN = 24  # settings drawn with their interval


def sweep_page(folder: Path) -> Page:
    """Raises UserError if `folder` holds no sweep, or it is damaged."""
    sweep = read_sweep(folder)
    rows = ranked(sweep.jobs)
    counts = Counter(job["status"] for job in sweep.jobs)
    status = "running" if sweep.alive else "done" if set(counts) == {"done"} else "incomplete"
    when = datetime.fromtimestamp(last_used(folder)).astimezone()
    shared = dict(set.intersection(*(set(pairs(job).items()) for job in sweep.jobs)) if sweep.jobs else ())
    named = " on ".join(shared[key] for key in ("algo", "env") if key in shared)
    title = f"Sweep {folder.resolve().name}"
    page = Page(title, status, " · ".join([*([named] if named else []), progress(sweep), f"{when:%Y-%m-%d %H:%M}"]))
    page.warnings = [line.strip() for line in failures(sweep.jobs)]
    told = [Text(line) for line in answer(rows)]
    page.add("Which setting is best", *told, *_returns(rows))
    page.add("Settings", _table(sweep, rows))
    page.add("Curves", *_curves(folder, rows))
    page.add("What was run", _runs(folder, sweep))
    page.add("Commands", Commands(_commands(folder, sweep)))
    return page


def _envs(rows: list[Row]) -> list[str | None]:
    return list(dict.fromkeys(row.setting.env for row in rows))


def _name(row: Row) -> str:
    return row.name if row.setting.env is None else row.name.replace(row.setting.env, "", 1).strip() or row.name


def _returns(rows: list[Row]) -> list[Block]:
    figures = []
    for env in _envs(rows):
        shown = [row for row in rows if row.setting.env == env and row.last and row.last["iqm"] is not None][:SHOWN]
        if not shown:
            continue
        told = [
            chart.Interval(
                _name(row),
                row.last["iqm"],
                low=row.last["iqm_ci95"][0],
                high=row.last["iqm_ci95"][1],
                best=row.verdict in (BEST, HIGHEST),
                alike=row.verdict == SAME,
            )
            for row in shown
            if row.last
        ]
        figures.append(Figure(env or "Returns", chart.intervals(told, "return of the last policy: IQM, 95% interval")))
    if not figures:
        return []
    return [
        Figures(figures),
        Text("Grey: worse than the best, and not by chance. In the colour of the best: perhaps as good."),
    ]


def _table(sweep: SweepRecord, rows: list[Row]) -> Table:
    keys = short_names(keys_of(sweep.jobs)[0])
    head = [*keys.values(), "seeds", "IQM", "95% interval", "mean", "best policy", "time", ""]
    cells = []
    for row in rows:
        last, best = row.last or {}, row.best or {}
        estimates = [number(last.get("iqm")), interval(last.get("iqm_ci95") or [None]), number(last.get("mean"))]
        seeds = str(len(last.get("returns", []))) if last else "–"
        told = row.verdict or "/".join(dict.fromkeys(job["status"] for job in row.setting.jobs))
        values = [shown(key, row.setting.values[key]) for key in keys]
        cells.append([*values, seeds, *estimates, number(best.get("iqm")), clock(row.setting.seconds), told])
    marked = [index for index, row in enumerate(rows) if row.verdict in (BEST, HIGHEST)]
    return Table(head, cells, right=range(len(keys), len(keys) + 6), marked=marked)


def _curves(folder: Path, rows: list[Row]) -> list[Block]:
    figures, more = [], False
    for env in _envs(rows):
        lines = []
        block = [row for row in rows if row.setting.env == env]
        for row in block[:LINES]:
            line = line_of(_name(row), _seeds(folder, row), single=False)
            if line is not None and len(line.steps):
                lines.append(line)
        more = more or len(block) > LINES
        if lines:
            picture = chart.curves(lines, "evaluation return")
            figures.append(Figure(env or "evaluation return", picture, [line.name for line in lines]))
    if not figures:
        return []
    first = f"The first {LINES} settings of the table. " if more else ""
    return [Figures(figures), Text(f"{first}Interquartile mean over seeds; shaded: its 95% bootstrap interval.")]


def _seeds(folder: Path, row: Row) -> list[SeedCurve]:
    found = []
    for job in row.setting.jobs:
        place = run_of(folder, job)
        for table in sorted(place.glob("seed_*/metrics.csv")) if place is not None else []:
            with suppress(UserError):  # the other curves are shown even if one file is damaged
                found.append(read_metric(table, RETURNS[0])[1])
    return found


def _runs(folder: Path, sweep: SweepRecord) -> Table:
    rows = []
    for job in sweep.jobs:
        values = [value for value in job.get("last_returns") or [] if value is not None]
        earned = number(float(np.mean(values))) if values else "–"
        place = run_of(folder, job)
        rows.append([" ".join(job["overrides"]), job["status"], earned, "" if place is None else str(place)])
    return Table(["values", "status", "return", "run"], rows, right=(2,), folded=f"All runs ({len(rows)})")


def _commands(folder: Path, sweep: SweepRecord) -> list[tuple[str, str]]:
    name, values = quote(str(folder)), dict[str, list[str]]()
    for job in sweep.jobs:
        for key, value in pairs(job).items():
            values.setdefault(key, [])
            if value not in values[key]:
                values[key].append(value)
    every = " ".join(quote(f"{key}={','.join(found)}") for key, found in values.items() if key != "run_dir")
    again = [(f"deeprl train -m {every}", "Train all combinations of its values again:")] if every else []
    return [
        *again,
        (f"deeprl sweep {name}", "The table as it is now:"),
        (f"deeprl eval {name}", "Play the best setting on fresh episodes:"),
        (f"deeprl plot {name}", "Its curves and returns as pictures:"),
    ]
