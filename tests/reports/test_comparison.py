"""Differences between handfuls of seeds, against scipy, numbers worked by hand, and draws that are equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deeprl_cli.reports.comparison import (
    difference,
    holm,
    performance_profile,
    probability_of_improvement,
    seeds_to_settle,
)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 5), (4, 4), (9, 6), (12, 20)])
def test_difference_is_yuens_test(m, n):
    rng = np.random.default_rng(m * n)
    a, b = rng.standard_normal(m), 3 * rng.standard_normal(n) + 1
    found = difference(a, b)
    theirs = stats.ttest_ind(a, b, equal_var=False, trim=0.25)
    assert found.value == pytest.approx(stats.trim_mean(a, 0.25) - stats.trim_mean(b, 0.25))
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.low < found.value < found.high
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    if m < 4 and n < 4:  # nothing is cut off: Welch's test
        interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_one_seed_says_nothing_about_another():
    found = difference([3.0], [1.0, 2.0])
    assert found.value == 1.5
    assert np.isnan(found[1:]).all()
    assert seeds_to_settle([3.0], [1.0, 2.0]) is None


def test_seeds_that_do_not_vary():
    assert difference([5.0, 5.0], [5.0, 5.0, 5.0]) == (0, 0, 0, 1)
    assert difference([5.0, 5.0], [3.0, 3.0]) == (2, 2, 2, 0)
    assert seeds_to_settle([5.0, 5.0], [3.0, 3.0]) == 2
    assert seeds_to_settle([5.0, 5.0], [5.0, 5.0]) is None


def test_equal_settings_are_rarely_told_apart():
    """What the bootstrap fails at, and why Yuen's test decides: at most one in twenty, and two standard errors."""
    rng = np.random.default_rng(1)
    for count in (2, 3, 5):
        wrong = sum(difference(*rng.standard_normal((2, count))).p < 0.05 for _ in range(400))
        assert wrong / 400 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_as_many_seeds_as_settle_it_do_in_four_of_five_cases():
    """Samples whose difference is twice their spread, drawn with the number that is promised to do."""
    base = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    count = seeds_to_settle(base, base + 1.0)
    assert count is not None
    assert 5 < count < 40
    rng = np.random.default_rng(0)
    # one seed's variance, as the winsorised values of the sample say it
    spread = math.sqrt(4 * np.clip(base, -0.5, 0.5).var(ddof=1) / (3 * 2) * 5)
    found = sum(difference(*(spread * rng.standard_normal((2, count)) + [[0], [1]])).p < 0.05 for _ in range(300))
    assert 0.65 < found / 300 < 0.95
    assert seeds_to_settle(base, base + 1e-4) is None
    assert seeds_to_settle(base, base + 9) == 2


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.02


def test_probability_of_improvement_by_hand():
    """Of the pairs (1,0) (1,1) (3,0) (3,1): three won, one tied."""
    value, low, high = probability_of_improvement([[1.0, 3.0]], [[0.0, 1.0]])
    assert value == 3.5 / 4
    assert 0.5 <= low < value < high == 1.0
    u = stats.mannwhitneyu([1.0, 3.0, 2.0], [0.0, 1.0]).statistic
    assert probability_of_improvement([[1.0, 3.0, 2.0]], [[0.0, 1.0]])[0] == pytest.approx(u / 6)
    two_tasks = probability_of_improvement([[1.0, 3.0], [0.0, 0.0]], [[0.0, 1.0], [9.0, 9.0]])
    assert two_tasks[0] == pytest.approx(3.5 / 8)
    assert np.isnan(probability_of_improvement([[1.0]], [[0.0, 2.0]])[1:]).all()


def test_performance_profile_by_hand():
    share, low, high = performance_profile([1.0, 2.0, 2.0, 5.0], [0.0, 1.0, 2.0, 5.0])
    assert share.tolist() == [1.0, 0.75, 0.25, 0.0]
    assert (low <= share).all()
    assert (share <= high).all()
