"""One-step actor-critic (deck Algorithm 2; Sutton & Barto 2018, 13.5).

Shapes: S seeds, B environments; obs `(S, B, *obs)`, scalars `(S, B)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, Transition, at_time, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.families import PolicyGradient
from deeprl_cli.processes.ranks import share_size
from deeprl_cli.rl.objectives import half_squared_error
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import td_target
from deeprl_cli.rl.values import spread
from deeprl_cli.schema.run import NetworkConfig, RolloutConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat


@dataclass(kw_only=True, slots=True)
class ActorCriticConfig(RolloutConfig):
    lr_actor: PerMember[PositiveFloat]
    lr_critic: PerMember[PositiveFloat]
    gamma_t: bool
    ent_coef: PerMember[NonNegativeFloat]

    def validate(self) -> None:
        if self.subepisodes_per_update > 1:
            raise ConfigError(
                f"algo.subepisodes_per_update={self.subepisodes_per_update}: algo={self.name} learns from step after "
                "step: give algo.subepisodes_per_update=1, or use algo=a2c"
            )

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        return self.num_envs, total_steps / self.num_envs


class ActorCritic(PolicyGradient):
    """Policy and value function learned from every step by its TD error (any actions)."""

    loop = "rollout"
    reference = "deck Algorithm 2"
    Config = ActorCriticConfig
    config: ActorCriticConfig
    per_env = ("discount",)
    discount: Tensor

    def __init__(self, config: ActorCriticConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.actor = self.make_actor()  # θ
        self.critic = self.make_critic()  # w
        self.actor_optimiser = Optimiser(config, self.hp, "lr_actor", [self.actor.flat])
        self.critic_optimiser = Optimiser(config, self.hp, "lr_critic", [self.critic.flat])
        # γ^t of each environment's present episode, Sutton & Barto's I; all 1 under gamma_t=false
        self.register_buffer("discount", torch.ones(len(members), share_size(config.num_envs)))

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """One pass through the inner loop for each of the rollout's steps; `rollout_length=1` is Algorithm 2."""
        return average([self.step(at_time(rollout, t)) for t in range(rollout.reward.shape[1])])

    def step(self, b: Transition) -> Metrics:
        """Lines 7–10 of Algorithm 2 for one step of B environments: both updates use δ from w as it was before them."""
        theta, w = self.actor.views(), self.critic.views()
        pi, value = self.policy(b.obs, theta), self.value(b.obs, w)
        with torch.no_grad():
            y = td_target(b.reward, b.terminated, self.value(b.next_obs), self.hp.gamma)
        delta = y - value.detach()  # δ ← r + (1 − d)γV̂(s') − V̂(s)                                  (line 7)

        fit = mean(half_squared_error(value, y), b.weight)  # descends: w + α_w δ∇V̂(s)               (line 8)
        gain = mean(self.discount * delta * pi.log_prob(b.action), b.weight)  # θ + α_θ γ^t δ∇ln π     (line 9)
        entropy = mean(pi.entropy(), b.weight)
        loss = -gain - self.hp.ent_coef * entropy

        active = b.weight.sum(1) > 0  # of dummies alone there is nothing to learn
        critic_norm = self.critic_optimiser.step([self.critic.gradients(fit, w)], active)
        actor_norm = self.actor_optimiser.step([self.actor.gradients(loss, theta)], active)
        if self.config.gamma_t:
            self.count_on(b.ended, b.weight)  # t ← t + 1                                             (line 10)
        return {
            "loss/policy": -gain.detach(),
            "loss/value": fit.detach(),
            "policy/entropy": entropy.detach(),
            "value/td_error": mean(delta, b.weight),
            "optim/actor_grad_norm": actor_norm,
            "optim/critic_grad_norm": critic_norm,
        }

    def count_on(self, ended: Tensor, weight: Tensor) -> None:
        """I ← γI, and back to 1 where an episode ended in either way; a dummy step counts for nothing."""
        following = torch.where(ended > 0, 1.0, spread(self.hp.gamma, ended) * self.discount)
        self.discount.copy_(torch.where(weight > 0, following, self.discount))
