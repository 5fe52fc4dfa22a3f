"""TD targets and target networks."""

from __future__ import annotations

import torch
from torch import Tensor

from deeprl_cli.nets.stacked import Stacked


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y = r + γ(1 − d)·V(s'), all `(S, B)`. Only a *terminated* state has no future: truncation bootstraps (2.0)."""
    assert reward.shape == terminated.shape == next_value.shape
    return reward + gamma * (1.0 - terminated) * next_value


@torch.no_grad()
def polyak_update(target: Stacked, online: Stacked, rho: float) -> None:
    """w_target ← ρ·w_target + (1 − ρ)·w (deck, delayed Q update). `rho=0` copies."""
    target.flat.lerp_(online.flat, 1.0 - rho)
