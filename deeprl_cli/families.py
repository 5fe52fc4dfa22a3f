"""What algorithms of one kind share: policies with a value function, off-policy actors and critics, and the lines that
several pages would write alike.

A family holds what isn't an algorithm's own; a page overrides nothing of it silently, and names it where it stands in
for lines of the pseudo-code.
Shapes: S seeds, T steps, B environments or minibatch, N = T·B samples; scalars `(S, N)` or `(S, B)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Members, Metrics, NoiseSpec, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.build import NetworkFactory
from deeprl_cli.nets.modules import PLAIN, PolicyStart
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.distributions import Distribution, PolicyHead
from deeprl_cli.rl.exploration import Exploration, ExplorationConfig, SDEConfig, StateDependentNoise
from deeprl_cli.rl.noise import Noise, normal
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import REDUCTIONS, AdvantageEstimator, mean
from deeprl_cli.rl.targets import PolyakConfig, critic_losses, q_values
from deeprl_cli.rl.values import Number, spread
from deeprl_cli.schema.run import AlgoConfig, NetworkConfig, SubepisodeConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat

# --- policies with a value function ---------------------------------------------------------------------------------


@dataclass(kw_only=True)
class PolicyOptions:
    """How a policy's network starts, and explores continuous actions. Empty slots: as of AdvantageOptions."""

    __slots__ = ()
    orthogonal: bool
    log_std_init: PerMember[float]
    sde: SDEConfig


