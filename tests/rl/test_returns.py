"""Advantages and reductions against numbers worked by hand (T9) and plain loops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.returns import (
    REDUCTIONS,
    AdvantageOptions,
    advantage_estimator,
    explained_variance,
    gae,
    mean,
    normalise,
    reverse_scan,
    windowed_scan,
)

REWARD, VALUE = [1.0, 0.0, 2.0], [1.0, 2.0, 3.0]


def column(values):
    """One seed, one environment: `(1, T, 1)`."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def advantage(next_value, terminated, ended, gamma=0.9, lam=0.8):
    arguments = (REWARD, VALUE, next_value, terminated, ended)
    return gae(*(column(x) for x in arguments), gamma, lam).flatten().tolist()


def test_gae_by_hand_without_an_end():
    """γ=.9, λ=.8, V=(1,2,3,4)."""
    assert advantage([2, 3, 4], [0, 0, 0], [0, 0, 0]) == pytest.approx([3.65184, 2.572, 2.6])


def test_gae_by_hand_terminated():
    """Terminated at t=1: no bootstrap there, whatever V(s') is, and nothing flows over the end."""
    assert advantage([2, 5, 4], [0, 1, 0], [0, 1, 0]) == pytest.approx([0.36, -2.0, 2.6])


def test_gae_by_hand_truncated():
    """Truncated at t=1 with V(final)=5: bootstrapped, but nothing flows over the end either."""
    assert advantage([2, 5, 4], [0, 0, 0], [0, 1, 0]) == pytest.approx([3.6, 2.5, 2.6])


def random_rollout(length, seed=0):
    """S=2, B=3, ends of both kinds; float64."""
    rng = np.random.default_rng([length, seed])
    shape = (2, length, 3)
    terminated, truncated = rng.random(shape) < 0.1, rng.random(shape) < 0.1
    reward, value, next_value = (torch.from_numpy(rng.standard_normal(shape)) for _ in range(3))
    ended = torch.from_numpy(terminated | truncated).double()
    return reward, value, next_value, torch.from_numpy(terminated).double(), ended


@pytest.mark.parametrize("length", range(1, 71))
def test_reverse_scan_is_the_recursion(length):
    """A_t = x_t + c_t·A_{t+1}, for every length up to 70."""
    rng = np.random.default_rng(length)
    x, carry = (torch.from_numpy(rng.standard_normal((2, length, 3))) for _ in range(2))
    expected = torch.zeros_like(x)
    following = torch.zeros(2, 3, dtype=torch.float64)
    for t in reversed(range(length)):
        following = expected[:, t] = x[:, t] + carry[:, t] * following
    torch.testing.assert_close(reverse_scan(x, carry), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 33])
def test_gae_is_its_definition(length):
    """The two masks, step by step: 1 − d on the bootstrap, 1 − e on what flows back."""
    reward, value, next_value, terminated, ended = random_rollout(length)
    expected, following = torch.zeros_like(reward), torch.zeros_like(reward[:, 0])
    for t in reversed(range(length)):
        delta = reward[:, t] + 0.9 * (1 - terminated[:, t]) * next_value[:, t] - value[:, t]
        following = expected[:, t] = delta + 0.9 * 0.7 * (1 - ended[:, t]) * following
    torch.testing.assert_close(gae(reward, value, next_value, terminated, ended, 0.9, 0.7), expected)


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    """λ=1: the discounted rewards up to the end or the rollout's edge, bootstrapped there, less V (Algorithm 8)."""
    reward, value, next_value, terminated, ended = random_rollout(20)
    returns = torch.zeros_like(reward)
    following = next_value[:, -1]
    for t in reversed(range(20)):
        after = torch.where(ended[:, t] > 0, next_value[:, t], following) if t < 19 else next_value[:, t]
        following = returns[:, t] = reward[:, t] + 0.9 * (1 - terminated[:, t]) * after
    # the recursion replaces V(s') by the return that followed, which needs V(s') = V(s_{t+1}) inside an episode
    inside = next_value.clone()
    inside[:, :-1] = torch.where(ended[:, :-1] > 0, next_value[:, :-1], value[:, 1:])
    result = gae(reward, value, inside, terminated, ended, 0.9, 1.0)
    torch.testing.assert_close(result, returns - value)


def test_gae_with_lambda_zero_is_the_td_error():
    """λ=0: r + γ(1 − d)V(s') − V(s)."""
    reward, value, next_value, terminated, ended = random_rollout(20)
    expected = reward + 0.9 * (1 - terminated) * next_value - value
    torch.testing.assert_close(gae(reward, value, next_value, terminated, ended, 0.9, 0.0), expected)


ESTIMATES = {  # name, k: by hand from δ = (1.8, .7, 2.6); with an end at t=1, δ_1 = −2 (terminated) or 2.5 (truncated)
    ("td", None): ([1.8, 0.7, 2.6], [1.8, -2.0, 2.6], [1.8, 2.5, 2.6]),
    ("nstep", 2): ([2.43, 3.04, 2.6], [0.0, -2.0, 2.6], [4.05, 2.5, 2.6]),
    ("nstep", None): ([4.536, 3.04, 2.6], [0.0, -2.0, 2.6], [4.05, 2.5, 2.6]),
    ("mc", None): ([4.536, 3.04, 2.6], [0.0, -2.0, 2.6], [4.05, 2.5, 2.6]),
    ("gae", None): ([3.65184, 2.572, 2.6], [0.36, -2.0, 2.6], [3.6, 2.5, 2.6]),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimators_by_hand(name):
    """γ=.9 (λ=.8 for gae): without an end, terminated at t=1, and truncated there with V(final)=5 (T9)."""
    estimate = advantage_estimator(name[0], name[1])
    cases = [([2, 3, 4], [0, 0, 0], [0, 0, 0]), ([2, 5, 4], [0, 1, 0], [0, 1, 0]), ([2, 5, 4], [0, 0, 0], [0, 1, 0])]
    for expected, case in zip(ESTIMATES[name], cases, strict=True):
        result = estimate(*(column(x) for x in (REWARD, VALUE, *case)), 0.9, 0.8)
        assert result.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13, 20, 50, None])
