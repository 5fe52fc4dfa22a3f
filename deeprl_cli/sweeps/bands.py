"""The seeds of each setting of a sweep together, for TensorBoard: their mean and its 95% band, beside the runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deeprl_cli.errors import UserError
from deeprl_cli.reports.curves import read_metric
from deeprl_cli.runs import band
from deeprl_cli.runs.logger import CSV_NAME, write_band
from deeprl_cli.runs.sweep_folder import Job, folder_name, run_of, settings


def write_bands(sweep: Path, jobs: Sequence[Job]) -> None:
    """`all_seeds/<setting>/` in the sweep's folder, for each setting whose seeds are runs of their own and have event
    files; the points are those that all of its seeds have. Errors of the disk come through as OSError."""
    first = True
    for setting in settings(jobs):
        runs = [run for job in setting.jobs if (run := run_of(sweep, job)) is not None]
        tables = [table for run in runs for table in sorted(run.glob(f"seed_*/{CSV_NAME}"))]
        if len(runs) < 2 or not tables or not all(any(table.parent.glob("events.out.tfevents.*")) for table in tables):
            continue
        points: dict[int, dict[str, list[float]]] = {}
        for metric in band.SHOWN:
            with suppress(UserError):  # a damaged table
                seeds = [dict(zip(*_points(table, metric), strict=True)) for table in tables]
                for step in set[float].intersection(*map(set, seeds)):
                    points.setdefault(int(step), {})[metric] = [seed[step] for seed in seeds]
        if points:
            write_band(sweep / band.FOLDER / folder_name(setting.label), points, layout=first)
            first = False


def _points(table: Path, metric: str) -> tuple[list[float], list[float]]:
    curve = read_metric(table, metric)[1]
    return curve.steps.tolist(), curve.values.tolist()
