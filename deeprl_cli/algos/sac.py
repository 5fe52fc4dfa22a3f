"""Soft actor-critic (deck Algorithm 7; Haarnoja et al. 2018, 2019; Spinning Up's presentation).

Shapes: S seeds, B minibatch, A action dimensions, C critics; obs `(S, B, *obs)`, action `(S, B, A)` in (−1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deeprl_cli.algorithm import Members, Metrics, NoiseSpec, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import OffPolicyActorCritic, OffPolicyActorCriticConfig
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.distributions import SquashedGaussian
from deeprl_cli.rl.exploration import Exploration
from deeprl_cli.rl.noise import normal
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import polyak_update, q_values, td_target
from deeprl_cli.rl.values import Number
from deeprl_cli.schema.run import NetworkConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat


@dataclass(kw_only=True, slots=True)
class SACConfig(OffPolicyActorCriticConfig):
    lr_alpha: PerMember[PositiveFloat]
    critics: Literal[1, 2]
    alpha: PerMember[NonNegativeFloat | Literal["auto"]]
    alpha_init: PerMember[PositiveFloat]
    target_entropy: PerMember[float | Literal["auto"]]


class SAC(OffPolicyActorCritic):
    """Off-policy maximum-entropy actor-critic with clipped double Q (continuous actions)."""

    reference = "deck Algorithm 7"
    Config = SACConfig
    config: SACConfig

    def __init__(self, config: SACConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        c = config
        self.actor = Stacked(lambda: self.make_network(2 * self.size), self.seeds, name="actor")  # θ: μ and log σ
        # w₁, w₂
        self.critic = Stacked(lambda: self.make_network(1, extra=self.size), self.seeds, c.critics, name="critic")
        self.critic_target = self.critic.target()  # wᵗᵃʳᵍᵉᵗ ← w
        starts = [o.alpha_init if o.alpha == "auto" else max(o.alpha, 1e-30) for o in self.configs]
        self.log_alpha = nn.Parameter(torch.tensor([math.log(start) for start in starts]))
        aims = [float(-self.size if o.target_entropy == "auto" else o.target_entropy) for o in self.configs]
        self.hp.put("target_entropy", aims)  # H̄ = −dim A

        self.actor_optimiser = Optimiser(c, self.hp, "lr_actor", [self.actor.flat])
        self.critic_optimiser = Optimiser(c, self.hp, "lr_critic", [self.critic.flat])
        self.alpha_optimiser = Optimiser(c, self.hp, "lr_alpha", [self.log_alpha])
        self.exploration = Exploration(c.exploration, self.hp, len(members), c.num_envs, self.size)

    def noise_spec(self) -> NoiseSpec:
        xi = normal(self.config.batch_size, self.size)
        rows = 1 if self.config.exploration.kind == "none" else 2  # the policy's own ξ, and exploration's
        return NoiseSpec(act=normal(rows, self.size), step={"xi": xi, "next_xi": xi})

    def policy(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> SquashedGaussian:
        return SquashedGaussian(self.actor(obs, params=params))

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """a ~ π_θ(s, ·), plus exploration where it is asked for: the last row of `noise` `(S, B, 1 or 2, A)`."""
        with torch.no_grad():
            pi = self.policy(obs)
            return pi.mode() if noise is None else self.exploration(pi.sample(noise[..., 0, :]), noise[..., -1, :])

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """One pass through lines 7–12 of Algorithm 7, for one of the batches B that `update` samples from M (5–6)."""
        alpha = self.log_alpha.detach().exp()

        # critics: ∇_{w_i} 1/|B| Σ (Q_{w_i}(s, a) − y)²                                          (line 9)
        metrics = self.fit_critics(batch, self.target(batch, noise["next_xi"], alpha))

        # actor: ∇_θ 1/|B| Σ (min_j Q_{w_j}(s, ã_θ(s)) − α log π_θ(s, ã_θ(s))), ascending        (line 10)
        theta = self.actor.views()
        a_tilde, log_pi = self.policy(batch.obs, theta).rsample(noise["xi"])
        q_tilde = q_values(self.critic, batch.obs, a_tilde).amin(1)
        actor_loss = actor_objective(q_tilde, log_pi, alpha, batch.weight).neg()
        actor_norm = self.actor_optimiser.step([self.actor.gradients(actor_loss, theta)])

        # temperature: α falls while the policy's entropy is above H̄ (Haarnoja et al. 2019, eq. 18)
        entropy = -mean(log_pi.detach(), batch.weight)
        alpha_loss = alpha_objective(self.log_alpha, entropy, self.hp.target_entropy)
        if self.config.alpha == "auto":
            self.alpha_optimiser.step(list(torch.autograd.grad(alpha_loss.sum(), [self.log_alpha])))

        polyak_update(self.critic_target, self.critic, self.hp.keep)  # (line 11)
        metrics |= {"loss/actor": actor_loss.detach(), "optim/actor_grad_norm": actor_norm}
        return {**metrics, "loss/alpha": alpha_loss.detach(), "policy/entropy": entropy, "policy/alpha": alpha}

    @torch.no_grad()
    def target(self, batch: Transition, next_xi: Tensor, alpha: Tensor) -> Tensor:
        """y = r + γ(1 − d)(min_j Q_{w_j^target}(s', ã') − α log π(s', ã')), ã' ~ π_θ(s', ·) anew        (line 8)"""
        next_a, next_log_pi = self.policy(batch.next_obs).rsample(next_xi)
        next_q = q_values(self.critic_target, batch.next_obs, next_a).amin(1)
        soft_value = next_q - alpha.unsqueeze(-1) * next_log_pi
        return td_target(batch.reward, batch.terminated, soft_value, self.hp.gamma)


def actor_objective(min_q: Tensor, log_pi: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """mean(min_j Q(s, ã) − α log π(ã|s)), to be maximised; `(S,)`."""
    return mean(min_q - alpha.unsqueeze(-1) * log_pi, weight)


def alpha_objective(log_alpha: Tensor, entropy: Tensor, target_entropy: Number) -> Tensor:
    """−log α·(log π + H̄) averaged = log α·(H − H̄), to be minimised; `(S,)`."""
    return log_alpha * (entropy - target_entropy)
