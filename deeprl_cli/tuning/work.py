"""A process at work on a study: what isn't done goes on, then new trials, until the budget is used up; the verdict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from shlex import quote

from deeprl_cli.errors import UserError
from deeprl_cli.reports.cells import clock, number
from deeprl_cli.runs.lock import alone, locked
from deeprl_cli.tuning.plan import Plan
from deeprl_cli.tuning.score import score
from deeprl_cli.tuning.store import ASKING, Store, Unit
from deeprl_cli.tuning.unit import Stopped, looked_at, stacks, train_stack
from deeprl_cli.tuning.verdict import in_words, settle

PAUSE = 1.0  # seconds between looks whether others are done


def work(plan: Plan) -> int:
    """Work on the study until it is done; the exit code: 0, 130 or 143. Raises UserError."""
    store = Store(plan)
    try:
        with going_on(plan):
            while (unit := next_unit(store)) is not None:
                with unit[1]:
                    train(store, unit[0])
            settle(store)
    except Stopped as stop:
        return stop.code
    return 0


@contextlib.contextmanager
def going_on(plan: Plan) -> Iterator[None]:
    """Where it is stopped, say how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        print(f"go on with it: deeprl tune {quote(str(plan.folder))}", flush=True)
        raise


def next_unit(store: Store) -> tuple[Unit, ExitStack] | None:
    """What this process trains next, and the lock it holds on it; waits where others are at work that may end without
    being done. None where the study has no more to train."""
    while True:
        with alone(store.plan.folder, ASKING), ExitStack() as stack:
            unit = store.stale() or fresh(store)
            if unit is not None:
                stack.enter_context(locked(unit.folder))
                return unit, stack.pop_all()
            if not store.under_way():
                return None
        time.sleep(PAUSE)


def fresh(store: Store) -> Unit | None:
    """New trials, as many as one batch and the budget allow."""
    store.fail_orphans()
    count = room(store)
    return store.open_unit(store.ask(count), 0, store.plan.total_steps) if count else None


def room(store: Store) -> int:
    """How many new trials there is budget for, a batch at most."""
    plan, own, units = store.plan, store.plan.settings, store.units()
    begun = len(store.begun())
    counts = [own.trials_a_batch]
    if own.trials is not None:
        counts.append(own.trials - begun)
    if own.steps is not None:
        used = sum((unit.until - unit.start) * len(unit.trials) for unit in units) * plan.seeds
        counts.append((own.steps - used) // (plan.total_steps * plan.seeds))
    if own.minutes is not None and sum(unit.seconds for unit in units) >= 60 * own.minutes:
        return 0
    return max(0, min(counts))


def train(store: Store, unit: Unit) -> None:
    """Train a unit's trials to its age, and tell what they came to. Raises Stopped, UserError where all have failed."""
    plan = store.plan
    jobs = {trial: plan.job(trial, store.values(trial)) for trial in unit.trials}
    if not unit.stacks:  # settled once: there may be more or less memory when it goes on
        unit.stacks = [[unit.trials[job.place] for job in stack] for stack in stacks(list(jobs.values()))]
        unit.write()
    members = max(map(len, unit.stacks)) * plan.seeds
    shape = f"{members} members" if len(unit.stacks) == 1 else f"{len(unit.stacks)} stacks of {members} members at most"
    label = f"trials {unit.trials[0]}–{unit.trials[-1]}{of_all(plan)}"
    print(f"{label}: {shape}, to step {unit.until:,}", flush=True)
    errors = []
    for trials in unit.stacks:
        began = time.monotonic()
        try:
            outcomes = train_stack(looked_at([jobs[trial] for trial in trials]), label + so_far(store))
        finally:
            unit.seconds += time.monotonic() - began
            unit.write()
        for place, outcome in outcomes.items():
            trial = trials[place]
            if outcome["status"] == "failed":
                errors.append(str(outcome["error"]))
                print(f"trial {trial} failed: {errors[-1]}", flush=True)
                store.tell(trial, None, {"error": errors[-1]})
                continue
            value, each = score(plan.run_of(trial), jobs[trial], plan.settings.score)
            store.tell(trial, value, {"scores": each, "run": str(plan.run_of(trial))})
    unit.done = True
    unit.write()
    best = store.best()
    if best is None:
        raise UserError(f"every trial so far has failed: {errors[0] if errors else 'none has a score'}")
    values = in_words(plan.values(best.params))
    told = f"trial {best.number}, {plan.settings.score} {number(best.value)}: {values}"
    print(f"  took {clock(unit.seconds)}; best so far {told}", flush=True)


def so_far(store: Store) -> str:
    best = store.best()
    return "" if best is None else f", best {number(best.value)}"


def of_all(plan: Plan) -> str:
    return "" if plan.settings.trials is None else f" of {plan.settings.trials}"
