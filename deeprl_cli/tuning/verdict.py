"""The end of a study: its best setting on fresh seeds beside the defaults, and a file of tuned values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprl_cli.config.ranges import as_typed
from deeprl_cli.errors import UserError
from deeprl_cli.reports.cells import interval, number
from deeprl_cli.reports.comparison import difference, probability_of_improvement
from deeprl_cli.reports.intervals import estimates, number_or_null
from deeprl_cli.runs.folder import atomic_write, read_summary
from deeprl_cli.runs.lock import alone
from deeprl_cli.runs.sweep_folder import short_names
from deeprl_cli.tuning.plan import Plan
from deeprl_cli.tuning.store import Store
from deeprl_cli.tuning.tuned_file import how_to_use, tuned_text, write_tuned
from deeprl_cli.tuning.unit import stacks, train_stack

RESULT = "result.json"
LEVEL = 0.05
SIDES = ("best", "defaults")
ENDING = ".ending"  # the lock of the one that trains the comparison


def settle(store: Store) -> None:
    """Train the comparison, write and print the result. One process does; others wait, and print it too."""
    plan, best = store.plan, store.best()
    if best is None:
        raise UserError(f"{plan.folder}: no trial has a score: nothing is best")
    values = plan.values(best.params)
    with alone(plan.folder, ENDING):
        returns = compared(plan, values)
        result = judged(plan, values, returns) | {
            "trial": best.number,
            "score": best.value,
            "scored_by": plan.settings.score,
            "stacked": share_stacked(store),
        }
        save(plan.folder / RESULT, json.dumps(result, indent=2) + "\n")
        folders = write_tuned(plan, tuned_text(plan, values, result))
    for line in told(plan, result):
        print(line, flush=True)
    if not worse(result):
        print(f"with these values: {how_to_use(plan, folders[-1])}", flush=True)


def compared(plan: Plan, values: Mapping[str, Any]) -> dict[str, list[float]]:
    """What each fresh seed of the best and of the defaults earns with its last policy. Raises Stopped, UserError."""
    jobs = [plan.fresh(values, "best"), plan.fresh({}, "defaults")]
    print(f"the best beside the defaults, on {plan.settings.fresh_seeds} fresh seeds", flush=True)
    for stack in stacks(jobs):
        for place, outcome in train_stack(stack, "comparison").items():
            if outcome["status"] == "failed":
                raise UserError(f"{jobs[place].run_dir}: {outcome['error']}")
    return {side: read_summary(plan.final_run(side))["eval"]["return_mean"] for side in SIDES}


def judged(plan: Plan, values: Mapping[str, Any], returns: Mapping[str, list[float]]) -> dict[str, Any]:
    best, defaults = (returns[side] for side in SIDES)
    return {
        "algo": plan.typed["algo"]["name"],
        "env": plan.typed["env"]["id"],
        "values": dict(values),
        "default_values": plan.defaults(),
        "seeds": [plan.first_fresh, plan.first_fresh + plan.settings.fresh_seeds - 1],
        "best": estimates(best),
        "defaults": estimates(defaults),
        **difference_of(best, defaults),
    }


def difference_of(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Of two sides that have the same seeds."""
    found = difference(first, second)
    chance = probability_of_improvement([first], [second])
    return {
        "difference": found.value,
        "difference_ci95": [number_or_null(found.low), number_or_null(found.high)],
        "p": number_or_null(found.p),
        "seeds_better": sum(a > b for a, b in zip(first, second, strict=True)),
        "probability_of_improvement": [number_or_null(value) for value in chance],
    }


def share_stacked(store: Store) -> float:
    """Of all trials, those that trained together with others."""
    sizes = [len(stack) for unit in store.units() if unit.start == 0 for stack in unit.stacks]
    return sum(size for size in sizes if size > 1) / max(1, sum(sizes))


def in_words(values: Mapping[str, Any]) -> str:
    """`lr=0.001 gamma=0.99`."""
    names = short_names(list(values))
    return " ".join(f"{names[key]}={as_typed(value)}" for key, value in values.items())


def told(plan: Plan, result: Mapping[str, Any]) -> list[str]:
    """The result in words."""
    best, defaults = (result[side] for side in SIDES)
    first, last = result["seeds"]
    chance, *ends = result["probability_of_improvement"]
    return [
        f"best setting (trial {result['trial']}, {result['scored_by']} {number(result['score'])} on the seeds that "
        f"chose it): {in_words(result['values'])}",
        f"on fresh seeds {first} to {last}, last policy:",
        f"  best      IQM {number(best['iqm'])} {interval(best['iqm_ci95'])}",
        f"  defaults  IQM {number(defaults['iqm'])} {interval(defaults['iqm_ci95'])}: "
        f"{in_words(result['default_values'])}",
        f"  difference {number(result['difference'])} {interval(result['difference_ci95'])}; P(best earns more) "
        f"{number(chance)} {interval(ends)}; more with {result['seeds_better']} of {plan.settings.fresh_seeds} seeds",
        f"  {verdict(result)}",
        f"{100 * result['stacked']:.0f}% of the trials trained stacked",
    ]


def worse(found: Mapping[str, Any]) -> bool:
    """Whether what was found earns less than the defaults, beyond chance."""
    return bool(found["p"] < LEVEL and found["difference"] < 0)


def verdict(found: Mapping[str, Any], first: str = "the best", second: str = "the defaults") -> str:
    how = f"(Yuen's test, p = {found['p']:.2g})"
    if found["p"] >= LEVEL:
        return f"{first} and {second} can't be told apart {how}"
    return (
        f"{first} earns more than {second} {how}" if found["difference"] > 0 else f"{second} earn more {how}: keep them"
    )


def save(path: Path, text: str) -> None:
    """Raises UserError where the disk refuses."""
    try:
        atomic_write(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror})") from error
