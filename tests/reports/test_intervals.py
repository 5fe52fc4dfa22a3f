"""Means, interquartile means and bootstrap intervals over seeds, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deeprl_cli.reports.intervals import STATISTICS, bootstrap_interval, iqm, mean


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # a quarter of three is nobody
        ([0.0, 1.0, 3.0, 100.0], 2.0),  # one from each end
        ([100.0, 1.0, 2.0, 6.0, -50.0], 3.0),  # (1 + 2 + 6) / 3, whatever the order
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 900.0], 5.0),  # two from each end
    ],
)
def test_iqm_by_hand(values, expected):
    assert iqm(np.array(values)) == pytest.approx(expected)


def test_iqm_keeps_the_other_axes():
    curves = np.array([[0.0, 10.0], [1.0, 20.0], [3.0, 40.0], [100.0, -1e9]])  # (4 seeds, 2 points)
    assert iqm(curves).tolist() == [2.0, 15.0]
    assert iqm(curves.T, 1).tolist() == [2.0, 15.0]


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(count):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).standard_normal((count, 3))
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=0))


def test_interval_of_the_mean_of_two_by_hand():
    """Resamples of {0, 1} have means 0, ½, ½, 1 with a quarter each: the 2.5% and 97.5% quantiles are 0 and 1, those
    of a 40% interval, at 30% and 70%, are ½."""
    assert bootstrap_interval([[0.0, 1.0]], mean) == (0.0, 1.0)
    assert bootstrap_interval([[0.0, 1.0]], mean, confidence=0.4) == (0.5, 0.5)


def test_strata_are_resampled_within_themselves():
    """Strata of equal values can't vary; drawn together they would."""
    assert bootstrap_interval([[0.0, 0.0], [1.0, 1.0]], mean) == (0.5, 0.5)
    low, high = bootstrap_interval([[0.0, 0.0, 1.0, 1.0]], mean)
    assert low < 0.5 < high


def test_interval_has_the_normal_one_s_width_for_many_values():
    values = np.random.default_rng(3).standard_normal(400)
    low, high = bootstrap_interval([values], mean)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


@pytest.mark.parametrize("name", STATISTICS)
def test_interval_is_the_same_each_time_and_holds_the_statistic(name):
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    low, high = bootstrap_interval([values], STATISTICS[name])
    assert (low, high) == bootstrap_interval([values], STATISTICS[name])
    assert low <= STATISTICS[name](values, 0) <= high


def test_intervals_of_curves_are_those_of_their_points():
    curves = np.array([[0.0, 5.0], [1.0, 5.0]])
    low, high = bootstrap_interval([curves], mean)
    assert (low.tolist(), high.tolist()) == ([0.0, 5.0], [1.0, 5.0])


def test_one_seed_has_no_interval():
    assert np.isnan(bootstrap_interval([[5.0]], mean)).all()
    assert np.isnan(bootstrap_interval([[[5.0, 6.0]]], iqm)).all()
