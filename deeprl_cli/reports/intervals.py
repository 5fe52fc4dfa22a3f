"""Statistics over a few seeds: mean, interquartile mean (IQM) and their bootstrap intervals, with numpy only.

After Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice". Shapes: N values,
such as one return per seed, along axis 0; further axes, such as the points of a curve, are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array, int], Array]

CONFIDENCE = 0.95
RESAMPLES = 2_000


def mean(values: Array, axis: int = 0) -> Array:
    """The arithmetic mean along `axis`."""
    return np.asarray(values.mean(axis))


def iqm(values: Array, axis: int = 0) -> Array:
    """The mean of what is left when a quarter of the values, rounded down, is cut off at either end."""
    ordered = np.sort(values, axis)
    count = ordered.shape[axis]
    cut = count // 4
    return np.asarray(ordered.take(np.arange(cut, count - cut), axis).mean(axis))


STATISTICS: dict[str, Statistic] = {"iqm": iqm, "mean": mean}


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Statistic,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Array, Array]:
    """The percentile bootstrap's (low, high) of `statistic` over all values of all strata; the same for a same `seed`.

    Each stratum, for example one task's seeds `(N, …)`, is resampled within itself; one stratum is the ordinary
    bootstrap. NaN where there are fewer than two values: one seed says nothing about another.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    if sum(len(array) for array in arrays) < 2:
        nothing = np.full(arrays[0].shape[1:], np.nan)
        return nothing, nothing
    drawn = [array[rng.integers(len(array), size=(resamples, len(array)))] for array in arrays]
    estimates = statistic(np.concatenate(drawn, axis=1), 1)
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def estimates(returns: Sequence[float | None]) -> dict[str, Any]:
    """Mean and IQM over seeds with their 95% intervals; null where a seed's return is missing or not finite."""
    values = np.array([math.nan if value is None else value for value in returns], dtype=np.float64)
    return {
        "returns": list(returns),
        "mean": number_or_null(mean(values)),
        "mean_ci95": [number_or_null(end) for end in bootstrap_interval([values], mean)],
        "iqm": number_or_null(iqm(values)),
        "iqm_ci95": [number_or_null(end) for end in bootstrap_interval([values], iqm)],
    }


def number_or_null(value: Any) -> float | None:
    """A plain float for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
