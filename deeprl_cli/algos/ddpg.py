"""Deep deterministic policy gradient (deck Algorithm 4; Lillicrap et al. 2016; Silver et al. 2014).

`critics=2` draws them to the smaller of their target values (clipped double Q). Shapes: S seeds, B minibatch, A action
dimensions, C critics; obs `(S, B, *obs)`, action `(S, B, A)` in [−1, 1], Q `(S, C, B)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.algorithm import Metrics, NoiseSpec, OffPolicyActorCritic, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import Exploration, ExplorationConfig
from deeprl_cli.rl.noise import normal
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import PolyakConfig, critic_losses, first_q, polyak_update, q_values, td_target
from deeprl_cli.schema import NetworkConfig
from deeprl_cli.typed import PositiveFloat


@dataclass(kw_only=True, slots=True)
class DDPGConfig(PolyakConfig):
    lr_actor: PositiveFloat
    lr_critic: PositiveFloat
    target_policy: bool
    critics: Literal[1, 2]
    exploration: ExplorationConfig

    def validate(self) -> None:
        PolyakConfig.validate(self)
        self.exploration.validate()


class DDPG(OffPolicyActorCritic):
    """Off-policy actor-critic with a deterministic policy (continuous actions)."""

    reference = "deck Algorithm 4"
    Config = DDPGConfig
    config: DDPGConfig

    def __init__(self, config: DDPGConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__(config, network, spec, seeds)
        c = config
        (self.size,) = spec.action_space.shape or ()

        self.actor = Stacked(lambda: self.make_network(self.size), seeds, name="actor")  # θ
        self.critic = Stacked(lambda: self.make_network(1, extra=self.size), seeds, c.critics, name="critic")  # w
        self.critic_target = self.critic.target()  # w_target ← w, θ_target ← θ                       (line 2)
        self.actor_target = self.actor.target() if c.target_policy else self.actor

        self.actor_optimiser = Optimiser(c, c.lr_actor, [self.actor.flat])
        self.critic_optimiser = Optimiser(c, c.lr_critic, [self.critic.flat])
        self.exploration = Exploration(c.exploration, len(seeds), c.num_envs, self.size)

    def noise_spec(self) -> NoiseSpec:
        return NoiseSpec(act=normal(self.size), step={})

    def policy(self, actor: Stacked, obs: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """π(s), `(S, B, A)`."""
        return actor(obs, params=params).tanh()

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """π(s), plus exploration where there is noise: see Exploration for its memory, and for evaluating with it."""
        with torch.no_grad():
            action = self.policy(self.actor, obs)
            return action if noise is None else self.exploration(action, noise)

    def update(self, minibatches: Iterable[Transition], noise: Iterable[Mapping[str, Tensor]]) -> Metrics:
        # sample mini-batch {⟨s_i, a_i, r_i, s_i'⟩ | i = 1, …} from M                                 (line 7)
        return average([self.step(batch, xi) for batch, xi in zip(minibatches, noise, strict=False)])

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Lines 8–11 of Algorithm 4."""
        # critic: ∇_w 1/N Σ (y_i − Q̂(s_i, a_i))² = −2/N Σ (y_i − Q̂(s_i, a_i)) ∇_w Q̂(s_i, a_i)         (line 9)
        w = self.critic.views()
        y = self.target(batch)
        q = q_values(self.critic, batch.obs, batch.action, w)
        critic_loss = critic_losses(q, y, batch.weight)
        critic_norm = self.critic_optimiser.step([self.critic.gradients(critic_loss, w)])

        # actor: 1/N Σ ∇_a Q̂(s, a)|_{s=s_i, a=π(s_i)} ∇_θ π(s)|_{s=s_i}, ascending                    (line 10)
        theta = self.actor.views()
        q_pi = first_q(self.critic, batch.obs, self.policy(self.actor, batch.obs, theta))
        actor_loss = -mean(q_pi, batch.weight)
        actor_norm = self.actor_optimiser.step([self.actor.gradients(actor_loss, theta)])

        polyak_update(self.critic_target, self.critic, self.config.keep)  # (line 11)
        if self.config.target_policy:
            polyak_update(self.actor_target, self.actor, self.config.keep)
        return {
            "loss/critic": critic_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "q/mean": mean(q.detach().mean(1), batch.weight),
            "q/target_mean": mean(y, batch.weight),
            "optim/critic_grad_norm": critic_norm,
            "optim/actor_grad_norm": actor_norm,
            "explore/sigma": self.exploration.sigma.clone(),
        }

    @torch.no_grad()
    def target(self, batch: Transition) -> Tensor:
        """y = r + γ(1 − d)·Q̂_target(s', π_target(s')), of two critics the smaller                      (line 8)"""
        next_action = self.policy(self.actor_target, batch.next_obs)
        next_q = q_values(self.critic_target, batch.next_obs, next_action).amin(1)
        return td_target(batch.reward, batch.terminated, next_q, self.config.gamma)
