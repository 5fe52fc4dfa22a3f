"""`deeprl resume SWEEP`: continues what isn't done of a stacked sweep, each group together, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deeprl_cli.algos.registry import run_config
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import CONFIG_NAME, read_summary
from deeprl_cli.runs.group_record import alone_from
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.reading import check_trust, read_run
from deeprl_cli.runs.sweep_folder import SWEEP_NAME
from deeprl_cli.schema.format import up_to_date
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.sweeps.job import PLAN, Outcome, attempt_unit, continue_together, left, looked_at, outcome_of
from deeprl_cli.sweeps.record import Record, read_jobs


def is_sweep(path: Path) -> bool:
    return (path / SWEEP_NAME).is_file()


def resume_sweep(folder: Path, resume_run: Callable[[Path], object], *, trust: bool) -> int:
    """Go on with every run that isn't done; `resume_run` does so with one that trained by itself. The exit code: 0, 1
    where a run failed, 130 or 143 where it was stopped. Raises UserError where the sweep has left too little for that.
    """
    jobs, plan = read_jobs(folder), read_plan(folder)
    open_units = [unit for unit in plan["units"] if going(unit, jobs)]
    if not open_units:
        raise UserError(f"{folder}: no run of it can go on")
    code = 0
    with locked(folder):
        record = Record.again(folder, [number for unit in open_units for number in going(unit, jobs)])
        try:
            for unit in open_units:
                outcome = _go_on(unit, jobs, plan, record, resume_run, trust=trust)
                if outcome["status"] == "stopped":
                    code = int(outcome["code"])
                    break
        finally:
            record.close()
    return code or (1 if record.count("failed") else 0)


def read_plan(folder: Path) -> dict[str, Any]:
    """Raises UserError if the sweep has none."""
    try:
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if not plan.get("units"):
            raise ValueError("no groups")
        plan["jobs"] = [up_to_date(job, folder / PLAN) for job in plan["jobs"]]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: this sweep wasn't stacked, so resume its runs one by one: deeprl resume RUN"
        ) from error
    return plan


def going(unit: Sequence[int], jobs: Sequence[dict[str, Any]]) -> list[int]:
    """The jobs of a unit that can go on: not those that are done, that ended before the others, or that have gone on
    alone since; all of them, where all have failed."""
    failed = [number for number in unit if _failed(jobs[number])]
    if len(failed) == len(unit):
        return list(unit)
    failed += [number for number in unit if _said(jobs[number], "finished")]  # and the sweep ended before it knew
    parted = [number for number in unit if len(unit) > 1 and alone_from(Path(jobs[number].get("run", ""))) is not None]
    return [number for number in unit if number not in (*failed, *parted) and jobs[number]["status"] != "done"]


def _failed(job: dict[str, Any]) -> bool:
    return job["status"] == "failed" and _said(job, "failed")


def _said(job: dict[str, Any], status: str) -> bool:
    """By its summary. (A process that was killed has written none.)"""
    try:
        return bool(read_summary(Path(job.get("run", "")))["status"] == status)
    except (UserError, LookupError):
        return False


def _go_on(
    unit: Sequence[int],
    jobs: Sequence[dict[str, Any]],
    plan: dict[str, Any],
    record: Record,
    resume_run: Callable[[Path], object],
    *,
    trust: bool,
) -> Outcome:
    runs = [Path(jobs[number].get("run", "")) for number in unit]
    if not all((run / CONFIG_NAME).is_file() for run in runs):  # it had not begun
        configs = [run_config(plan["jobs"][number]) for number in unit]
        return attempt_unit(unit, looked_at(configs), record.running, record.ended)
    if len(unit) == 1:
        record.running(unit[0], str(runs[0]))
        outcome = outcome_of(lambda: resume_run(runs[0]))
        record.ended(unit[0], {**outcome, **left(str(runs[0]), 0.0)})
        return outcome
    configs = [_trusted(run, trust) for run in runs]
    alive = going(unit, jobs)
    ended = {place for place, number in enumerate(unit) if number not in alive}
    for number, run in zip(unit, runs, strict=True):
        if number in alive:
            record.running(number, str(run))
    return continue_together(runs, configs, ended, lambda place, told: record.ended(unit[place], told))


def _trusted(run: Path, trust: bool) -> RunConfig:
    cfg = read_run(run, trust)[1]
    check_trust(run, cfg, trust, training=True)
    return cfg
