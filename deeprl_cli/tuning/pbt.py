"""Population-based training (Jaderberg et al., 2017) on the seed axis.

A population trains as one stack, generation by generation. After each, the worst quarter *exploit*: they take over
networks, optimiser and normalisers of members drawn from the best quarter. Then they *explore*: each value is drawn
anew, or moved up or down. Beside them, the control: as many members that began with the same values and seeds and keep
them, which is a random search of the same size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from deeprl_cli.errors import UserError
from deeprl_cli.schema.domain import Domain
from deeprl_cli.tuning.store import Store, Unit

QUARTER = 4
AFRESH = (
    0.25  # how often a value is drawn anew instead of moved (Ray Tune's; the paper's is 0 in reinforcement learning)
)
FACTORS = (0.8, 1.2)  # the paper's

Values = dict[str, Any]


def next_generation(store: Store) -> Unit | None:
    """The unit to train next; None where the last generation is done, or one is under way."""
    plan, units = store.plan, store.units()
    if any(not unit.done for unit in units):
        return None
    if not units:
        store.fail_orphans()
        numbers = store.ask_population()
        return store.open_unit(numbers, 0, plan.ages[0], values={n: store.values(n) for n in numbers})
    last = units[-1]
    if last.until == plan.total_steps:
        return None
    rng = random.Random(f"{plan.trial['seed']} {last.until}")
    scores = store.scores(last.until)
    trials = [number for number in last.trials if number in store.going()]  # without those that have failed
    if not trials:
        raise UserError(f"{plan.folder}: every member has failed: its run says why (deeprl list runs {plan.folder})")
    population = [number for number in trials if not is_control(store, number)]
    grafts = exploited(population, scores, rng)
    values = {number: dict(last.values[number]) for number in trials}
    for loser, winner in grafts.items():
        values[loser] = explored(plan.domains, last.values[winner], rng)
    later = plan.ages[plan.ages.index(last.until) + 1]
    return store.open_unit(trials, last.until, later, values=values, grafts=grafts)


def is_control(store: Store, number: int) -> bool:
    return bool(store.trials()[number].user_attrs.get("control"))


def exploited(population: Sequence[int], scores: Mapping[int, float], rng: random.Random) -> dict[int, int]:
    """Whom each of the worst quarter takes over from: one of the best quarter that does better."""
    known = {number: scores.get(number, -math.inf) for number in population}
    known = {number: value if math.isfinite(value) else -math.inf for number, value in known.items()}
    ranked = sorted(population, key=lambda number: (-known[number], number))
    count = max(1, len(population) // QUARTER)
    chosen = {loser: rng.choice(ranked[:count]) for loser in ranked[-count:]}
    return {loser: winner for loser, winner in chosen.items() if known[winner] > known[loser]}


def explored(domains: Sequence[Domain], values: Mapping[str, Any], rng: random.Random) -> Values:
    return {one.key: _moved(one, values[one.key], rng) for one in domains}


def _moved(one: Domain, value: Any, rng: random.Random) -> Any:
    """A number is multiplied, a choice gives way to its neighbour; within the domain either way."""
    if rng.random() < AFRESH or value not in one:
        return one.value(one.drawn(rng.random()))
    if one.choices:
        place = one.choices.index(value) + rng.choice((-1, 1))
        return one.choices[min(max(place, 0), len(one.choices) - 1)]
    low, high = one.bounds
    number = min(max(one.number(value) * rng.choice(FACTORS), low), high)
    return one.value(round(number) if one.whole else number)


def schedule(units: Sequence[Unit], trial: int) -> list[tuple[int, Values]]:
    """The values that have made a trial what it is, with the step from which they held: its own, and before it took
    over from another, that one's."""
    found: list[tuple[int, Values]] = []
    for unit in reversed(units):
        found.append((unit.start, unit.values[trial]))
        trial = unit.grafts.get(trial, trial)
    return found[::-1]
