"""Whether two handfuls of seeds differ: the difference of their interquartile means, and how sure it is.

The quantities are those of Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical
Precipice". What is held to be a difference is decided by Yuen's test (1974), which is Welch's on trimmed means: the
percentile bootstrap is too sure of few seeds. Of two equal settings it finds a difference at 95% in 34% of all cases
with two seeds each and in 21% with three, and Yuen's test in 3% and 4% (normal returns, 1,000 draws).
Shapes: N values along axis 0, one return of each seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprl_cli.reports.intervals import CONFIDENCE, RESAMPLES, bootstrap_interval, iqm

Array = NDArray[np.float64]

POWER = 0.8  # with so many seeds as `seeds_to_settle` says, a difference is found in so many of all cases
MOST_SEEDS = 1_000  # a difference that takes more seeds than this is none that matters


class Difference(NamedTuple):
    """IQM of the first less IQM of the second, its 95% interval, and how probable one as large is where there is none
    (NaN where either side is a single seed)."""

    value: float
    low: float
    high: float
    p: float


def difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """Yuen's test with a quarter cut off at either end, as the IQM does."""
    from scipy import special  # slow to import, and a run never needs it

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    value = float(iqm(a) - iqm(b))
    if min(len(a), len(b)) < 2:
        return Difference(value, math.nan, math.nan, math.nan)
    (error_a, kept_a), (error_b, kept_b) = _squared_error(a), _squared_error(b)
    error = math.sqrt(error_a + error_b)
    if error == 0:  # seeds that don't vary
        return Difference(value, value, value, float(value == 0))
    freedom = error**4 / (error_a**2 / (kept_a - 1) + error_b**2 / (kept_b - 1))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(value) / error))
    return Difference(value, value - half, value + half, p)


def _squared_error(values: Array) -> tuple[float, int]:
    """The squared standard error of the IQM of `(N,)` values, N ≥ 2, and how many of them it keeps."""
    count, cut = len(values), len(values) // 4
    kept = count - 2 * cut
    ordered = np.sort(values)
    winsorised = np.clip(values, ordered[cut], ordered[count - cut - 1])
    return float((count - 1) * winsorised.var(ddof=1) / (kept * (kept - 1))), kept


def seeds_to_settle(first: ArrayLike, second: ArrayLike) -> int | None:
    """How many seeds of each would show a difference as large as it looks now, in four of five cases; None where more
    than 1,000 wouldn't, or too few seeds say how much they vary."""
    from scipy import special

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    value = abs(float(iqm(a) - iqm(b)))
    if min(len(a), len(b)) < 2 or value == 0:
        return None
    variance = sum(_squared_error(values)[0] * len(values) for values in (a, b))  # of one seed of each

    def power(count: int) -> float:
        freedom = 2 * (count - 2 * (count // 4) - 1)
        critical = special.stdtrit(freedom, (1 + CONFIDENCE) / 2)
        return float(1 - special.nctdtr(freedom, value / math.sqrt(variance / count), critical))

    if variance == 0:
        return 2
    return next((count for count in range(2, MOST_SEEDS + 1) if power(count) >= POWER), None)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values of several tests, each as if it were the only one (Holm, 1979); NaN stays."""
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    adjusted, highest = list(p), 0.0
    for rank, (value, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[index] = highest
    return adjusted


def probability_of_improvement(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], *, seed: int = 0
) -> tuple[float, float, float]:
    """How often a seed of the first earns more than one of the second (a tie counts half), averaged over tasks, and its
    95% bootstrap interval (NaN where any side of any task is a single seed). One array `(N,)` for each task."""
    rng = np.random.default_rng(seed)
    estimates, resampled = [], []
    for one, other in zip(first, second, strict=True):
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
        estimates.append(wins.mean())
        rows, columns = (rng.integers(len(side), size=(RESAMPLES, len(side))) for side in (a, b))
        resampled.append(wins[rows[:, :, None], columns[:, None, :]].mean((1, 2)))
    if min(len(np.asarray(side)) for side in [*first, *second]) < 2:
        return float(np.mean(estimates)), math.nan, math.nan
    low, high = np.quantile(np.mean(resampled, 0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.mean(estimates)), float(low), float(high)


def performance_profile(values: ArrayLike, thresholds: ArrayLike) -> tuple[Array, Array, Array]:
    """The share of seeds that earn more than each of T thresholds, and its 95% bootstrap interval: three of `(T,)`."""
    above = (np.asarray(values, np.float64)[:, None] > np.asarray(thresholds, np.float64)).astype(np.float64)
    low, high = bootstrap_interval([above], lambda drawn, axis: np.asarray(drawn.mean(axis)))
    return np.asarray(above.mean(0)), low, high
