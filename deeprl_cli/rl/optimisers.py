"""Optimisers as tensor arithmetic, so that a whole update is one graph (`torch.optim`'s step breaks it).

Every quantity that can differ by seed (learning rate, step count, whether it steps at all) is an `(S,)` tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from deeprl_cli.schema import AlgoConfig

BETA1, BETA2 = 0.9, 0.999  # Adam (Kingma & Ba 2015)
RMSPROP_ALPHA = 0.99  # torch's and the A3C paper's decay


class Optimiser(nn.Module):
    """Steps parameters `(S, …)` given their gradients. Formulas and places of ε as in `torch.optim`.

    A seed whose gradient isn't finite, or that `active` leaves out, keeps its parameters, moments and step count: a
    zero gradient would still move Adam.
    """

    lr: Tensor
    steps: Tensor
    skipped: Tensor

    def __init__(self, config: AlgoConfig, lr: float, params: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.name: Literal["adam", "rmsprop", "sgd"] = config.optim
        self.eps, self.clip_norm = config.optim_eps, config.clip_norm
        self.initial_lr, self.schedule = lr, config.lr_schedule
        self._params = list(params)
        num_seeds = params[0].shape[0]
        self.register_buffer("lr", torch.full((num_seeds,), lr))
        self.register_buffer("steps", torch.zeros(num_seeds))
        self.register_buffer("skipped", torch.zeros(num_seeds))
        for i, p in enumerate(self._params):
            if self.name == "adam":
                self.register_buffer(f"m{i}", torch.zeros_like(p))
            if self.name in ("adam", "rmsprop"):
                self.register_buffer(f"v{i}", torch.zeros_like(p))

    def set_progress(self, progress: float) -> None:
        """Anneal the learning rate: `progress` in [0, 1] of the run's horizon."""
        if self.schedule == "linear":
            self.lr.fill_(self.initial_lr * (1.0 - progress))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], active: Tensor | None = None) -> Tensor:
        """One descent step, gradients clipped by their joint norm per seed; returns the norms `(S,)` before it."""
        norm = torch.stack([g.reshape(g.shape[0], -1).square().sum(1) for g in gradients]).sum(0).sqrt()
        moves = norm.isfinite() if active is None else norm.isfinite() & active
        scale = torch.ones_like(norm) if self.clip_norm is None else (self.clip_norm / (norm + 1e-6)).clamp_max(1.0)
        self.skipped.add_((~norm.isfinite()).float())
        self.steps.add_(moves)
        for i, (p, g) in enumerate(zip(self._params, gradients, strict=True)):
            # a skipped seed's gradient may hold NaN, which no multiplication by zero removes
            g = torch.where(per_seed(moves, g), g * per_seed(scale, g), 0.0)
            p.sub_(per_seed(self.lr * moves, g) * self._direction(i, g, per_seed(moves, g)))
        return norm

    def _direction(self, i: int, g: Tensor, moves: Tensor) -> Tensor:
        if self.name == "sgd":
            return g
        v: Tensor = getattr(self, f"v{i}")
        if self.name == "rmsprop":
            v.lerp_(g * g, (1 - RMSPROP_ALPHA) * moves)
            return g / (v.sqrt() + self.eps)
        m: Tensor = getattr(self, f"m{i}")
        m.lerp_(g, (1 - BETA1) * moves)
        v.lerp_(g * g, (1 - BETA2) * moves)
        # clamp: a seed that has never stepped has nothing to correct, and its direction is masked anyway
        steps = self.steps.clamp_min(1.0)
        correction1, correction2 = 1 - BETA1**steps, 1 - BETA2**steps
        return (m / per_seed(correction1, g)) / ((v / per_seed(correction2, g)).sqrt() + self.eps)


def per_seed(values: Tensor, like: Tensor) -> Tensor:
    """`(S,)` shaped to broadcast against `like` `(S, …)`."""
    return values.view(-1, *[1] * (like.ndim - 1))
