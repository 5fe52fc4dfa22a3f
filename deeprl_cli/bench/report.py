"""The results of `deeprl bench`: the verdict on each row, the table on the screen, results.json and results.md."""

from __future__ import annotations

import itertools
import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deeprl_cli import __version__
from deeprl_cli.bench.suite import Row, Suite
from deeprl_cli.reports.cells import cell, clock, interval, number
from deeprl_cli.reports.intervals import estimates
from deeprl_cli.runs.folder import atomic_write

PASS, MISS, NO_BAR = "pass", "miss", "no bar"  # a finished row's verdict
CRASHED, REFUSED, STOPPED, NOT_RUN = "crashed", "refused", "stopped", "not run"
GOOD = {PASS, NO_BAR}
STYLES = {PASS: "green", MISS: "red", CRASHED: "red", REFUSED: "red", STOPPED: "yellow", NOT_RUN: "dim"}
COLUMNS = ("bar", "mean", "95% CI", "IQM", "95% CI", "near", "steps/s", "time")  # those of `_cells`
LEAST_TELLING = (4, 3, 6, 7, 5)  # columns that go first where a terminal is narrow

TOLERANCE = 0.1  # a seed is near the bar at most this share of |bar| below it
NEAR_SHARE = 0.8  # of the seeds must be near: 4 of 5


