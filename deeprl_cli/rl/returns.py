"""Advantages and returns over rollouts. Shapes: `(S, T, B)`, time on axis 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.errors import ConfigError
from deeprl_cli.processes import ranks
from deeprl_cli.rl.values import Number, spread
from deeprl_cli.schema.typed import PerMember, PositiveInt, UnitInterval

AdvantageName = Literal["gae", "td", "nstep", "mc"]
# (reward, value, next_value, terminated, ended), each `(S, T, B)`, γ and λ to Â `(S, T, B)`
AdvantageEstimator = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Number, Number], Tensor]


@dataclass(kw_only=True)
class AdvantageOptions:
    """How a rollout's Â are estimated. Empty slots let it stand beside any other part of a configuration."""

    __slots__ = ()
    advantage: AdvantageName
    gae_lambda: PerMember[UnitInterval]
    nstep: PositiveInt | None
    normalize_advantage: bool

    def check_advantages(self, samples: int, key: str) -> None:
        """Raise ConfigError for an option that isn't read, or where advantages are normalised over the one sample that
        `key` leaves: it is its own mean, and nothing is learned."""
        if self.nstep is not None and self.advantage != "nstep":
            raise ConfigError(
                f"algo.nstep={self.nstep} means nothing to algo.advantage={self.advantage}: add algo.advantage=nstep"
            )
        if self.normalize_advantage and samples == 1:
            raise ConfigError(
                f"algo.normalize_advantage=true takes its mean off the only sample that {key} leaves: give "
                "algo.normalize_advantage=false, or more samples"
            )


def advantage_estimator(name: AdvantageName, k: int | None) -> AdvantageEstimator:
    """The deck's estimates of Â(s_t, a_t) ("Advantage estimation I" and "II"), all of them Σ_{l<k} (γλ)^l δ_{t+l} with
    δ_t = r_{t+1} + γ(1 − d_{t+1})V(s_{t+1}) − V(s_t):

    `td`: Â_1 = δ_t. `nstep`: Â_k, for `k=None` Â_{T−t}: all that remains of the sub-episode, V at its end.
    `gae`: Schulman et al. (2016), eq. 16, of which λ=0 is `td` and λ=1 Â_{T−t}.
    `mc`: Â_∞, the return less V; of an episode that goes on behind the rollout only Â_{T−t} is known.

    The sum stops at an episode's end of either kind, where a terminated one (d) is worth nothing and a truncated one
    V of the true next observation, and at the rollout's edge, even where fewer than `k` steps remain.
    """
    steps = 1 if name == "td" else k if name == "nstep" else None

    def estimate(
        reward: Tensor,
        value: Tensor,
        next_value: Tensor,
        terminated: Tensor,
        ended: Tensor,
        gamma: Number,
        lam: Number,
    ) -> Tensor:
        assert reward.shape == value.shape == next_value.shape == terminated.shape == ended.shape
        gamma, lam = spread(gamma, reward), spread(lam, reward)
        decay = gamma * lam if name == "gae" else gamma
        delta = reward + gamma * (1.0 - terminated) * next_value - value
        carry = decay * (1.0 - ended)
        return reverse_scan(delta, carry) if steps is None else windowed_scan(delta, carry, steps)

    return estimate


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), with two masks (2.0):

    δ_t = r_t + γ(1 − d_t)V(s'_t) − V(s_t): a *terminated* state is worth nothing, a truncated one is bootstrapped;
    A_t = δ_t + γλ(1 − e_t)A_{t+1}: no advantage flows across an episode's end of either kind, e = d or u.
    `next_value` is V of the true next observation. λ=1 is Algorithm 8's R̂ − V̂; λ=0 the one-step TD error.
    """
    return advantage_estimator("gae", None)(reward, value, next_value, terminated, ended, gamma, lam)


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


def windowed_scan(x: Tensor, carry: Tensor, k: int) -> Tensor:
    """The first `k` terms of what `reverse_scan` sums: x_t + c_t·x_{t+1} + c_t·c_{t+1}·x_{t+2} + …, in ⌈log₂ k⌉ rounds.

    Blocks of 1, 2, 4, … terms double as there; those that the binary digits of `k` name are put behind one another.
    """
    k = min(k, x.shape[1])
    sums, reach = torch.zeros_like(x), torch.ones_like(x)  # of the terms so far: their sum, and the product past them
    terms, block = 0, 1
    while True:
        if k & block:
            sums = sums + reach * _shifted(x, terms)
            reach = reach * _shifted(carry, terms)
            terms += block
        if 2 * block > k:
            return sums
        x = x + carry * _shifted(x, block)
        carry = carry * _shifted(carry, block)
        block *= 2


def _shifted(x: Tensor, shift: int) -> Tensor:
    """x_{t+shift} at t, zeros past the end."""
    return torch.cat((x[:, shift:], torch.zeros_like(x[:, :shift])), 1)


def explained_variance(value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """1 − Var(R − V)/Var(R) per seed, from `(S, N)` of each rank; NaN where the returns don't vary."""
    (residual_mean, residual), (total_mean, total) = moments(returns - value, weight), moments(returns, weight)
    if ranks.size() > 1:  # in one message
        means, variances = torch.stack((residual_mean, total_mean), -1), torch.stack((residual, total), -1)
        residual, total = ranks.merged_moments(weight.sum(-1), means, variances)[2].unbind(-1)
    return torch.where(total > 0, 1.0 - residual / total.clamp_min(1e-12), torch.nan)


def moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of `(S, N)`, each `(S,)`."""
    mu = mean(x, weight)
    centred = x - mu.unsqueeze(-1)
    return mu, mean(centred * centred, weight)


def mean(x: Tensor, weight: Tensor) -> Tensor:
    """The one reduction over the batch: the weighted mean over the last axis, `(S, B)` to `(S,)`.

    Weight 0 marks dummy or padded transitions.
    """
    assert x.shape == weight.shape
    return (x * weight).sum(-1) / weight.sum(-1).clamp_min(1.0)


def weighted_sum(x: Tensor, weight: Tensor) -> Tensor:
    """The deck's sum over the batch in place of a mean (`reduction=sum`): weighted, `(S, B)` to `(S,)`.

    Ranks average their gradients, so that of R of them each counts its share R times.
    """
    assert x.shape == weight.shape
    summed = (x * weight).sum(-1)
    return summed if ranks.size() == 1 else ranks.size() * summed


REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "sum": weighted_sum}


def normalise(x: Tensor, weight: Tensor, *, whole: bool = False) -> Tensor:
    """Zero mean and unit standard deviation over the batch `(S, B)`, per seed: over all ranks' shares of it, or this
    one's `whole` batch."""
    mu, var = moments(x, weight)
    if not whole:
        _, mu, var = ranks.merged_moments(weight.sum(-1), mu, var)
    return (x - mu.unsqueeze(-1)) / ((var + 1e-16).sqrt().unsqueeze(-1) + 1e-8)
