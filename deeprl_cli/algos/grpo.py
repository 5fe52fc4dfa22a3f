"""Group relative policy optimisation (deck, "GRPO"; Shao et al. 2024, eq. 3 and 4; its options as in TRL).

A question is an environment's reset; G environments answer the same one, and an answer is worth what it earns beyond
the group's mean: no critic. That takes whole episodes and gives every step of one the same credit, so that beyond
short episodes PPO is the better choice. The return is that of a finite horizon: a time limit is an end like any other.

Shapes: S seeds, T steps of the longest episode (weight 0 behind each end), B episodes, groups of G of them in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.families import PolicyGradient
from deeprl_cli.rl.groups import AGGREGATIONS, ReferenceConfig, group_advantage, returns
from deeprl_cli.rl.kl import ESTIMATORS, k3
from deeprl_cli.rl.objectives import clip_objective
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.values import spread
from deeprl_cli.schema.run import EpisodeConfig, NetworkConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat, PositiveInt

TYPICAL_LENGTH = 16  # steps of an episode, where only the order of magnitude matters


@dataclass(kw_only=True, slots=True)
class GRPOConfig(EpisodeConfig):
    lr: PerMember[PositiveFloat]
    group_size: PositiveInt
    group_noise: Literal["common", "independent"]
    adv_norm: Literal["group_std", "none"]
    updates: PositiveInt
    clip_eps: PerMember[PositiveFloat]
    aggregation: Literal["token", "sequence", "constant"]
    kl: ReferenceConfig
    ref_sync_every: PositiveInt | None
    ent_coef: PerMember[NonNegativeFloat]

    @property
    def episodes_per_env(self) -> int:
        return 1

    def validate(self) -> None:
        if self.num_envs % self.group_size:
            more = -(-self.num_envs // self.group_size) * self.group_size
            raise ConfigError(
                f"algo.num_envs={self.num_envs} episodes don't make whole groups of algo.group_size={self.group_size}: "
                f"give algo.num_envs={more}"
            )
        if self.group_size == 1:
            raise ConfigError("algo.group_size=1 leaves nothing to compare an episode with: give algo.group_size=8")
        self.kl.validate()
        if self.ref_sync_every is not None and not self.kl.coef:
            raise ConfigError(
                f"algo.ref_sync_every={self.ref_sync_every} moves a reference that nothing is held to: give "
                "algo.kl.coef=0.04, or leave it out"
            )

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        samples = self.num_envs * TYPICAL_LENGTH
        return samples, self.updates * total_steps / samples


class Answers(NamedTuple):
    """A batch of episodes: ⟨s, a, log π, Â⟩ `(S, T, B, …)`, the reference's outputs, and the weight of each step."""

    obs: Tensor
    action: Tensor
    log_p: Tensor
    advantage: Tensor
    ref: Tensor | None
    weight: Tensor


class GRPO(PolicyGradient):
    """Policy optimisation without a critic: episodes against the mean of their group (any actions)."""

    loop = "episodes"
    has_critic = False
    graphs = ("act", "gather_experience", "step")
    reference = 'deck, "GRPO"'
    Config = GRPOConfig
    config: GRPOConfig
    batches: Tensor

    def __init__(self, config: GRPOConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.actor = self.make_actor()  # π'
        self.actor_ref = self.actor.target()  # π_ref: the policy at the start, or of the last `ref_sync_every`
        self.optimiser = Optimiser(config, self.hp, "lr", [self.actor.flat])
        self.estimate_kl, self.aggregate = ESTIMATORS[config.kl.estimator], AGGREGATIONS[config.aggregation]
        self.register_buffer("batches", torch.zeros(len(members)))  # that each seed has learned from

    def update(self, episodes: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """μ steps over one batch of groups; a seed that has none stands still."""
        active = episodes.weight.flatten(1).any(1)
        answers, metrics = self.gather_experience(episodes)
        metrics |= average([self.step(answers, active) for _ in range(self.config.updates)])
        self.batches.add_(active)
        if self.config.ref_sync_every is not None:
            due = active & (self.batches % self.config.ref_sync_every == 0)
            self.actor_ref.flat.copy_(torch.where(due.unsqueeze(-1), self.actor.flat, self.actor_ref.flat))
        return metrics

    def gather_experience(self, episodes: Transition) -> tuple[Answers, Metrics]:
        """Old log-probabilities, the reference's and Â, once, before any update."""
        steps = episodes.reward.shape[1:]
        obs, action = episodes.obs.flatten(1, 2), episodes.action.flatten(1, 2)
        with torch.no_grad():
            log_p = self.policy(obs).log_prob(action).unflatten(1, steps)
            ref = self.actor_ref(obs) if self.config.kl.coef else None
        groups = returns(episodes.reward, episodes.weight, self.hp.gamma).unflatten(1, (-1, self.config.group_size))
        advantage, same = group_advantage(groups, self.config.adv_norm == "group_std")
        # copied to every step of the episode
        spread = advantage.flatten(1).unsqueeze(1).expand_as(episodes.reward)
        return Answers(obs, action, log_p, spread, ref, episodes.weight), {"grpo/zero_variance_groups": same.mean(-1)}

    def step(self, answers: Answers, active: Tensor) -> Metrics:
        """−mean[min(ρÂ, clip(ρ, 1 − ε, 1 + ε)Â) − β·KL[π' ‖ π_ref]], descending  (eq. 3)"""
        a, c, hp = answers, self.config, self.hp
        steps = a.weight.shape[1:]
        theta = self.actor.views()
        pi = self.policy(a.obs, theta)
        log_ratio = pi.log_prob(a.action).unflatten(1, steps) - a.log_p
        ratio = log_ratio.exp()
        eps = torch.ones_like(ratio[:, :1, :1]) * spread(hp.clip_eps, ratio)

        clip = self.aggregate(clip_objective(ratio, a.advantage, eps), a.weight)
        entropy = self.aggregate(pi.entropy().unflatten(1, steps), a.weight)
        loss = -clip - hp.ent_coef * entropy
        metrics = {"loss/policy": -clip.detach(), "policy/entropy": entropy.detach()}
        if a.ref is not None:
            divergence = self.estimate_kl(pi, self.head(a.ref), a.action).unflatten(1, steps)  # k3: eq. 4
            kl = self.aggregate(divergence * ratio if c.kl.importance_weight else divergence, a.weight)
            loss = loss + hp.kl_coef * kl
            metrics["policy/kl_ref"] = kl.detach()
        norm = self.optimiser.step([self.actor.gradients(loss, theta)], active)

        weight = a.weight.flatten(1)
        with torch.no_grad():
            outside = ((ratio - 1).abs() > eps).float().flatten(1)
            old_kl = k3(log_ratio.flatten(1))  # r = π'/π, its expectation under π: KL[π ‖ π']
        return metrics | {
            "policy/kl": mean(old_kl, weight),
            "policy/clip_fraction": mean(outside, weight),
            "optim/grad_norm": norm,
        }
