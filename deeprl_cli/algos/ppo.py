"""Proximal policy optimisation (deck Algorithm 8; Schulman et al. 2017), clipped objective, GAE, entropy bonus.

Shapes: S seeds, T steps, B environments, N = T·B samples of a rollout, M a minibatch of them; scalars `(S, N)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Metrics, NoiseSpec, Transition, average, take
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.distributions import Distribution, PolicyHead
from deeprl_cli.rl.noise import permutation
from deeprl_cli.rl.objectives import clip_objective
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import explained_variance, gae, mean, normalise
from deeprl_cli.schema import NetworkConfig, NonNegativeFloat, PositiveFloat, PositiveInt, RolloutConfig, UnitInterval


@dataclass(kw_only=True, slots=True)
class PPOConfig(RolloutConfig):
    lr: PositiveFloat
    batch_size: PositiveInt
    epochs: PositiveInt
    gae_lambda: UnitInterval
    clip_eps: PositiveFloat
    clip_schedule: Literal["constant", "linear"]
    ent_coef: NonNegativeFloat
    vf_coef: NonNegativeFloat
    normalize_advantage: bool
    target_kl: PositiveFloat | None

    def validate(self) -> None:
        self.check_minibatches(self.batch_size)

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        return self.batch_size, self.epochs * total_steps / self.batch_size


class Samples(NamedTuple):
    """The experience buffer M: ⟨s, a, log p, R̂, Â⟩ of line 12, `(S, N, …)`, and the weight of each sample."""

    obs: Tensor
    action: Tensor
    log_p: Tensor
    returns: Tensor
    advantage: Tensor
    weight: Tensor


class PPO(Algorithm):
    """On-policy actor-critic whose clipped objective allows several epochs over each rollout (any actions)."""

    loop = "rollout"
    action_spaces = (Discrete, Box, MultiDiscrete, MultiBinary)
    graphs = ("act", "gather_experience", "step")
    reference = "deck Algorithm 8"
    Config = PPOConfig
    config: PPOConfig
    active: Tensor
    clip_eps: Tensor

    def __init__(self, config: PPOConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__(config, network, spec, seeds)
        head = PolicyHead(spec.action_space)
        self.head = head
        make = self.make_network
        self.model = Stacked(lambda: make.actor_critic(head.size, log_std=head.has_log_std), seeds, name="model")
        self.optimiser = Optimiser(config, config.lr, [self.model.flat])
        self.register_buffer("clip_eps", torch.full((len(seeds),), config.clip_eps))
        self.register_buffer("active", torch.ones(len(seeds), dtype=torch.bool))  # seeds that target_kl hasn't stopped

    def noise_spec(self) -> NoiseSpec:
        order = permutation(self.config.epochs, self.config.rollout_length * self.config.num_envs)
        return NoiseSpec(act=self.head.noise, step={"order": order})

    def set_progress(self, steps: int, horizon: int) -> None:
        super().set_progress(steps, horizon)
        if self.config.clip_schedule == "linear":
            self.clip_eps.fill_(self.config.clip_eps * max(1.0 - steps / horizon, 0.0))

    def policy(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Distribution:
        """π_θ'(s, ·)"""
        return self.head(self.model(obs, params=params, part="policy"))

    def value(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """V̂(s), `(S, B)`"""
        return self.model(obs, params=params, part="value")

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            pi = self.policy(obs)
        return pi.mode() if noise is None else pi.sample(noise)

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Algorithm 8, lines 4–8; `order` `(S, epochs, N)` shuffles the samples for every epoch."""
        samples, metrics = self.gather_experience(rollout)
        self.active.fill_(True)
        steps: list[Metrics] = []
        counts: list[Tensor] = []  # which seeds learn from a step: target_kl stops each by itself
        for epoch in noise["order"].unbind(1):
            for minibatch in epoch.split(self.config.batch_size, 1):
                if self.config.target_kl is not None:
                    counts.append(self.active.clone())
                steps.append(self.step(samples, minibatch))
            if self.config.target_kl is not None and not self.active.any():
                break
        return {**metrics, **average(steps, counts)}

    def gather_experience(self, rollout: Transition) -> tuple[Samples, Metrics]:
        """Procedure "Gather experience": old log-probabilities, Â and R̂ = Â + V̂, once, before any update."""
        obs, action, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        steps = rollout.reward.shape[1:]
        with torch.no_grad():
            log_p = self.policy(obs).log_prob(action)  # p = π'(s, a), 'old' probabilities      (line 5)
            value = self.value(obs).unflatten(1, steps)
            next_value = self.value(rollout.next_obs.flatten(1, 2)).unflatten(1, steps)
        ended = torch.maximum(rollout.terminated, rollout.truncated)
        advantage = gae(
            rollout.reward, value, next_value, rollout.terminated, ended, self.config.gamma, self.config.gae_lambda
        )
        returns = (advantage + value).flatten(1)  # (lines 9–10)
        samples = Samples(obs, action, log_p, returns, advantage.flatten(1), weight)
        return samples, {"value/explained_variance": explained_variance(value.flatten(1), returns, weight)}

    def step(self, samples: Samples, minibatch: Tensor) -> Metrics:
        """One minibatch B of M, given by its indices `(S, M)`: lines 6–8."""
        b = take(samples, minibatch)
        theta = self.model.views()
        pi, value = self.policy(b.obs, theta), self.value(b.obs, theta)
        log_ratio = pi.log_prob(b.action) - b.log_p
        advantage = normalise(b.advantage, b.weight) if self.config.normalize_advantage else b.advantage

        eps = self.clip_eps.unsqueeze(-1)
        clip = mean(clip_objective(log_ratio.exp(), advantage, eps), b.weight)
        fit = mean((value - b.returns).square(), b.weight)  # procedure "Fit value function"
        entropy = mean(pi.entropy(), b.weight)
        loss = -clip + self.config.vf_coef * fit - self.config.ent_coef * entropy

        with torch.no_grad():
            ratio = log_ratio.exp()
            kl = mean(ratio - 1 - log_ratio, b.weight)  # k3 with r = π'/π, its expectation under π: KL[π ‖ π']
            clipped = mean(((ratio - 1).abs() > eps).float(), b.weight)
            if self.config.target_kl is not None:
                self.active.logical_and_(kl <= 1.5 * self.config.target_kl)
        norm = self.optimiser.step([self.model.gradients(loss, theta)], self.active)
        return {
            "loss/policy": -clip.detach(),
            "loss/value": fit.detach(),
            "policy/entropy": entropy.detach(),
            "policy/kl": kl,
            "policy/clip_fraction": clipped,
            "optim/grad_norm": norm,
        }
