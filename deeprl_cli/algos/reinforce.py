"""REINFORCE with baseline (deck Algorithm 1; Williams 1992; Sutton & Barto 2018, 13.4).

Shapes: S seeds, T steps of the longest episode, B episodes, N samples of a step: T·B, or the B of one time t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, Transition, at_time, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.families import PolicyGradient
from deeprl_cli.rl.objectives import VALUE_ERRORS
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import REDUCTIONS, explained_variance, mean, normalise, reverse_scan
from deeprl_cli.rl.values import spread
from deeprl_cli.schema.run import EpisodeConfig, NetworkConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat, PositiveInt

TYPICAL_LENGTH = 200  # steps of an episode, for guessing the work of a run


@dataclass(kw_only=True, slots=True)
class ReinforceConfig(EpisodeConfig):
    episodes_per_update: PositiveInt
    update: Literal["episode", "per_step"]
    lr_actor: PerMember[PositiveFloat]
    lr_critic: PerMember[PositiveFloat]
    gamma_t: bool
    baseline: Literal["value", "mean", "none"]
    tail: Literal["bootstrap", "zero"]
    normalize_advantage: bool
    reduction: Literal["mean", "sum"]
    loss: Literal["half_mse", "mse"]
    ent_coef: PerMember[NonNegativeFloat]

    @property
    def episodes_per_env(self) -> int:
        return self.episodes_per_update // self.num_envs

    def validate(self) -> None:
        if self.episodes_per_update % self.num_envs:
            fitting = max(self.episodes_per_update // self.num_envs, 1) * self.num_envs
            raise ConfigError(
                f"algo.num_envs={self.num_envs} doesn't divide algo.episodes_per_update={self.episodes_per_update}: "
                f"give algo.episodes_per_update={fitting}, or fewer environments"
            )
        if self.update == "per_step" and self.normalize_advantage:
            raise ConfigError(
                "algo.update=per_step has no batch to normalise over: give algo.normalize_advantage=false"
            )

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        if self.update == "per_step":
            return self.episodes_per_update, total_steps / self.episodes_per_update
        samples = self.episodes_per_update * TYPICAL_LENGTH
        return samples, total_steps / samples


class Samples(NamedTuple):
    """⟨s_t, a_t, R_t, γ^t, b, weight⟩, `(S, T, B, …)`; b is the baseline where it isn't V̂."""

    obs: Tensor
    action: Tensor
    returns: Tensor
    discount: Tensor
    baseline: Tensor
    weight: Tensor


class Reinforce(PolicyGradient):
    """Monte Carlo policy gradient from whole episodes, with a learned baseline (any actions)."""

    loop = "episodes"
    reference = "deck Algorithm 1"
    Config = ReinforceConfig
    config: ReinforceConfig

    def __init__(self, config: ReinforceConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.actor = self.make_actor()  # θ
        self.critic = self.make_critic()  # w
        self.actor_optimiser = Optimiser(config, self.hp, "lr_actor", [self.actor.flat])
        self.critic_optimiser = Optimiser(config, self.hp, "lr_critic", [self.critic.flat])
        self.reduce, self.error = REDUCTIONS[config.reduction], VALUE_ERRORS[config.loss]

    def update(self, episodes: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Algorithm 1 for the episodes generated: t by t (`per_step`, the deck's), or all of them in one step."""
        samples = self.gather(episodes)
        if self.config.update == "episode":
            return self.step(Samples(*(x.flatten(1, 2) for x in samples)))
        playing = samples.weight.any(-1)  # (S, T): whether any of a seed's episodes lasts until t
        length = max(int(playing.any(0).sum()), 1)
        steps = [self.step(at_time(samples, t)) for t in range(length)]  # foreach t = 0, …, T−1      (line 3)
        return average(steps, list(playing.unbind(1))[:length])

    def gather(self, episodes: Transition) -> Samples:  # no graph: once an update, and of many padded lengths
        """R_t = Σ_{k=1}^{T−t} γ^{k−1} r_{t+k} (line 4); `tail=bootstrap` adds γ^{T−t}V̂(s_T) where a time limit cut."""
        reward, d, weight = episodes.reward, episodes.terminated, episodes.weight
        e, gamma = episodes.ended, spread(self.hp.gamma, reward)
        if self.config.tail == "bootstrap":
            with torch.no_grad():
                next_value = self.value(episodes.next_obs.flatten(1, 2)).unflatten(1, reward.shape[1:])
            reward = reward + gamma * (1 - d) * e * next_value
        returns = reverse_scan(reward, gamma * (1 - e))
        t = torch.arange(reward.shape[1], device=reward.device).view(1, -1, 1)
        discount = (gamma**t if self.config.gamma_t else torch.ones_like(t)).expand_as(reward).float()
        baseline = torch.zeros_like(returns)
        if self.config.baseline == "mean":
            baseline = mean(returns.flatten(1), weight.flatten(1)).view(-1, 1, 1).expand_as(returns)
        return Samples(episodes.obs, episodes.action, returns, discount, baseline, weight)

    def step(self, b: Samples) -> Metrics:
        """Lines 5–7 of Algorithm 1 for samples `(S, N, …)`: both updates use δ from w as it was before them."""
        theta, w = self.actor.views(), self.critic.views()
        pi, value = self.policy(b.obs, theta), self.value(b.obs, w)
        baseline = value.detach() if self.config.baseline == "value" else b.baseline
        delta = b.returns - baseline  # δ ← R_t − V̂(s_t)                                              (line 5)
        if self.config.normalize_advantage:
            delta = normalise(delta, b.weight)

        fit = self.reduce(self.error(value, b.returns), b.weight)  # descends: w + α_w δ∇V̂(s_t)       (line 6)
        gain = self.reduce(b.discount * delta * pi.log_prob(b.action), b.weight)  # θ + α_θ γ^t δ∇ln π (line 7)
        entropy = pi.entropy()
        loss = -gain - self.hp.ent_coef * self.reduce(entropy, b.weight)

        active = b.weight.sum(1) > 0  # a seed whose episodes are over stands still
        critic_norm = self.critic_optimiser.step([self.critic.gradients(fit, w)], active)
        actor_norm = self.actor_optimiser.step([self.actor.gradients(loss, theta)], active)
        return {
            "loss/policy": -gain.detach(),
            "loss/value": fit.detach(),
            "policy/entropy": mean(entropy.detach(), b.weight),
            "value/explained_variance": explained_variance(value.detach(), b.returns, b.weight),
            "optim/actor_grad_norm": actor_norm,
            "optim/critic_grad_norm": critic_norm,
        }
