"""A process at work on a study: what isn't done goes on, then new trials, until the budget is used up; the verdict."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from deeprl_cli.errors import UserError
from deeprl_cli.processes.signals import Signals, stop_on_signals
from deeprl_cli.reports.cells import clock, number
from deeprl_cli.runs.checkpoint import Checkpoint
from deeprl_cli.runs.lock import alone, locked
from deeprl_cli.training.graft import grafted
from deeprl_cli.training.group import newest_step
from deeprl_cli.tuning.pbt import is_control, next_generation
from deeprl_cli.tuning.pictures import picture
from deeprl_cli.tuning.plan import Plan
from deeprl_cli.tuning.population import settle_population
from deeprl_cli.tuning.rungs import cost, promotable
from deeprl_cli.tuning.score import score
from deeprl_cli.tuning.start import again
from deeprl_cli.tuning.store import ASKING, Store, Unit
from deeprl_cli.tuning.unit import Job, Stopped, looked_at, stacks, train_stack
from deeprl_cli.tuning.verdict import in_words, settle

NAMED = 4  # trials
PAUSE = 1.0  # seconds between looks whether others are done


def work(plan: Plan) -> int:
    """Work on the study until it is done; the exit code: 0, 130 or 143. Raises UserError."""
    store = Store(plan)
    try:
        with going_on(plan):
            with stop_on_signals(word="the study can go on") as signals:
                while (unit := next_unit(store, signals)) is not None:
                    with unit[1]:
                        train(store, unit[0])
            (settle_population if plan.pbt else settle)(store)
            if importlib.util.find_spec("matplotlib") is not None:
                print(f"as a picture: {picture(store)}", flush=True)
    except Stopped as stop:
        return stop.code
    return 0


@contextlib.contextmanager
def going_on(plan: Plan) -> Iterator[None]:
    """Where it is stopped, say how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        print(f"go on with it: {again(plan)}", flush=True)
        raise


def next_unit(store: Store, signals: Signals) -> tuple[Unit, ExitStack] | None:
    """What this process trains next, and the lock it holds on it; waits where others are at work that may end without
    being done. None where the study has no more to train. Raises Stopped."""
    while True:
        if signals.received is not None:
            raise Stopped(128 + signals.received)
        with alone(store.plan.folder, ASKING), ExitStack() as stack:
            unit = store.stale() or next_of(store)
            if unit is not None:
                stack.enter_context(locked(unit.folder))
                return unit, stack.pop_all()
            if not store.under_way():
                store.let_go()
                return None
        time.sleep(PAUSE)


def next_of(store: Store) -> Unit | None:
    if store.plan.pbt:
        return next_generation(store)
    return promotion(store) or fresh(store) or promotion(store, last=True)


def promotion(store: Store, last: bool = False) -> Unit | None:
    """The best of a rung, as far up as there are enough for a batch. `last`: no new trials come; then from below, and
    however few, where nobody is on the way to that rung."""
    plan, ages = store.plan, store.plan.ages
    if plan.settings.halving is None:
        return None
    on_the_way = [unit.until for unit in store.units() if not unit.done]
    for age, later in sorted(itertools.pairwise(ages), reverse=not last):
        if last and any(until <= age for until in on_the_way):
            continue
        found = promotable(store.scores(age), store.promoted(age), plan.settings.halving, int(last))
        found = [number for number in found if number in store.going()]
        if len(found) >= (1 if last else plan.settings.trials_a_batch):
            return store.open_unit(found, age, later)
    return None


def fresh(store: Store) -> Unit | None:
    """New trials, as many as one batch and the budget allow."""
    store.fail_orphans()
    count = room(store)
    return store.open_unit(store.ask(count), 0, store.plan.ages[0]) if count else None


def room(store: Store) -> int:
    """How many new trials there is budget for, a batch at most."""
    plan, own, units = store.plan, store.plan.settings, store.units()
    begun = len(store.begun())
    counts = [own.trials_a_batch]
    if own.trials is not None:
        counts.append(own.trials - begun)
    if own.steps is not None:
        counts.append(int(own.steps / (plan.seeds * cost(plan.ages, own.halving or 1))) - begun)
    if own.minutes is not None and sum(unit.seconds for unit in units) >= 60 * own.minutes:
        return 0
    return max(0, min(counts))


