"""The report of a suite, from the results.json that `deeprl bench` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from deeprl_cli.bench.report import CRASHED, MISS, REFUSED
from deeprl_cli.errors import UserError
from deeprl_cli.reports import chart
from deeprl_cli.reports.cells import clock, interval, number
from deeprl_cli.reports.curves import SeedCurve, find_runs, read_metric
from deeprl_cli.reports.page import Block, Commands, Figure, Figures, Page, Table, Text
from deeprl_cli.reports.run_page import RETURNS, line_of

RESULTS = "results.json"


def suite_page(folder: Path) -> Page:
    """Raises UserError where results.json is none of a suite."""
    results = _read(folder / RESULTS)
    rows, counts = results["rows"], results["counts"]
    status = ", ".join(f"{count} {status}" for status, count in counts.items())
    about = f"deeprl {results['deeprl']} · {results['machine']} · {results['written']}"
    page = Page(f"Suite {results['suite']}", status, about)
    for row in rows:
        if row["status"] in (CRASHED, REFUSED):
            page.warnings.append(f"{row['name']} {row['status']}: {row.get('reason') or 'see its log'}")
        elif row["status"] == MISS:
            page.warnings.append(f"{row['name']} misses its bar.")
    page.add("Returns and bars", _table(rows), Text(_PROTOCOL))
    page.add("Curves", *_curves(folder, rows))
    page.add("Where the bars come from", Table(["row", "source"], [[row["name"], row["source"]] for row in rows]))
    commands = [(row["command"], f"{row['name']}:") for row in rows]
    page.add("Commands", Commands([(f"deeprl bench {quote(results['file'])}", "The whole suite again:"), *commands]))
    return page


_PROTOCOL = (
    "Returns are means over seeds. Each seed played new episodes, used neither to train nor to choose its policy. A "
    "row passes if the mean reaches the bar and four of five seeds are near it: at most 10% of |bar| below."
)


def _read(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        assert all(isinstance(row["name"], str) and isinstance(row["status"], str) for row in results["rows"])
        assert isinstance(results["counts"], dict)
        return results | {key: str(results[key]) for key in ("suite", "file", "deeprl", "machine", "written")}
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not the results of a suite") from error


def _table(rows: list[dict[str, Any]]) -> Table:
    head = ["row", "env", "steps", "seeds", "bar", "mean", "95% interval", "IQM", "95% interval", "result", "time"]
    cells = []
    for row in rows:
        told: Mapping[str, Any] = row.get(row["policy"]) or {}
        numbers = [number(row["bar"])]
        for name in ("mean", "iqm"):
            numbers += [number(told.get(name)), interval(told.get(f"{name}_ci95") or [None])]
        steps = f"{row['steps']:,}"
        cells.append([row["name"], row["env"], steps, str(row["seeds"]), *numbers, row["status"], _clock(row)])
    return Table(head, cells, right=(*range(2, 9), 10))


def _clock(row: Mapping[str, Any]) -> str:
    return clock(row.get("wall_seconds"))


def _curves(folder: Path, rows: list[dict[str, Any]]) -> list[Block]:
    figures = []
    for row in rows:
        seeds: list[SeedCurve] = []
        with suppress(UserError):  # a row that hasn't run
            for run in find_runs([folder / row["name"]]):
                seeds += [read_metric(seed / "metrics.csv", RETURNS[0])[1] for seed in run.seeds]
        line = line_of(row["name"], seeds)
        if line is not None:
            note = row["env"] if row["bar"] is None else f"{row['env']}, bar {number(row['bar'])}"
            figures.append(Figure(row["name"], chart.curves([line], "evaluation return"), note=note))
    told = Text("Thick: interquartile mean over seeds, shaded its 95% bootstrap interval; thin: each seed.")
    return [Figures(figures), told] if figures else []
