"""Optimisers as tensor arithmetic, so that a whole update is one graph (`torch.optim`'s step breaks it).

Every quantity that can differ by seed (learning rate, step count, whether it steps at all) is an `(S,)` tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deeprl_cli.processes.ranks import average_all
from deeprl_cli.rl.values import Number, Values, on, one_each, per_seed, spread
from deeprl_cli.schema.run import AlgoConfig

BETA1, BETA2 = 0.9, 0.999  # Adam (Kingma & Ba 2015)
RMSPROP_ALPHA = 0.99  # torch's and the A3C paper's decay


class Optimiser(nn.Module):
    """Steps parameters `(S, …)` given their gradients. Formulas and places of ε as in `torch.optim`; `rmsprop_tf` is
    TensorFlow's RMSProp: ε inside the square root (as in the A3C paper's supplement, too), squares averaged from ones
    (TensorFlow 1's own start, kept by SB3's RMSpropTFLike), which softens the first steps.

    A seed whose gradient isn't finite, or that `active` leaves out, keeps its parameters, moments and step count: a
    zero gradient would still move Adam.
    """

    lr: Tensor
    steps: Tensor
    skipped: Tensor
    accumulated: Tensor
    beta1_power: Tensor
    beta2_power: Tensor

    def __init__(self, config: AlgoConfig, hp: Values, lr: str, params: Sequence[nn.Parameter]) -> None:
        """`lr`: its name among the values of the members, `hp`."""
        super().__init__()
        self.name: Literal["adam", "rmsprop", "rmsprop_tf", "sgd"] = config.optim
        self.hp, self.lr_name, self.schedule = hp, lr, config.lr_schedule
        self.accumulate_steps = config.accumulate_steps
        self.params: list[Tensor] = list(params)
        num_seeds = params[0].shape[0]
        self.register_buffer("lr", one_each(getattr(hp, lr), num_seeds))
        self.register_buffer("steps", torch.zeros(num_seeds))
        self.register_buffer("skipped", torch.zeros(num_seeds))
        if self.accumulate_steps > 1:
            self.register_buffer("accumulated", torch.zeros(num_seeds))
        if self.name == "adam":  # kept as products: fused into the step, a power would be taken for every few weights
            self.register_buffer("beta1_power", torch.ones(num_seeds))
            self.register_buffer("beta2_power", torch.ones(num_seeds))
        for i, p in enumerate(self.params):
            if self.accumulate_steps > 1:
                self.register_buffer(f"g{i}", torch.zeros_like(p))
            if self.name == "adam":
                self.register_buffer(f"m{i}", torch.zeros_like(p))
            if self.name in ("adam", "rmsprop"):
                self.register_buffer(f"v{i}", torch.zeros_like(p))
            if self.name == "rmsprop_tf":
                self.register_buffer(f"v{i}", torch.ones_like(p))

    def redirect(self, params: Sequence[Tensor]) -> None:
        """Step these from now on, in the place of those it was made for: ones that processes share, say."""
        self.params = list(params)

    @torch.no_grad()
    def set_counts(self, steps: Tensor, skipped: Tensor) -> None:
        """Take over the counts `(S,)` of updates that others made, and all that follows from them."""
        self.steps.copy_(steps)
        self.skipped.copy_(skipped)
        if self.name == "adam":
            self.beta1_power.copy_(BETA1**self.steps)
            self.beta2_power.copy_(BETA2**self.steps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        steps = state_dict.get(f"{prefix}steps")
        old = self.name == "adam" and f"{prefix}beta1_power" not in state_dict  # a checkpoint of the first versions
        if old and isinstance(steps, Tensor):  # else it is damaged, and named as any other
            state_dict |= {f"{prefix}beta1_power": BETA1**steps, f"{prefix}beta2_power": BETA2**steps}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def set_progress(self, progress: float | Tensor) -> None:
        """Anneal the learning rate: `progress` in [0, 1] of the run's horizon, of all seeds or `(S,)`."""
        if self.schedule == "linear":
            self.lr.copy_(torch.as_tensor(getattr(self.hp, self.lr_name) * (1.0 - on(self.lr.device, progress))))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], active: Tensor | None = None) -> Tensor:
        """One descent step, or under `accumulate_steps=K` one in K calls, along the mean of their gradients.

        Gradients are clipped component by component (`clip_value`), then by their joint norm per seed (`clip_norm`).
        Returns the norms `(S,)` of the gradients handed in, of several ranks their mean.
        """
        gradients = average_all(gradients)
        norm = joint_norm(gradients)
        moves = norm.isfinite() if active is None else norm.isfinite() & active
        self.skipped.add_((~norm.isfinite()).float())
        if self.accumulate_steps > 1:
            gradients, moves = self._accumulate(gradients, moves)
        clip_norm, clip_value = self.hp.clip_norm, self.hp.clip_value
        if clip_value is not None:
            gradients = [clipped(g, spread(clip_value, g)) for g in gradients]
        scale = torch.ones_like(norm)
        if clip_norm is not None:
            whole = norm if self.accumulate_steps == 1 and clip_value is None else joint_norm(gradients)
            scale = (clip_norm / (whole + 1e-6)).clamp_max(1.0)
        self.steps.add_(moves)
        if self.name == "adam":
            self.beta1_power.mul_(torch.where(moves, BETA1, 1.0))
            self.beta2_power.mul_(torch.where(moves, BETA2, 1.0))
        for i, (p, g) in enumerate(zip(self.params, gradients, strict=True)):
            # a skipped seed's gradient may hold NaN, which no multiplication by zero removes
            g = torch.where(per_seed(moves, g), g * per_seed(scale, g), 0.0)
            p.sub_(per_seed(self.lr * moves, g) * self._direction(i, g, per_seed(moves, g)))
        return norm

    def _accumulate(self, gradients: Sequence[Tensor], moves: Tensor) -> tuple[list[Tensor], Tensor]:
        """Add to each seed's sum; (means, which seeds have K of them), whose sums start again from zero."""
        self.accumulated.add_(moves)
        full = self.accumulated >= self.accumulate_steps
        means = []
        for i, g in enumerate(gradients):
            total: Tensor = getattr(self, f"g{i}")
            total.add_(torch.where(per_seed(moves, g), g, 0.0))
            means.append(total / self.accumulate_steps)
            total.mul_(per_seed(~full, g))
        self.accumulated.mul_(~full)
        return means, full

    def _direction(self, i: int, g: Tensor, moves: Tensor) -> Tensor:
        if self.name == "sgd":
            return g
        v: Tensor = getattr(self, f"v{i}")
        eps: Number = spread(self.hp.optim_eps, g)
        if self.name in ("rmsprop", "rmsprop_tf"):
            v.lerp_(g * g, (1 - RMSPROP_ALPHA) * moves)
            return g / (v.sqrt() + eps if self.name == "rmsprop" else (v + eps).sqrt())
        m: Tensor = getattr(self, f"m{i}")
        m.lerp_(g, (1 - BETA1) * moves)
        v.lerp_(g * g, (1 - BETA2) * moves)
        # clamp: a seed that has never stepped has nothing to correct, and its direction is masked anyway
        correction1 = per_seed((1 - self.beta1_power).clamp_min(1 - BETA1), g)
        correction2 = per_seed((1 - self.beta2_power).clamp_min(1 - BETA2), g)
        return (m / correction1) / ((v / correction2).sqrt() + eps)


def joint_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all gradients `(S, …)` of a seed: `(S,)`."""
    return torch.stack([g.reshape(g.shape[0], -1).square().sum(1) for g in gradients]).sum(0).sqrt()


def clipped(gradient: Tensor, bound: Number) -> Tensor:
    return gradient.clamp(-bound, bound)  # type: ignore[arg-type]  # two numbers, or two tensors
