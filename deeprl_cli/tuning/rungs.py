"""Successive halving (Jamieson & Talwalkar, 2016), with stacks: which trials go on from a rung.

All trials are trained to the first age. Of those that have come to an age, one in η goes on to the next, the best ones.
They go on when they fill a batch, or when no more will come: so stacks stay wide, and what is decided rests on many
trials. Members of one stack are of one age.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence


def promotable(scores: Mapping[int, float], promoted: Collection[int], eta: int, least: int = 0) -> list[int]:
    """Of the trials with a score at a rung, those that go on and haven't yet, the best first: never more than one in
    η, those `promoted` counted, of whom better ones may have come since. `least`: so many go on at any rate."""
    known = {number: value for number, value in scores.items() if math.isfinite(value)}
    ranked = sorted(known, key=lambda number: (-known[number], number))
    share = max(len(scores) // eta, least)
    return [number for number in ranked[:share] if number not in promoted][: max(0, share - len(promoted))]


def cost(ages: Sequence[int], eta: int) -> float:
    """Steps of one seed that a trial takes on average: one in η of those at an age comes to the next."""
    steps = [later - age for age, later in itertools.pairwise([0, *ages])]
    return sum(more / float(eta) ** rung for rung, more in enumerate(steps))
