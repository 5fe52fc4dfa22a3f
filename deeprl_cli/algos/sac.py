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
from deeprl_cli.families import OffPolicyActorCritic, OffPolicyActorCriticConfig, check_sde, starts_at
from deeprl_cli.nets.modules import SquashedPolicyNetwork
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.distributions import SquashedGaussian, StateDependentGaussian
from deeprl_cli.rl.exploration import Exploration, SDEConfig, StateDependentNoise
from deeprl_cli.rl.noise import normal
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import polyak_update, q_values, td_target
from deeprl_cli.rl.values import Number
from deeprl_cli.schema.run import AlgoConfig, NetworkConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat


@dataclass(kw_only=True, slots=True)
class SquashedSDEConfig(SDEConfig):
    warm_up: bool
    log_std_init: PerMember[float]
    clip_mean: PositiveFloat


@dataclass(kw_only=True, slots=True)
class SACConfig(OffPolicyActorCriticConfig):
    lr_alpha: PerMember[PositiveFloat]
    critics: Literal[1, 2]
    alpha: PerMember[NonNegativeFloat | Literal["auto"]]
    alpha_init: PerMember[PositiveFloat]
    target_entropy: PerMember[float | Literal["auto"]]
    sde: SquashedSDEConfig

    @property
    def acts_in_warm_up(self) -> bool:
        return self.sde.enabled and self.sde.warm_up


class SAC(OffPolicyActorCritic):
    """Off-policy maximum-entropy actor-critic with clipped double Q (continuous actions)."""

    reference = "deck Algorithm 7"
    Config = SACConfig
    config: SACConfig

    def __init__(self, config: SACConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        c = config
        self.actor = Stacked(self.make_actor, self.seeds, name="actor")  # θ: μ and log σ
        if c.sde.enabled:
            starts_at(self.actor, self.hp.sde_log_std_init)
            shape = self.actor.shapes["log_std"]
            self.state_noise = StateDependentNoise(len(members), c.num_envs, shape, c.sde.sample_every)
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

    @classmethod
    def check(cls, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec) -> None:
        super().check(config, network, spec)
        assert isinstance(config, SACConfig)
        check_sde(config, config.sde, network, spec)

    def make_actor(self) -> nn.Module:
        sde = self.config.sde
        if not sde.enabled:
            return self.make_network(2 * self.size)
        return SquashedPolicyNetwork(self.make_network, self.size, sde.log_std_init, sde.clip_mean)

    def noise_spec(self) -> NoiseSpec:
        own = len(self.state_noise.matrix[0, 0]) if self.config.sde.enabled else 1  # rows of the policy's own ξ
        rows = own if self.config.exploration.kind == "none" else own + 1  # the last is exploration's
        if self.config.sde.enabled:  # one W for the whole minibatch, s and s' alike
            return NoiseSpec(act=normal(rows, self.size), step={"xi": normal(own, self.size)})
        xi = normal(self.config.batch_size, self.size)
        return NoiseSpec(act=normal(rows, self.size), step={"xi": xi, "next_xi": xi})

    def policy(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> SquashedGaussian:
        params = self.actor.views() if params is None else params
        out = self.actor(obs, params=params)
        return StateDependentGaussian(out, params["log_std"]) if self.config.sde.enabled else SquashedGaussian(out)

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """a ~ π_θ(s, ·), plus exploration where it is asked for: the last row of `noise` `(S, B, rows, A)`."""
        with torch.no_grad():
            pi = self.policy(obs)
            if noise is None:
                return pi.mode()
            if isinstance(pi, StateDependentGaussian):
                own = noise[..., : pi.features.shape[-1], :]
                a = (pi.mean + self.state_noise(pi.features, pi.log_sigma, own)).tanh()
            else:
                a = pi.sample(noise[..., 0, :])
            action: Tensor = self.exploration(a, noise[..., -1, :])
            return action

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """One pass through lines 7–12 of Algorithm 7, for one of the batches B that `update` samples from M (5–6)."""
        alpha = self.log_alpha.detach().exp()

        # critics: ∇_{w_i} 1/|B| Σ (Q_{w_i}(s, a) − y)²                                          (line 9)
        metrics = self.fit_critics(batch, self.target(batch, noise.get("next_xi", noise["xi"]), alpha))

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