def test_nstep_is_the_slides_formula(k):
    """Â_k = −V(s_t) + r_{t+1} + … + γ^{k−1}r_{t+k} + γ^k V(s_{t+k}), or to the end or the edge where that is nearer."""
    length, gamma = 20, 0.9
    reward, value, next_value, terminated, ended = random_rollout(length)
    # telescoping needs V(s'_t) = V(s_{t+1}) inside an episode
    next_value[:, :-1] = torch.where(ended[:, :-1] > 0, next_value[:, :-1], value[:, 1:])
    expected = torch.zeros_like(reward)
    for s, b in np.ndindex(2, 3):
        for t in range(length):
            total, last = -value[s, t, b], t
            for i in range(t, min(t + (k or length), length)):
                total, last = total + gamma ** (i - t) * reward[s, i, b], i
                if ended[s, i, b]:
                    break
            bootstrap = (1 - terminated[s, last, b]) * next_value[s, last, b]
            expected[s, t, b] = total + gamma ** (last - t + 1) * bootstrap
    result = advantage_estimator("nstep", k)(reward, value, next_value, terminated, ended, gamma, 0.5)
    torch.testing.assert_close(result, expected)


def test_estimators_that_are_one_another():
    """gae: λ=0 is td and λ=1 the rest of the sub-episode, of which mc is another name; k=1 is td."""
    rollout = random_rollout(20)

    def estimate(name, lam=0.5, k=None):
        return advantage_estimator(name, k)(*rollout, 0.9, lam)

    torch.testing.assert_close(estimate("gae", 0.0), estimate("td"))
    torch.testing.assert_close(estimate("gae", 1.0), estimate("nstep"))
    torch.testing.assert_close(estimate("nstep", k=1), estimate("td"))
    torch.testing.assert_close(estimate("nstep", k=20), estimate("nstep"))
    assert torch.equal(estimate("mc"), estimate("nstep"))
    assert not torch.allclose(estimate("gae", 0.5), estimate("nstep"))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 33])
def test_windowed_scan_is_the_sum_of_k_terms(length):
    """x_t + c_t·x_{t+1} + …, k terms, for every k up to beyond the length."""
    rng = np.random.default_rng(length)
    x, carry = (torch.from_numpy(rng.standard_normal((2, length, 3))) for _ in range(2))
    for k in range(1, length + 3):
        expected = torch.zeros_like(x)
        for t in range(length):
            product = torch.ones_like(x[:, 0])
            for i in range(t, min(t + k, length)):
                expected[:, t] += product * x[:, i]
                product = product * carry[:, i]
        torch.testing.assert_close(windowed_scan(x, carry, k), expected)


@dataclass(kw_only=True, slots=True)
class Options(AdvantageOptions):
    pass


def test_nstep_is_refused_where_it_is_not_read():
    def check(advantage, nstep):
        options = {"gae_lambda": 0.95, "normalize_advantage": False}
        Options(advantage=advantage, nstep=nstep, **options).check_advantages(8, "algo.batch_size=1")

    check("nstep", 3)
    check("gae", None)
    with pytest.raises(ConfigError, match=r"algo\.nstep=3 .* add algo\.advantage=nstep"):
        check("gae", 3)


def test_sum_leaves_out_weight_zero():
    """`reduction=sum` adds up what counts: weights times the mean."""
    x, weight = torch.tensor([[1.0, 2.0, 300.0], [4.0, 5.0, 6.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    assert REDUCTIONS["sum"](x, weight).tolist() == [3.0, 15.0]
    assert REDUCTIONS["mean"](x, weight).tolist() == [1.5, 5.0]


def test_gae_refuses_shapes_that_would_broadcast():
    """(S, T, B) against (S, T, 1) is a mistake, not a broadcast."""
    reward, value, next_value, terminated, ended = random_rollout(4)
    with pytest.raises(AssertionError):
        gae(reward, value[..., :1], next_value, terminated, ended, 0.9, 0.9)


def test_mean_leaves_out_weight_zero():
    """A mean over what counts, per seed; of nothing, 0 rather than NaN."""
    x = torch.tensor([[1.0, 2.0, 300.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert mean(x, weight).tolist() == [1.5, 5.0, 0.0]
    with pytest.raises(AssertionError):
        mean(x, weight[:, :1])


def test_normalise_leaves_out_weight_zero():
    """Zero mean and unit deviation per seed over what counts; constant advantages become 0, not NaN."""
    x = torch.tensor([[1.0, 2.0, 3.0, 1e6], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    result = normalise(x, weight)
    assert result[0, :3].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert result[1].tolist() == [0, 0, 0, 0]


def test_explained_variance():
    """1 for perfect values, 0 for constant ones, negative for worse; weight 0 left out; NaN where nothing varies."""
    returns = torch.tensor([[1.0, 2.0, 3.0, 9.0]] * 4)
    values = torch.tensor([[1.0, 2.0, 3.0, 0.0], [7.0, 7.0, 7.0, 0.0], [3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    weight = torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 4)
    assert explained_variance(values, returns, weight)[:3].tolist() == pytest.approx([1, 0, -3])
    assert explained_variance(values, torch.ones_like(returns), weight).isnan().all()