def train(store: Store, unit: Unit) -> None:
    """Train a unit's trials to its age, and tell what they came to. Raises Stopped, UserError where all have failed."""
    plan = store.plan
    jobs = {trial: plan.job(trial, values_of(store, unit, trial), unit.until) for trial in unit.trials}
    if not unit.stacks:  # settled once: there may be more or less memory when it goes on
        unit.stacks = [[unit.trials[job.place] for job in stack] for stack in stacks(list(jobs.values()))]
        if unit.start:
            unit.starts = {trial: newest_step(plan.run_of(trial)) for trial in unit.trials}
        unit.write()
    if plan.pbt and len(unit.stacks) > 1:
        raise UserError(f"{len(unit.trials)} members don't fit into memory together: give a smaller population=…")
    members = max(map(len, unit.stacks)) * plan.seeds
    shape = f"{members} members" if len(unit.stacks) == 1 else f"{len(unit.stacks)} stacks of {members} members at most"
    label = name_of(unit, plan)
    print(f"{label}: {shape}, to step {unit.until:,}", flush=True)
    errors = []
    for trials in unit.stacks:
        began = time.monotonic()
        try:
            starts = [unit.starts[trial] for trial in trials] if unit.starts else None
            stack = looked_at([jobs[trial] for trial in trials])
            outcomes = train_stack(stack, label + so_far(store), starts, changes(store, unit, stack, trials))
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
            value, each = score(plan.run_of(trial), jobs[trial], plan.scored_by)
            told = {"scores": each, "run": str(plan.run_of(trial))}
            if not math.isfinite(value):
                store.tell(trial, None, told)
                continue
            if len(plan.ages) > 1:
                store.report(trial, unit.until, value, told)
            if unit.until == plan.total_steps:
                store.tell(trial, value, told)
    unit.done = True
    unit.write()
    if errors and not store.scores(plan.ages[0]) and store.best() is None:
        raise UserError(f"every trial so far has failed: {errors[0]}")
    best = store.best()
    best_so_far = ""
    if plan.pbt:
        best_so_far = f"; {of_generation(store, unit)}"
    elif unit.until < plan.total_steps:
        scores = store.scores(unit.until)
        leader = max(scores, key=lambda trial: scores[trial], default=None)
        if leader is not None:
            best_so_far = f"; best to step {unit.until:,}: trial {leader}, {plan.scored_by} {number(scores[leader])}"
    elif best is not None:
        values = in_words(plan.values(best.params))
        best_so_far = f"; best so far trial {best.number}, {plan.scored_by} {number(best.value)}: {values}"
    print(f"  took {clock(unit.seconds)}{best_so_far}", flush=True)


def values_of(store: Store, unit: Unit, trial: int) -> Mapping[str, Any]:
    return unit.values[trial] if unit.values else store.values(trial)


def changes(
    store: Store, unit: Unit, stack: Sequence[Job], trials: Sequence[int]
) -> Callable[[list[Checkpoint]], list[Checkpoint]]:
    """What a generation does to the checkpoints that it goes on from."""
    if not unit.values or not unit.start:
        return lambda points: points
    plan, former = store.plan, next(one for one in store.units() if one.until == unit.start)
    before = [plan.job(trial, former.values[trial], unit.start) for trial in trials]
    places = {trial: place for place, trial in enumerate(trials)}
    sources = {places[loser]: places[winner] for loser, winner in unit.grafts.items()}
    after = [job.cfg for job in stack]
    return lambda points: grafted(points, before, after, sources, stack[0].look.spec)


def of_generation(store: Store, unit: Unit) -> str:
    """`returns of the population 93.1 to 402.5, of the control 9.3 to 371`."""
    scores, sides = store.scores(unit.until), []
    for name, control in (("population", False), ("control", True)):
        values = [scores[n] for n in unit.trials if n in scores and is_control(store, n) == control]
        if values:
            sides.append(f"of the {name} {number(min(values))} to {number(max(values))}")
    return f"returns {', '.join(sides)}" if sides else "all members have failed"


def name_of(unit: Unit, plan: Plan) -> str:
    """`trials 8–15 of 64`, `rung 2 of 3: trials 4, 9, 11`."""
    if plan.pbt:
        return f"generation {plan.ages.index(unit.until) + 1} of {len(plan.ages)}"
    if unit.start:
        shown = ", ".join(map(str, unit.trials)) if len(unit.trials) <= NAMED else ""
        count = f"{len(unit.trials)} trials" if not shown else f"trial{'s' * (len(unit.trials) > 1)} {shown}"
        return f"rung {plan.ages.index(unit.until) + 1} of {len(plan.ages)}: {count}"
    return f"trials {unit.trials[0]}–{unit.trials[-1]}{of_all(plan)}"


def so_far(store: Store) -> str:
    best = store.best()
    return "" if best is None else f", best {number(best.value)}"


def of_all(plan: Plan) -> str:
    return "" if plan.settings.trials is None else f" of {plan.settings.trials}"
