"""KL divergences between the policy π' and a reference π_ref: their estimators, and how a run uses them (deck,
"KL-Regularization").

Shapes: per sample `(S, B)`, coefficients `(S,)`. r = π_ref(s, a)/π'(s, a), with a drawn from π'.

As **values** of KL[π' ‖ π_ref], k1 and k3 are unbiased and k2 is not. As **losses**, differentiated through log π',
they are other things: E∇k1 = 0, E∇k2 = ∇KL[π' ‖ π_ref], E∇k3 = ∇KL[π_ref ‖ π'], the other direction. Multiplied by
ρ = π'(s, a)/π(s, a), where π drew the actions, k1 and k3 have the gradient ∇KL[π' ‖ π_ref], also once π' has moved
away from π.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.errors import ConfigError
from deeprl_cli.rl.distributions import Distribution
from deeprl_cli.rl.values import Number
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat

Estimator = Callable[[Distribution, Distribution, Tensor], Tensor]  # (π', π_ref, actions) -> per sample
COEF_RANGE = 1e-6, 1e6  # of an adaptive β: halved or doubled without end it would leave the floats


@dataclass(kw_only=True, slots=True)
class KLConfig:
    """How far a policy may go from a reference: `penalty` adds β·KL[π' ‖ π_ref], `stop` ends an update's epochs."""

    mode: Literal["none", "penalty", "stop"]
    coef: PerMember[NonNegativeFloat]
    adaptive: bool
    target: PerMember[PositiveFloat | None]
    estimator: Literal["exact", "k1", "k2", "k3"]
    where: Literal["loss", "reward"]
    ref: Literal["old", "initial"]
    importance_weight: bool

    def validate(self) -> None:
        """Raise ConfigError where one of them contradicts another, or would do nothing."""
        aiming = {"mode=stop": self.mode == "stop", "adaptive=true": self.adaptive}
        for option, chosen in aiming.items():
            if chosen and self.target is None:
                raise ConfigError(f"algo.kl.{option} needs a divergence to aim at: give algo.kl.target=0.01")
        if self.target is not None and not any(aiming.values()):
            raise ConfigError(
                f"nothing aims at algo.kl.target={self.target:g}: give algo.kl.mode=stop, or algo.kl.mode=penalty with "
                "algo.kl.adaptive=true"
            )
        of_a_penalty = {
            "adaptive=true": self.adaptive,
            "where=reward": self.where == "reward",
            "ref=initial": self.ref == "initial",
            "importance_weight=true": self.importance_weight,
        }
        for option, chosen in of_a_penalty.items():
            if chosen and self.mode != "penalty":
                raise ConfigError(f"algo.kl.{option} belongs to a penalty: give algo.kl.mode=penalty, or leave it out")
        if self.mode == "penalty":
            self._validate_penalty()

    def _validate_penalty(self) -> None:
        if self.coef == 0:
            raise ConfigError("algo.kl.coef=0 makes a penalty of nothing: give a larger one, or algo.kl.mode=none")
        if self.where == "reward":
            if self.ref == "old":
                raise ConfigError(
                    "algo.kl.where=reward with algo.kl.ref=old is zero, for the old policy drew the actions: "
                    "give algo.kl.ref=initial"
                )
            if self.estimator != "k1":
                raise ConfigError(
                    f"algo.kl.where=reward takes log(pi'/pi_ref) of the actions drawn, not {self.estimator}: "
                    "give algo.kl.estimator=k1"
                )
            if self.importance_weight:
                raise ConfigError("algo.kl.importance_weight=true is for the loss: leave it out of where=reward")
        elif self.estimator == "k1" and not self.importance_weight:
            raise ConfigError(
                "algo.kl.estimator=k1 has a zero mean gradient in the loss: give algo.kl.importance_weight=true, or "
                "algo.kl.estimator=exact"
            )
        elif self.estimator == "exact" and self.importance_weight:
            raise ConfigError("algo.kl.estimator=exact has nothing to weight: leave algo.kl.importance_weight out")


def k1(log_r: Tensor) -> Tensor:
    """−log r"""
    return -log_r


def k2(log_r: Tensor) -> Tensor:
    """½log² r"""
    return 0.5 * log_r.square()


def k3(log_r: Tensor) -> Tensor:
    """r − 1 − log r: k1 with the control variate r − 1, whose mean is 0 (the deck's GRPO term); never negative."""
    return log_r.expm1() - log_r


def exact(pi: Distribution, ref: Distribution, action: Tensor) -> Tensor:
    """KL[π'(s, ·) ‖ π_ref(s, ·)] in closed form; the actions don't matter."""
    return pi.kl(ref)


def sampled(k: Callable[[Tensor], Tensor]) -> Estimator:
    """An estimator of log r at the actions as one of the two distributions."""
    return lambda pi, ref, action: k(ref.log_prob(action) - pi.log_prob(action))


ESTIMATORS: dict[str, Estimator] = {"exact": exact, "k1": sampled(k1), "k2": sampled(k2), "k3": sampled(k3)}


def adapt(coef: Tensor, kl: Tensor, target: Number) -> Tensor:
    """β `(S,)` doubled where KL > 1.5·target, halved where KL < target/1.5 (Schulman et al. 2017, section 4)."""
    factor = torch.where(kl > 1.5 * target, 2.0, torch.where(kl < target / 1.5, 0.5, 1.0))
    return (coef * factor).clamp(*COEF_RANGE)
