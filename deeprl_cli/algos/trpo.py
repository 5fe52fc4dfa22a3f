"""Trust region policy optimisation (Schulman et al. 2015; deck, "KL-Regularization I": the divergence as a constraint).

Shapes: S seeds, T steps, B environments, N = T·B samples of a rollout, M a minibatch of them; scalars `(S, N)`;
parameters and directions of the policy `(S, P)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Metrics, NoiseSpec, Transition, average, take
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.distributions import Distribution, PolicyHead
from deeprl_cli.rl.natural_gradient import conjugate_gradient, dot, line_search
from deeprl_cli.rl.noise import permutation
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import explained_variance, gae, mean, normalise
from deeprl_cli.schema import NetworkConfig, NonNegativeFloat, PositiveFloat, PositiveInt, RolloutConfig, UnitInterval


@dataclass(kw_only=True, slots=True)
class TRPOConfig(RolloutConfig):
    gae_lambda: UnitInterval
    normalize_advantage: bool
    target_kl: PositiveFloat
    cg_iterations: PositiveInt
    cg_damping: NonNegativeFloat
    backtrack_steps: PositiveInt
    backtrack_ratio: UnitInterval
    lr_critic: PositiveFloat
    batch_size: PositiveInt
    epochs: PositiveInt

    def validate(self) -> None:
        self.check_minibatches(self.batch_size)
        if self.backtrack_ratio in (0, 1):
            raise ConfigError(
                f"algo.backtrack_ratio={self.backtrack_ratio:g} doesn't shorten a step that goes too far: give one "
                "between 0 and 1, algo.backtrack_ratio=0.8"
            )

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        return self.batch_size, self.epochs * total_steps / self.batch_size


class Samples(NamedTuple):
    """What a rollout taught, `(S, N, …)`: `pi` are the parameters of π(s, ·), which drew the actions."""

    obs: Tensor
    action: Tensor
    pi: Tensor
    log_p: Tensor
    advantage: Tensor
    weight: Tensor


class Targets(NamedTuple):
    """What the critic fits, `(S, N, …)`."""

    obs: Tensor
    returns: Tensor
    weight: Tensor


class TRPO(Algorithm):
    """On-policy actor-critic: a natural-gradient step to the rim of a trust region, shortened until it holds (any
    actions)."""

    loop = "rollout"
    action_spaces = (Discrete, Box, MultiDiscrete, MultiBinary)
    graphs = ("act", "gather_experience", "gradient", "fisher", "step", "fit_value")
    reference = "Schulman et al. 2015"
    Config = TRPOConfig
    config: TRPOConfig

    def __init__(self, config: TRPOConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__(config, network, spec, seeds)
        head, make = PolicyHead(spec.action_space), self.make_network
        self.head = head
        self.actor = Stacked(lambda: make.policy(head.size, log_std=head.has_log_std), seeds, name="actor")  # θ
        self.critic = Stacked(lambda: make(1, head_gain=1.0), seeds, name="critic")  # w
        self.optimiser = Optimiser(config, config.lr_critic, [self.critic.flat])

    @classmethod
    def check(cls, config: TRPOConfig, network: NetworkConfig, spec: EnvSpec) -> None:  # type: ignore[override]
        super().check(config, network, spec)
        if getattr(network, "share", False):
            raise ConfigError(
                f"network.share=true: algo={config.name} moves policy and value by methods of their own, so they share "
                "no layers: use network.share=false"
            )

    def noise_spec(self) -> NoiseSpec:
        order = permutation(self.config.epochs, self.config.samples_per_update)
        return NoiseSpec(act=self.head.noise, step={"order": order})

    def policy(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Distribution:
        """π_θ(s, ·)"""
        return self.head(self.actor(obs, params=params))

    def value(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """V̂(s), `(S, B)`"""
        return self.critic(obs, params=params).squeeze(-1)

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            pi = self.policy(obs)
        return pi.mode() if noise is None else pi.sample(noise)

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """max_θ L(θ) subject to mean KL ≤ δ, L taken to first order and KL to second (eq. 14, appendix C); then several
        epochs of the value's steps, for which `order` `(S, epochs, N)` shuffles the samples."""
        samples, targets, metrics = self.gather_experience(rollout)
        g = self.gradient(samples)
        x = conjugate_gradient(lambda v: self.fisher(samples, v), g, self.config.cg_iterations)  # H⁻¹g
        stepped = self.step(samples, x, self.fisher(samples, x))
        fits = [
            self.fit_value(targets, minibatch)
            for epoch in noise["order"].unbind(1)
            for minibatch in epoch.split(self.config.batch_size, 1)
        ]
        return {**metrics, **stepped, **average(fits), "optim/actor_grad_norm": dot(g, g).sqrt()}

    def gather_experience(self, rollout: Transition) -> tuple[Samples, Targets, Metrics]:
        """Old policy and log-probabilities, Â and R̂ = Â + V̂, once, before anything moves."""
        c = self.config
        obs, action, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        steps = rollout.reward.shape[1:]
        with torch.no_grad():
            pi = self.actor(obs)
            value = self.value(obs).unflatten(1, steps)
            next_value = self.value(rollout.next_obs.flatten(1, 2)).unflatten(1, steps)
        ended = torch.maximum(rollout.terminated, rollout.truncated)
        advantage = gae(rollout.reward, value, next_value, rollout.terminated, ended, c.gamma, c.gae_lambda)
        returns = (advantage + value).flatten(1)
        a_hat = normalise(advantage.flatten(1), weight) if c.normalize_advantage else advantage.flatten(1)
        samples = Samples(obs, action, pi, self.head(pi).log_prob(action), a_hat, weight)
        metrics = {"value/explained_variance": explained_variance(value.flatten(1), returns, weight)}
        return samples, Targets(obs, returns, weight), metrics

    def gradient(self, samples: Samples) -> Tensor:
        """g = ∇L(θ)"""
        theta = self.actor.views()
        return self.actor.gradients(self.surrogate(samples, theta)[0], theta)

    def fisher(self, samples: Samples, v: Tensor) -> Tensor:
        """Hv, H the Hessian of the mean KL: ∇(∇KL · v). Damping, times v, keeps H positive definite."""
        theta = self.actor.views()
        kl_gradient = self.actor.gradients(self.surrogate(samples, theta)[1], theta, create_graph=True)
        return self.actor.gradients(dot(kl_gradient, v), theta) + self.config.cg_damping * v

    def step(self, samples: Samples, x: Tensor, hx: Tensor) -> Metrics:
        """As far along x = H⁻¹g as the trust region goes, and back until it holds and L has risen (appendix C)."""
        c = self.config

        def after(step: Tensor) -> tuple[Tensor, Tensor]:
            return self.surrogate(samples, self.actor.views(self.actor.flat + step))[:2]

        with torch.no_grad():
            full_step = (2 * c.target_kl / dot(x, hx)).sqrt().unsqueeze(-1) * x  # ½ stepᵀH step = δ
            before = self.surrogate(samples, self.actor.views())[0]
            scale = line_search(after, full_step, before, c.target_kl, c.backtrack_ratio, c.backtrack_steps)
            # a step of which no share is taken may hold NaN, which no multiplication by zero removes
            self.actor.flat.add_(torch.where(scale > 0, scale, 0.0).unsqueeze(-1) * full_step.nan_to_num())
            surrogate, kl, entropy = self.surrogate(samples, self.actor.views())
        return {"loss/policy": -surrogate, "policy/kl": kl, "policy/entropy": entropy, "policy/line_search": scale}

    def surrogate(self, samples: Samples, theta: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(L(θ) = mean ρÂ, mean KL[π_θ ‖ π], mean entropy), each `(S,)`; to second order KL[π ‖ π_θ] is the same."""
        pi, old = self.policy(samples.obs, theta), self.head(samples.pi)
        ratio = (pi.log_prob(samples.action) - samples.log_p).exp()
        terms = (ratio * samples.advantage, pi.kl(old), pi.entropy())
        surrogate, kl, entropy = (mean(term, samples.weight) for term in terms)
        return surrogate, kl, entropy

    def fit_value(self, targets: Targets, minibatch: Tensor) -> Metrics:
        """(V̂ − R̂)² over one minibatch, given by its indices `(S, M)`."""
        b, w = take(targets, minibatch), self.critic.views()
        loss = mean((self.value(b.obs, w) - b.returns).square(), b.weight)
        norm = self.optimiser.step([self.critic.gradients(loss, w)])
        return {"loss/value": loss.detach(), "optim/critic_grad_norm": norm}