def finished(row: Row, summary: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """The record of a row that has run to its end, verdict included."""
    evaluation = summary["eval"]
    policies = {"final": evaluation["return_mean"], "best": evaluation["best_return_mean"]}
    counted = [math.nan if value is None else float(value) for value in policies[row.policy]]
    near, needed = near_bar(counted, row.bar), math.ceil(NEAR_SHARE * len(counted))
    status = NO_BAR if row.bar is None else PASS if passes(counted, row.bar) else MISS
    return {
        **_base(row, status),
        "near": near,
        "near_needed": None if row.bar is None else needed,
        **{name: estimates(values) for name, values in policies.items()},
        "steps_per_second": summary["steps_per_second"],
        "wall_seconds": summary["wall_seconds"],
        "run": str(run),
    }


def joined(row: Row, parts: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The record of a row whose seeds ran one after the other, from those of its seeds; without a result where one of
    them has none."""
    lacking = next((part for part in parts if "run" not in part), None)
    if lacking is not None:
        seed = str(lacking["name"]).rpartition("/")[2]
        reason = f"{seed}: {lacking['reason']}" if lacking["reason"] else f"{seed} has no result"
        log = None if lacking["log"] is None else Path(lacking["log"])
        return unfinished(row, lacking["status"], reason, log)
    summary = {
        "eval": {
            "return_mean": [value for part in parts for value in part["final"]["returns"]],
            "best_return_mean": [value for part in parts for value in part["best"]["returns"]],
        },
        "steps_per_second": sum(part["steps_per_second"] for part in parts) / len(parts),
        "wall_seconds": sum(part["wall_seconds"] for part in parts),
    }
    return finished(row, summary, folder)


def unfinished(row: Row, status: str, reason: str = "", log: Path | None = None) -> dict[str, Any]:
    """The record of a row without a result."""
    return {**_base(row, status), "reason": reason, "log": None if log is None else str(log)}


def passes(returns: Sequence[float], bar: float) -> bool:
    """Whether the mean over seeds reaches the bar, and four of five seeds are no more than 10% of |bar| below it."""
    near = near_bar(returns, bar)
    assert near is not None
    return bool(np.mean(returns) >= bar) and near >= math.ceil(NEAR_SHARE * len(returns))  # NaN reaches nothing


def near_bar(returns: Sequence[float], bar: float | None) -> int | None:
    """How many seeds are at most 10% of |bar| below it."""
    return None if bar is None else sum(value >= bar - TOLERANCE * abs(bar) for value in returns)


def write(out: Path, suite: Suite, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write results.json and results.md into `out`; returns the former's content. Raises OSError."""
    results = {
        "suite": suite.name,
        "file": str(suite.path),
        "deeprl": __version__,
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "counts": _counts(records),
        "rows": list(records),
    }
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(out / "results.json", f"{text}\n".encode())
    atomic_write(out / "results.md", _markdown(results).encode())
    return results


def show(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, and below it why a row has no numbers. Columns that don't fit are left out, the least telling first;
    the files have them all."""
    for left_out in range(len(LEAST_TELLING) + 1):
        table = _table(records, LEAST_TELLING[:left_out])
        if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
            break
    console.print(table)
    for record in records:
        if record.get("reason"):
            log = f" (log: {record['log']})" if record["log"] else ""
            console.print(f"{record['name']}: {record['reason']}{log}", markup=False, soft_wrap=True)
    console.print(", ".join(f"{count} {status}" for status, count in _counts(records).items()), style="bold")


def _table(records: Sequence[Mapping[str, Any]], without: Sequence[int]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("row", overflow="fold")
    table.add_column("result", no_wrap=True)
    shown = [index not in without for index in range(len(COLUMNS))]
    for column in itertools.compress(COLUMNS, shown):
        table.add_column(column, justify="right", no_wrap=True)
    for record in records:
        verdict = Text(record["status"], style=STYLES.get(record["status"], ""))
        table.add_row(Text(record["name"]), verdict, *itertools.compress(_cells(record), shown))
    return table


def _base(row: Row, status: str) -> dict[str, Any]:
    return {
        "name": row.name,
        "status": status,
        "algo": row.algo,
        "env": row.env,
        "steps": row.steps,
        "seeds": row.seeds,
        "episodes": row.episodes,
        "policy": row.policy,
        "bar": row.bar,
        "direction": row.direction,
        "source": row.source,
        "command": row.command,
    }


def _cells(record: Mapping[str, Any]) -> list[str]:
    """bar, mean, interval, IQM, interval, near, steps/s, time."""
    if "run" not in record:
        return [number(record["bar"]), *["–"] * 7]
    counted = record[record["policy"]]
    near = "–" if record["near"] is None else f"{record['near']}/{record['seeds']}"
    return [
        number(record["bar"]),
        number(counted["mean"]),
        interval(counted["mean_ci95"]),
        number(counted["iqm"]),
        interval(counted["iqm_ci95"]),
        near,
        f"{record['steps_per_second']:,.0f}",
        clock(record["wall_seconds"]),
    ]


def _markdown(results: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in results["counts"].items())
    lines = [
        f"# {results['suite']}: {counts}",
        "",
        f"deeprl {results['deeprl']}, {results['machine']}, {results['written']}. Returns are means over seeds.",
        "Each seed played new episodes, used neither to train nor to choose its policy. A row passes if the mean",
        "reaches the bar and four of five seeds are *near*: at most 10% of |bar| below it.",
        "",
        "| row | env | steps | seeds | policy | bar | mean | 95% CI | IQM | 95% CI | near | result | steps/s | time |",
        "|---|---|--:|--:|---|--:|--:|---|--:|---|--:|---|--:|--:|",
    ]
    for record in results["rows"]:
        bar, *measured, speed, time = _cells(record)
        status = record["status"] if record["status"] == PASS else f"**{record['status']}**"
        cells = [record["name"], record["env"], f"{record['steps']:,}", str(record["seeds"]), record["policy"], bar]
        lines.append(f"| {' | '.join(map(cell, [*cells, *measured, status, speed, time]))} |")
    lines += ["", "| row | where the bar comes from | the command that repeats it |", "|---|---|---|"]
    for record in results["rows"]:
        lines.append(f"| {record['name']} | {cell(record['source'])} | `{cell(record['command'])}` |")
    reasons = [record for record in results["rows"] if record.get("reason")]
    lines += ["", *(f"- {record['name']}: {cell(record['reason'])}" for record in reasons)] if reasons else []
    return "\n".join(lines) + "\n"


def _counts(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    order = [PASS, MISS, NO_BAR, CRASHED, REFUSED, STOPPED, NOT_RUN]
    statuses = [record["status"] for record in records]
    return {status: statuses.count(status) for status in order if status in statuses}
