"""Surrogate objectives of the policy, per sample, to be maximised. Shapes `(S, B)`; coefficients `(S, 1)`."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_objective(ratio: Tensor, advantage: Tensor, eps: Tensor) -> Tensor:
    """min(ρÂ, clip(ρ, 1 − ε, 1 + ε)Â), ρ = π'(s, a)/π(s, a) (deck, "PPO Clipping"); to be maximised."""
    clipped = torch.minimum(torch.maximum(ratio, 1 - eps), 1 + eps)
    return torch.minimum(ratio * advantage, clipped * advantage)
