"""The end of population-based training: the schedule it found, on fresh seeds beside its control and the defaults."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from deeprl_cli.errors import UserError
from deeprl_cli.reports.cells import interval, number
from deeprl_cli.reports.intervals import estimates
from deeprl_cli.runs.folder import atomic_write, read_summary
from deeprl_cli.runs.lock import alone
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.graft import grafted
from deeprl_cli.training.group import newest_step
from deeprl_cli.tuning.pbt import Values, is_control, schedule
from deeprl_cli.tuning.plan import Plan
from deeprl_cli.tuning.store import Store
from deeprl_cli.tuning.unit import Job, how_it_stands, looked_at, train_stack
from deeprl_cli.tuning.verdict import ENDING, RESULT, difference_of, in_words, save, verdict

SCHEDULE = "schedule.yaml"
STARTS = "final/starts.json"
Schedule = Sequence[tuple[int, Values]]


def settle_population(store: Store) -> None:
    """Train the comparison, write and print the result, once; others wait, and print it too."""
    plan, units = store.plan, store.units()
    best, control = best_of(store, control=False), best_of(store, control=True)
    if best is None:
        raise UserError(f"{plan.folder}: no member of the population has a score: nothing is best")
    found = schedule(units, best.number)
    sides: dict[str, Schedule] = {"schedule": found}
    if control is not None:
        sides["control"] = [(0, units[0].values[control.number])]
    sides["defaults"] = [(0, plan.defaults())]
    with alone(plan.folder, ENDING):
        for folder in [plan.folder, *([Path(plan.settings.out).expanduser()] if plan.settings.out else [])]:
            folder.mkdir(parents=True, exist_ok=True)
            save(folder / SCHEDULE, schedule_text(plan, found, best))
        returns = replayed(plan, sides)
        result = {
            "algo": plan.typed["algo"]["name"],
            "env": plan.typed["env"]["id"],
            "trial": best.number,
            "score": best.value,
            "control_score": None if control is None else control.value,
            "schedule": [{"step": step, "values": values} for step, values in changes_of(found)],
            "seeds": [plan.first_fresh, plan.first_fresh + plan.settings.fresh_seeds - 1],
            **{side: estimates(values) for side, values in returns.items()},
            "against": {
                side: difference_of(returns["schedule"], values)
                for side, values in returns.items()
                if side != "schedule"
            },
        }
        save(plan.folder / RESULT, json.dumps(result, indent=2) + "\n")
    for line in told(plan, result, sides):
        print(line, flush=True)


def best_of(store: Store, *, control: bool) -> FrozenTrial | None:
    done = [trial for trial in store.trials() if trial.state == TrialState.COMPLETE]
    done = [trial for trial in done if is_control(store, trial.number) == control]
    return max(done, key=lambda trial: (trial.value, -trial.number), default=None)


def schedule_text(plan: Plan, found: Schedule, best: FrozenTrial) -> str:
    """A list of steps, each with the values from there on; what doesn't change isn't said again."""
    lines = [
        f"# The values that hold from each step on: found by deeprl tune --pbt for {plan.typed['algo']['name']} on "
        f"{plan.typed['env']['id']},",
        f"# in {plan.total_steps:,} steps of one seed (trial {best.number}, return {number(best.value)}).",
    ]
    kept = [{"step": step, "values": values} for step, values in changes_of(found)]
    text: str = yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=120)
    return "\n".join([*lines, text])


def changes_of(found: Schedule) -> Schedule:
    """Without the steps at which nothing changes."""
    return [found[0], *(later for before, later in itertools.pairwise(found) if before[1] != later[1])]


def replayed(plan: Plan, sides: Mapping[str, Schedule]) -> dict[str, list[float]]:
    """What each fresh seed earns in the end, of each side: all of them trained as one, from one change to the next.
    Raises Stopped, UserError."""
    print(
        f"the schedule beside {' and '.join(list(sides)[1:])}, on {plan.settings.fresh_seeds} fresh seeds", flush=True
    )
    before: list[RunConfig] = []
    for until in plan.ages:
        start = before[0].total_steps if before else 0
        stack = looked_at([_job(plan, side, values_at(found, start), until) for side, found in sides.items()])
        if any(how_it_stands(job)["status"] != "done" for job in stack):
            outcomes = _piece(plan, stack, before, f"comparison, to step {until:,}")
            for job in stack:
                if outcomes[job.place]["status"] == "failed":
                    raise UserError(f"{job.run}: {outcomes[job.place]['error']}")
        before = [job.cfg for job in stack]
    return {side: read_summary(plan.final_run(side))["eval"]["return_mean"] for side in sides}


def _piece(plan: Plan, stack: Sequence[Job], before: Sequence[RunConfig], label: str) -> dict[int, dict[str, Any]]:
    if not before:
        return train_stack(stack, label)
    starts = _starts(plan.folder / STARTS, stack)
    spec, after = stack[0].look.spec, [job.cfg for job in stack]
    return train_stack(stack, label, starts, lambda points: grafted(points, before, after, {}, spec))


def _starts(path: Path, stack: Sequence[Job]) -> list[int]:
    """The steps that the runs go on from, settled once for each piece."""
    key = str(stack[0].cfg.total_steps)
    known: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if key not in known:
        known[key] = [newest_step(job.run) for job in stack]
        atomic_write(path, json.dumps(known).encode())
    return known[key]


def _job(plan: Plan, side: str, values: Values, until: int) -> RunConfig:
    cfg = plan.fresh(values, side)
    episodes = cfg.eval.final_episodes if until == plan.total_steps else 1
    horizon = cfg.horizon or plan.total_steps
    return replace(cfg, total_steps=until, horizon=horizon, eval=replace(cfg.eval, final_episodes=episodes))


def values_at(found: Schedule, step: int) -> Values:
    return next(values for start, values in reversed(found) if start <= step)


def told(plan: Plan, result: Mapping[str, Any], sides: Mapping[str, Schedule]) -> list[str]:
    """The result in words."""
    first, last = result["seeds"]
    control = result["control_score"]
    beside = "" if control is None else f"; the best of the control: {number(control)}"
    lines = [
        f"best of the population: trial {result['trial']}, return {number(result['score'])}{beside}",
        *(f"  from step {step:>9,}  {in_words(values)}" for step, values in changes_of(sides["schedule"])),
        f"on fresh seeds {first} to {last}, last policy:",
    ]
    for side in sides:
        of = result[side]
        values = "" if side == "schedule" else f": {in_words(sides[side][0][1])}"
        lines.append(f"  {side:<9} IQM {number(of['iqm'])} {interval(of['iqm_ci95'])}{values}")
    for side, found in result["against"].items():
        lines.append(f"  {verdict(found, 'the schedule', f'the {side}')}")
    return [*lines, f"the schedule: {plan.folder / SCHEDULE}"]
