"""Surrogate objectives of the policy, to be maximised, and errors of values, to be minimised, per sample.

Shapes `(S, B)`; coefficients `(S, 1)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_objective(ratio: Tensor, advantage: Tensor, eps: Tensor) -> Tensor:
    """min(ρÂ, clip(ρ, 1 − ε, 1 + ε)Â), ρ = π'(s, a)/π(s, a) (deck, "PPO Clipping"); to be maximised."""
    clipped = torch.minimum(torch.maximum(ratio, 1 - eps), 1 + eps)
    return torch.minimum(ratio * advantage, clipped * advantage)


def cpi_objective(ratio: Tensor, advantage: Tensor, eps: Tensor) -> Tensor:
    """ρÂ, unclipped (deck, "CPI loss function"; Kakade & Langford 2002); `eps` bounds nothing."""
    return ratio * advantage


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"clip": clip_objective, "cpi": cpi_objective}


def squared_error(value: Tensor, target: Tensor) -> Tensor:
    """(V̂(s) − y)²"""
    assert value.shape == target.shape
    return (value - target).square()


def half_squared_error(value: Tensor, target: Tensor) -> Tensor:
    """½(V̂(s) − y)² (deck, "Targets and error for the value function"): its descent is w + α(y − V̂)∇V̂; Q̂'s as well."""
    return 0.5 * squared_error(value, target)


def huber(value: Tensor, target: Tensor) -> Tensor:
    """½δ² for |δ| < 1, |δ| − ½ beyond: the deck's error with its gradient clipped to ±1 (Mnih et al. 2015)."""
    return F.smooth_l1_loss(value, target, reduction="none")


VALUE_ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "half_mse": half_squared_error,
    "huber": huber,
}
