"""Groups of episodes that answer the same question (GRPO): their returns, advantages, and means over their steps.

Shapes: S seeds, T steps, B episodes (weight 0 behind each end), G of them in a row a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.values import Number, spread
from deeprl_cli.schema.typed import NonNegativeFloat, Own


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """β·KL[π' ‖ π_ref] in the loss; `coef` 0: no reference."""

    coef: Annotated[NonNegativeFloat, Own(apart=(0.0,))]
    estimator: Literal["k3", "k2", "k1", "exact"]
    importance_weight: bool

    def validate(self) -> None:
        """Raise ConfigError where one of them contradicts another, or would do nothing."""
        if self.coef and self.estimator == "k1" and not self.importance_weight:
            raise ConfigError(
                "algo.kl.estimator=k1 has a zero mean gradient in the loss: give algo.kl.importance_weight=true, or "
                "algo.kl.estimator=k3"
            )
        if self.importance_weight and (self.estimator == "exact" or not self.coef):
            nothing = "algo.kl.estimator=exact" if self.coef else "algo.kl.coef=0"
            raise ConfigError(f"{nothing} has nothing to weight: leave algo.kl.importance_weight out")


def returns(reward: Tensor, weight: Tensor, gamma: Number) -> Tensor:
    """R_i = Σ_t γ^t r_t of each episode, `(S, T, B)` to `(S, B)`; nothing is bootstrapped at its end."""
    t = torch.arange(reward.shape[1], device=reward.device, dtype=reward.dtype)
    powers = spread(gamma, reward[:, :, 0]) ** t  # (T,) or (S, T)
    return (powers.unsqueeze(-1) * reward * weight).sum(1)


def group_advantage(returns: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
    """Â_i = (R_i − mean R)/(std R + 1e-4) over each group `(S, groups, G)`, std with G − 1; or without the division.

    And where a group's returns are all the same `(S, groups)`: then its advantages are 0, whatever rounding says.
    """
    same = returns.amax(-1) == returns.amin(-1)
    centred = returns - returns.mean(-1, keepdim=True)
    advantage = centred / (returns.std(-1, keepdim=True) + 1e-4) if norm else centred
    return torch.where(same.unsqueeze(-1), 0.0, advantage), same.float()


def by_token(x: Tensor, weight: Tensor) -> Tensor:
    """The mean over all steps of all episodes, `(S, T, B)` to `(S,)` (TRL's "dapo")."""
    return mean(x.flatten(1), weight.flatten(1))


def by_sequence(x: Tensor, weight: Tensor) -> Tensor:
    """The mean over episodes of each one's mean (the paper's 1/|o_i|): a step of a long episode counts for less."""
    return mean(mean(x.mT, weight.mT), weight.amax(1))


def by_constant(x: Tensor, weight: Tensor) -> Tensor:
    """The mean over episodes of each one's sum: divided by the same constant, here 1, however long it is (Dr. GRPO)."""
    return mean((x * weight).sum(1), weight.amax(1))


AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token": by_token,
    "sequence": by_sequence,
    "constant": by_constant,
}
