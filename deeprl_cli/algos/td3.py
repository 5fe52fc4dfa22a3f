"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, Algorithm 1, whose symbols are used here).

Shapes: S seeds, B minibatch, A action dimensions; obs `(S, B, *obs)`, action `(S, B, A)` in [−1, 1], Q `(S, 2, B)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, NoiseSpec, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import DeterministicActorCritic, OffPolicyActorCriticConfig
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import Exploration
from deeprl_cli.rl.noise import normal
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import first_q, polyak_update, q_values, td_target
from deeprl_cli.rl.values import spread
from deeprl_cli.schema.run import NetworkConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveInt


@dataclass(kw_only=True, slots=True)
class TD3Config(OffPolicyActorCriticConfig):
    policy_delay: PositiveInt
    target_noise: PerMember[NonNegativeFloat]
    target_noise_clip: PerMember[NonNegativeFloat]


class TD3(DeterministicActorCritic):
    """DDPG with twin critics, a delayed policy and smoothed target actions (continuous actions)."""

    graphs = ("act", "critic_step", "step")
    reference = "Fujimoto et al. 2018, Algorithm 1"
    untraced = ("t",)
    Config = TD3Config
    config: TD3Config
    actor_loss: Tensor
    actor_norm: Tensor

    def __init__(self, config: TD3Config, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        c = config
        self.actor = Stacked(lambda: self.make_network(self.size), self.seeds, name="actor")  # φ
        self.critic = Stacked(lambda: self.make_network(1, extra=self.size), self.seeds, 2, name="critic")  # θ₁, θ₂
        self.critic_target, self.actor_target = self.critic.target(), self.actor.target()  # θ' ← θ, φ' ← φ

        self.critic_optimiser = Optimiser(c, self.hp, "lr_critic", [self.critic.flat])
        self.actor_optimiser = Optimiser(c, self.hp, "lr_actor", [self.actor.flat])
        self.exploration = Exploration(c.exploration, self.hp, len(members), c.num_envs, self.size)
        self.t = 0  # critic updates
        # of the latest actor update: what the steps in between report
        self.register_buffer("actor_loss", torch.zeros(len(members)))
        self.register_buffer("actor_norm", torch.zeros(len(members)))

    def noise_spec(self) -> NoiseSpec:
        return NoiseSpec(act=normal(self.size), step={"epsilon": normal(self.config.batch_size, self.size)})

    def update(self, minibatches: Iterable[Transition], noise: Iterable[Mapping[str, Tensor]]) -> Metrics:
        steps = []
        for batch, xi in zip(minibatches, noise, strict=False):
            self.t += 1
            delayed = self.t % self.config.policy_delay != 0  # if t mod d then …
            steps.append(self.critic_step(batch, xi) if delayed else self.step(batch, xi))
        return average(steps)

    def critic_step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """A step of the critics alone; a graph of its own, so that what is delayed isn't computed."""
        return self.improve_critics(batch, noise)

    def improve_critics(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """θ_i ← argmin_{θ_i} 1/N Σ (y − Q_{θ_i}(s, a))², by one step of gradient descent"""
        metrics = self.fit_critics(batch, self.target(batch, noise["epsilon"]))
        metrics |= {"loss/actor": self.actor_loss.clone(), "optim/actor_grad_norm": self.actor_norm.clone()}
        return {**metrics, "explore/sigma": self.exploration.sigma.clone()}

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """A step of the critics, of the actor and of the target networks."""
        metrics = self.improve_critics(batch, noise)

        # ∇_φ J(φ) = 1/N Σ ∇_a Q_{θ₁}(s, a)|_{a=π_φ(s)} ∇_φ π_φ(s), ascending
        phi = self.actor.views()
        actor_loss = -mean(first_q(self.critic, batch.obs, self.policy(self.actor, batch.obs, phi)), batch.weight)
        actor_norm = self.actor_optimiser.step([self.actor.gradients(actor_loss, phi)])

        polyak_update(self.critic_target, self.critic, self.hp.keep)  # θ'_i ← τθ_i + (1 − τ)θ'_i
        polyak_update(self.actor_target, self.actor, self.hp.keep)  # φ' ← τφ + (1 − τ)φ'
        with torch.no_grad():
            self.actor_loss.copy_(actor_loss.nan_to_num())
            self.actor_norm.copy_(actor_norm.nan_to_num())
        return {**metrics, "loss/actor": actor_loss.detach(), "optim/actor_grad_norm": actor_norm}

    @torch.no_grad()
    def target(self, batch: Transition, epsilon: Tensor) -> Tensor:
        """y ← r + γ(1 − d) min_i Q_{θ'_i}(s', ã), ã ← π_φ'(s') + clip(ε, −c, c), ε ~ N(0, σ̃)"""
        c = spread(self.hp.target_noise_clip, epsilon)
        smoothing = (spread(self.hp.target_noise, epsilon) * epsilon).clamp(-c, c)
        next_action = (self.policy(self.actor_target, batch.next_obs) + smoothing).clamp(-1.0, 1.0)
        next_q = q_values(self.critic_target, batch.next_obs, next_action).amin(1)
        return td_target(batch.reward, batch.terminated, next_q, self.hp.gamma)

    def get_extra_state(self) -> dict[str, int]:
        return {"t": self.t}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.t = state["t"]
