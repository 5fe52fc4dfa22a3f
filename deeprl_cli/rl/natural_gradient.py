"""Computes natural gradients without building the Fisher matrix, for each seed separately.

Shapes: vectors `(S, P)`, numbers `(S,)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deeprl_cli.rl.values import Number, spread

SOLVED = 1e-10  # of |b|²: a residual this small is rounding, and another iteration would only stir it


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with Hx ≈ b, from products v ↦ Hv with a symmetric positive definite H (Hestenes & Stiefel 1952).

    Always `iterations` of them, for seeds differ in when they are done; one that is solved stays where it is.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    rr = first = dot(b, b)
    for _ in range(iterations):
        unsolved = rr > SOLVED * first
        h_direction = product(direction)
        alpha = torch.where(unsolved, rr / dot(direction, h_direction), 0.0).unsqueeze(-1)
        x = x + alpha * direction
        residual = residual - alpha * h_direction
        previous, rr = rr, dot(residual, residual)
        beta = torch.where(unsolved, rr / previous, 0.0).unsqueeze(-1)
        direction = residual + beta * direction
    return x


def line_search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    step: Tensor,
    better_than: Tensor,
    max_kl: Number,
    ratio: Number,
    candidates: int,
) -> Tensor:
    """The largest of 1, ratio, ratio², … by which `step` `(S, P)` keeps KL ≤ `max_kl` and raises the objective.

    `evaluate(step)` gives (objective, KL) `(S,)` after a step. Seeds differ in which candidate they take; one that no
    candidate suits, or whose numbers aren't finite, gets 0.
    """
    scale = torch.zeros_like(better_than)
    for j in range(candidates):
        objective, kl = evaluate(spread(ratio**j, step) * step)
        taken = (scale == 0) & (kl <= max_kl) & (objective > better_than)
        scale = torch.where(taken, ratio**j, scale)
        if scale.all():
            break
    return scale


def dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1)
