"""Deep deterministic policy gradient (deck Algorithm 4; Lillicrap et al. 2016; Silver et al. 2014).

`critics=2` draws them to the smaller of their target values (clipped double Q). Shapes: S seeds, B minibatch, A action
dimensions, C critics; obs `(S, B, *obs)`, action `(S, B, A)` in [−1, 1], Q `(S, C, B)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import DeterministicActorCritic, OffPolicyActorCriticConfig
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import Exploration
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import first_q, polyak_update, q_values, td_target
from deeprl_cli.schema.run import NetworkConfig


@dataclass(kw_only=True, slots=True)
class DDPGConfig(OffPolicyActorCriticConfig):
    target_policy: bool
    critics: Literal[1, 2]


class DDPG(DeterministicActorCritic):
    """Off-policy actor-critic with a deterministic policy (continuous actions)."""

    reference = "deck Algorithm 4"
    Config = DDPGConfig
    config: DDPGConfig

    def __init__(self, config: DDPGConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        c = config
        self.actor = Stacked(lambda: self.make_network(self.size), self.seeds, name="actor")  # θ
        self.critic = Stacked(lambda: self.make_network(1, extra=self.size), self.seeds, c.critics, name="critic")  # w
        self.critic_target = self.critic.target()  # w_target ← w, θ_target ← θ                       (line 2)
        self.actor_target = self.actor.target() if c.target_policy else self.actor

        self.actor_optimiser = Optimiser(c, self.hp, "lr_actor", [self.actor.flat])
        self.critic_optimiser = Optimiser(c, self.hp, "lr_critic", [self.critic.flat])
        self.exploration = Exploration(c.exploration, self.hp, len(members), c.num_envs, self.size)

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Lines 8–11 of Algorithm 4, for one of the minibatches that `update` samples from M (line 7)."""
        # critic: ∇_w 1/N Σ (y_i − Q̂(s_i, a_i))² = −2/N Σ (y_i − Q̂(s_i, a_i)) ∇_w Q̂(s_i, a_i)         (line 9)
        metrics = self.fit_critics(batch, self.target(batch))

        # actor: 1/N Σ ∇_a Q̂(s, a)|_{s=s_i, a=π(s_i)} ∇_θ π(s)|_{s=s_i}, ascending                    (line 10)
        theta = self.actor.views()
        q_pi = first_q(self.critic, batch.obs, self.policy(self.actor, batch.obs, theta))
        actor_loss = -mean(q_pi, batch.weight)
        actor_norm = self.actor_optimiser.step([self.actor.gradients(actor_loss, theta)])

        polyak_update(self.critic_target, self.critic, self.hp.keep)  # (line 11)
        if self.config.target_policy:
            polyak_update(self.actor_target, self.actor, self.hp.keep)
        metrics |= {"loss/actor": actor_loss.detach(), "optim/actor_grad_norm": actor_norm}
        return {**metrics, "explore/sigma": self.exploration.sigma.clone()}

    @torch.no_grad()
    def target(self, batch: Transition) -> Tensor:
        """y = r + γ(1 − d)·Q̂_target(s', π_target(s')), of two critics the smaller                      (line 8)"""
        next_action = self.policy(self.actor_target, batch.next_obs)
        next_q = q_values(self.critic_target, batch.next_obs, next_action).amin(1)
        return td_target(batch.reward, batch.terminated, next_q, self.hp.gamma)