class PolicyGradient(Algorithm):
    """An algorithm that learns a distribution over actions of any kind, π, and may learn a state value V̂ beside it.

    Its networks are `model` where they are `joint`, else `actor` (θ) and, with V̂, `critic` (w).
    """

    action_spaces = (Discrete, Box, MultiDiscrete, MultiBinary)
    has_critic = True
    actor: Stacked
    critic: Stacked
    model: Stacked
    advantage: AdvantageEstimator  # of those that learn from rollouts or sub-episodes with V̂

    def __init__(self, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.head = PolicyHead(spec.action_space)
        self.start = PLAIN
        if isinstance(config, PolicyOptions):
            self.start = PolicyStart(config.log_std_init, config.orthogonal, config.sde.enabled)

    @classmethod
    def check(cls, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec) -> None:
        super().check(config, network, spec)
        if isinstance(config, PolicyOptions):
            check_sde(config, config.sde, network, spec)

    def make_actor(self) -> Stacked:
        head, make, start = self.head, self.make_network, self.start
        return self.explores(
            Stacked(lambda: make.policy(head.size, log_std=head.has_log_std, start=start), self.seeds, name="actor")
        )

    def make_critic(self) -> Stacked:
        gain = 1.0 if self.start.orthogonal else None
        return Stacked(lambda: self.make_network(1, head_gain=gain, critic=True), self.seeds, name="critic")

    def make_actor_critic(self) -> Stacked:
        head, make, start = self.head, self.make_network, self.start
        return self.explores(
            Stacked(
                lambda: make.actor_critic(head.size, log_std=head.has_log_std, start=start), self.seeds, name="model"
            )
        )

    def explores(self, network: Stacked) -> Stacked:
        """The policy's network, with what its exploration needs to remember."""
        if isinstance(self.config, PolicyOptions) and self.head.has_log_std:
            starts_at(network, self.hp.log_std_init)
        if isinstance(self.config, PolicyOptions) and self.start.sde:
            self.state_noise = StateDependentNoise(
                len(self.seeds), self.config.num_envs, network.shapes["log_std"], self.config.sde.sample_every
            )
        return network

    @property
    def act_noise(self) -> Noise:
        """What an action takes."""
        return normal(*self.state_noise.matrix.shape[2:]) if self.start.sde else self.head.noise

    def noise_spec(self) -> NoiseSpec:
        return NoiseSpec(act=self.act_noise, step={})

    def policy(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Distribution:
        """π(s, ·) for obs `(S, B, *obs)`; `params` (from `views()`) to differentiate with respect to."""
        return self.head(
            self.model(obs, params=params, part="policy") if self.joint else self.actor(obs, params=params)
        )

    def value(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """V̂(s), `(S, B)`"""
        if self.joint:
            return self.model(obs, params=params, part="value")
        return self.critic(obs, params=params).squeeze(-1)

    def state_value(self, obs: Tensor) -> Tensor | None:
        with torch.no_grad():
            return self.value(obs) if self.joint or hasattr(self, "critic") else None

    def advantages(self, rollout: Transition, value: Tensor, next_value: Tensor) -> Tensor:
        """Â of the steps of a rollout `(S, T, B)`, from V̂(s_t) and V̂(s_{t+1}), all three `(S, N)` with N = T·B."""
        value, next_value = (v.unflatten(1, rollout.reward.shape[1:]) for v in (value, next_value))
        gamma, lam = self.hp.gamma, getattr(self.hp, "gae_lambda", 1.0)
        ends = rollout.terminated, rollout.ended
        return self.advantage(rollout.reward, value, next_value, *ends, gamma, lam).flatten(1)

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """a ~ π(s, ·), or the most likely one; under state-dependent exploration μ(s) + φ(s)ᵀW, `noise` then
        `(S, B, F, A)`."""
        with torch.no_grad():
            if noise is not None and self.start.sde:
                network = self.model if self.joint else self.actor
                mean, features = network(obs, part="explore").tensor_split([noise.shape[-1]], -1)
                noisy: Tensor = mean + self.state_noise(features, network.views()["log_std"], noise)
                return noisy
            pi = self.policy(obs)
        return pi.mode() if noise is None else pi.sample(noise)


@torch.no_grad()
def starts_at(network: Stacked, log_std: Number) -> None:
    """Each member's policy starts with its own log σ."""
    view = network.views()["log_std"]
    view.copy_(torch.as_tensor(spread(log_std, view)).expand_as(view))


def check_sde(config: AlgoConfig, sde: SDEConfig, network: NetworkConfig, spec: EnvSpec) -> None:
    """Raise ConfigError where nothing can be explored by state-dependent noise."""
    if not sde.enabled:
        return
    if not isinstance(spec.action_space, Box):
        raise ConfigError(
            f"algo.sde.enabled=true is noise on continuous actions, and {spec.id} has "
            f"{type(spec.action_space).__name__} ones: use algo.sde.enabled=false"
        )
    NetworkFactory(spec.observation_space, network, config.hidden, config.activation).check_hidden_features()


@dataclass(kw_only=True, slots=True)
class SubepisodeActorCriticConfig(SubepisodeConfig):
    lr: PerMember[PositiveFloat]
    reduction: Literal["mean", "sum"]
    vf_coef: PerMember[NonNegativeFloat]
    ent_coef: PerMember[NonNegativeFloat]


class SubepisodeActorCritic(PolicyGradient):
    """Deck Algorithm 6 but for what R is: one network of θ and w, and a gradient step from each batch of
    sub-episodes, whatever plays them."""

    joint = True
    config: SubepisodeActorCriticConfig

    def __init__(
        self, config: SubepisodeActorCriticConfig, network: NetworkConfig, spec: EnvSpec, members: Members
    ) -> None:
        super().__init__(config, network, spec, members)
        self.model = self.make_actor_critic()  # θ and w
        self.optimiser = Optimiser(config, self.hp, "lr", [self.model.flat])
        self.reduce = REDUCTIONS[config.reduction]

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        return self.step(rollout)

    def step(self, rollout: Transition) -> Metrics:
        """Lines 9–14 of Algorithm 6."""
        raise NotImplementedError

    def learn(
        self, gain: Tensor, fit: Tensor, entropy: Tensor, theta: dict[str, Tensor], weight: Tensor
    ) -> dict[str, Tensor]:
        """Line 14, update w and θ using δ_w and δ_θ: up the `gain` and the `entropy` `(S, N)`, down the `fit`. A seed
        that has done its share of the run (all weights 0) stands still."""
        loss = -gain + self.hp.vf_coef * fit - self.hp.ent_coef * self.reduce(entropy, weight)
        norm = self.optimiser.step([self.model.gradients(loss, theta)], weight.sum(1) > 0)
        return {
            "loss/policy": -gain.detach(),
            "loss/value": fit.detach(),
            "policy/entropy": mean(entropy.detach(), weight),
            "optim/grad_norm": norm,
        }


# --- from a replay memory -------------------------------------------------------------------------------------------


class OffPolicy(Algorithm):
    """An algorithm that learns from minibatches of a replay memory."""

    loop = "replay"
    config: PolyakConfig

    def __init__(self, config: PolyakConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.hp.put("keep", [own.keep for own in self.configs])  # ρ, by whichever name it was given

    def update(self, minibatches: Iterable[Transition], noise: Iterable[Mapping[str, Tensor]]) -> Metrics:
        """For a number of gradient steps: sample a minibatch {⟨s_i, a_i, r_i, s_i'⟩ | i = 1, …}, and learn from it."""
        return average([self.step(batch, xi) for batch, xi in zip(minibatches, noise, strict=False)])

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """One gradient step from one minibatch `(S, B, …)`."""
        raise NotImplementedError


@dataclass(kw_only=True, slots=True)
class OffPolicyActorCriticConfig(PolyakConfig):
    lr_actor: PerMember[PositiveFloat]
    lr_critic: PerMember[PositiveFloat]
    exploration: ExplorationConfig

    def validate(self) -> None:
        PolyakConfig.validate(self)
        self.exploration.validate()


class OffPolicyActorCritic(OffPolicy):
    """One that learns a policy of bounded continuous actions from critics, Q̂_j(s, a)."""

    action_spaces = (Box,)
    bounded_actions = True
    has_critic = True
    config: OffPolicyActorCriticConfig
    actor: Stacked
    critic: Stacked
    critic_optimiser: Optimiser
    exploration: Exploration

    def __init__(
        self, config: OffPolicyActorCriticConfig, network: NetworkConfig, spec: EnvSpec, members: Members
    ) -> None:
        super().__init__(config, network, spec, members)
        (self.size,) = spec.action_space.shape or ()  # A, the action's dimensions

    def fit_critics(self, batch: Transition, y: Tensor) -> Metrics:
        """Each critic a step down 1/N Σ (y_i − Q̂_j(s_i, a_i))²; its gradient is −2/N Σ (y_i − Q̂_j(s_i, a_i)) ∇Q̂_j."""
        w = self.critic.views()
        q = q_values(self.critic, batch.obs, batch.action, w)
        loss = critic_losses(q, y, batch.weight)
        norm = self.critic_optimiser.step([self.critic.gradients(loss, w)])
        return {
            "loss/critic": loss.detach(),
            "q/mean": mean(q.detach().mean(1), batch.weight),
            "q/target_mean": mean(y, batch.weight),
            "optim/critic_grad_norm": norm,
        }

    def expected_return(self, obs: Tensor) -> Tensor:
        """min_j Q̂_j(s, π(s)); of a soft Q̂ what its entropy is worth is part of it."""
        with torch.no_grad():
            return q_values(self.critic, obs, self.act_eagerly(obs, None)).amin(1)


class DeterministicActorCritic(OffPolicyActorCritic):
    """One whose policy is π(s) = tanh(network), with exploration on top of it."""

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
