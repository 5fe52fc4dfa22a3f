"""Advantages and returns over rollouts. Shapes: `(S, T, B)`, time on axis 1."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), with two masks (2.0):

    δ_t = r_t + γ(1 − d_t)V(s'_t) − V(s_t): a *terminated* state is worth nothing, a truncated one is bootstrapped;
    A_t = δ_t + γλ(1 − e_t)A_{t+1}: no advantage flows across an episode's end of either kind, e = d or u.
    `next_value` is V of the true next observation. λ=1 is Algorithm 8's R̂ − V̂; λ=0 the one-step TD error.
    """
    assert reward.shape == value.shape == next_value.shape == terminated.shape == ended.shape
    delta = reward + gamma * (1.0 - terminated) * next_value - value
    return reverse_scan(delta, gamma * lam * (1.0 - ended))


def reverse_scan(x: Tensor, carry: Tensor) -> Tensor:
    """A_t = x_t + carry_t·A_{t+1} along axis 1, with A_T = 0, in ⌈log₂ T⌉ vectorised rounds instead of T steps.

    After round k, x_t holds the first 2^k terms of the sum and carry_t the product that leads to the next one
    (Hillis & Steele 1986): no Python loop over time, and a short graph however long the rollout.
    """
    shift = 1
    while shift < x.shape[1]:
        x = x + carry * _shifted(x, shift)
        carry = carry * _shifted(carry, shift)
        shift *= 2
    return x


def _shifted(x: Tensor, shift: int) -> Tensor:
    """x_{t+shift} at t, zeros past the end."""
    return torch.cat((x[:, shift:], torch.zeros_like(x[:, :shift])), 1)


def explained_variance(value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """1 − Var(R − V)/Var(R) per seed, from `(S, N)`; NaN where the returns don't vary."""
    residual = _variance(returns - value, weight)
    total = _variance(returns, weight)
    return torch.where(total > 0, 1.0 - residual / total.clamp_min(1e-12), torch.nan)


def _variance(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - mean(x, weight).unsqueeze(-1)
    return mean(centred * centred, weight)


def mean(x: Tensor, weight: Tensor) -> Tensor:
    """The one reduction over the batch: the weighted mean over the last axis, `(S, B)` to `(S,)`.

    Weight 0 marks dummy or padded transitions.
    """
    assert x.shape == weight.shape
    return (x * weight).sum(-1) / weight.sum(-1).clamp_min(1.0)


def normalise(x: Tensor, weight: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over the batch `(S, B)`, per seed."""
    centred = x - mean(x, weight).unsqueeze(-1)
    std = (mean(centred * centred, weight) + 1e-16).sqrt().unsqueeze(-1)
    return centred / (std + 1e-8)
