"""TD targets, the critics that learn them, and target networks. There are C critics: two, or only one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.values import Number, per_seed, spread
from deeprl_cli.schema.run import ReplayConfig
from deeprl_cli.schema.typed import PerMember, UnitInterval


@dataclass(kw_only=True, slots=True)
class PolyakConfig(ReplayConfig):
    """What algorithms with slowly following target networks share: ρ, or τ = 1 − ρ as other libraries write it."""

    rho: PerMember[UnitInterval | None]
    tau: PerMember[UnitInterval | None]

    def validate(self) -> None:
        ReplayConfig.validate(self)  # super() doesn't work in dataclasses with slots
        if self.rho is None and self.tau is None:
            raise ConfigError("algo.rho and algo.tau are both null: give algo.rho=0.995 (or algo.tau=0.005)")
        if self.rho is not None and self.tau is not None:
            raise ConfigError(
                f"algo.tau={self.tau:g} says the same as algo.rho={1 - self.tau:g}, and algo.rho={self.rho:g} is given "
                f"as well: write algo.rho={1 - self.tau:g}, or add algo.rho=null"
            )

    @property
    def keep(self) -> float:
        """ρ: how much of itself a target network keeps at each step."""
        if self.rho is not None:
            return self.rho
        assert self.tau is not None
        return 1.0 - self.tau


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: Number) -> Tensor:
    """y = r + γ(1 − d)·V(s'), all `(S, B)`. Only a *terminated* state has no future: truncation bootstraps (2.0)."""
    assert reward.shape == terminated.shape == next_value.shape
    return reward + spread(gamma, reward) * (1.0 - terminated) * next_value


def q_values(critic: Stacked, obs: Tensor, action: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
    """Q_{w_j}(s, a) for every j: `(S, C, B)`; action `(S, B, A)`."""
    return critic(obs, action, params=params).squeeze(-1)


def first_q(critic: Stacked, obs: Tensor, action: Tensor) -> Tensor:
    """Q_{w_1}(s, a) alone, `(S, B)`: what a deterministic policy climbs."""
    first = {name: w[:, :1] for name, w in critic.views().items()}
    return q_values(critic, obs, action, first).squeeze(1)


def choose(q: Tensor, action: Tensor) -> Tensor:
    """[Q̂_j(s)]_a of networks S → ℝ^|A|: q `(S, C, B, K)`, action `(S, B)`, out `(S, C, B)`."""
    index = action.long().unsqueeze(1).unsqueeze(-1).expand(-1, q.shape[1], -1, 1)
    return q.gather(-1, index).squeeze(-1)


def critic_losses(q: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Σ_j mean (Q_{w_j} − y)²: q `(S, C, B)`, y `(S, B)`, out `(S,)`; its gradient is −(2/N) Σ (y − Q) ∇Q for each."""
    assert q.shape[2:] == y.shape[1:]
    squared = (q - y.unsqueeze(1)).square().sum(1)
    return mean(squared, weight)


@torch.no_grad()
def polyak_update(target: Stacked, online: Stacked, rho: Number) -> None:
    """w_target ← ρ·w_target + (1 − ρ)·w (deck, delayed Q update). `rho=0` copies."""
    if isinstance(rho, Tensor):  # not 1 − ρ, which 32 bits would round to a few digits
        target.flat.copy_(online.flat.lerp(target.flat, per_seed(rho, online.flat)))
    else:
        target.flat.lerp_(online.flat, 1.0 - rho)
