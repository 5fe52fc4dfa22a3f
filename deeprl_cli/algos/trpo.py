"""Trust region policy optimisation (Schulman et al. 2015; deck, "KL-Regularization I": the divergence as a constraint).

Shapes: S seeds, T steps, B environments, N = T·B samples of a rollout, M a minibatch of them; scalars `(S, N)`;
parameters and directions of the policy `(S, P)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, NoiseSpec, Transition, average, take
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.families import PolicyGradient, PolicyOptions
from deeprl_cli.processes import ranks
from deeprl_cli.rl.natural_gradient import conjugate_gradient, dot, line_search
from deeprl_cli.rl.noise import permutation
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import AdvantageOptions, advantage_estimator, explained_variance, mean, normalise
from deeprl_cli.rl.values import Number, spread
from deeprl_cli.schema.run import NetworkConfig, RolloutConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat, PositiveInt, UnitInterval


@dataclass(kw_only=True, slots=True)
class TRPOConfig(AdvantageOptions, PolicyOptions, RolloutConfig):
    max_kl: PerMember[PositiveFloat]
    sub_sampling: PositiveInt
    cg_iterations: PositiveInt
    cg_damping: PerMember[NonNegativeFloat]
    backtrack_steps: PositiveInt
    backtrack_ratio: PerMember[UnitInterval]
    lr_critic: PerMember[PositiveFloat]
    batch_size: PositiveInt
    epochs: PositiveInt

    def validate(self) -> None:
        self.check_minibatches(self.batch_size)
        self.check_advantages(self.samples_per_update, "algo.num_envs=1 algo.rollout_length=1")
        if self.samples_per_update % self.sub_sampling or self.sub_sampling == self.samples_per_update > 1:
            raise ConfigError(
                f"algo.sub_sampling={self.sub_sampling} doesn't divide the {self.samples_per_update} samples of an "
                "update into several parts: give one that does, such as algo.sub_sampling=2"
            )
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


class TRPO(PolicyGradient):
    """On-policy actor-critic: natural-gradient steps to the rim of a trust region (any actions)."""

    loop = "rollout"
    graphs = ("act", "gather_experience", "gradient", "fisher", "after", "fit_value")
    reference = "Schulman et al. 2015"
    Config = TRPOConfig
    config: TRPOConfig

    def __init__(self, config: TRPOConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.actor = self.make_actor()  # θ
        self.critic = self.make_critic()  # w
        self.optimiser = Optimiser(config, self.hp, "lr_critic", [self.critic.flat])
        self.advantage = advantage_estimator(config.advantage, config.nstep)

    def noise_spec(self) -> NoiseSpec:
        order = permutation(self.config.epochs, self.config.samples_per_update)
        return NoiseSpec(act=self.act_noise, step={"order": order})

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """max_θ L(θ) subject to mean KL ≤ δ, L taken to first order and KL to second (eq. 14, appendix C); then several
        epochs of the value's steps, for which `order` `(S, epochs, N)` shuffles the samples."""
        c, hp = self.config, self.hp
        samples, targets, metrics = self.gather_experience(rollout)
        targets = ranks.pooled(targets, c.num_envs)  # every rank draws the same minibatches
        if c.sub_sampling > 1:  # one sample of so many, drawn anew for each update
            some = noise["order"][:, 0, :: c.sub_sampling]
            samples = ranks.share_of(take(ranks.pooled(samples, c.num_envs), some))
        surrogate, g = self.gradient(samples)
        x = conjugate_gradient(lambda v: self.fisher(samples, v), g, c.cg_iterations)  # H⁻¹g
        full_step = (2 * hp.max_kl / dot(x, self.fisher(samples, x))).sqrt().unsqueeze(-1) * x  # ½ stepᵀH step = δ
        scale = line_search(
            lambda step: self.after(samples, step)[:2],
            *(full_step, surrogate, hp.max_kl, hp.backtrack_ratio, c.backtrack_steps),
        )
        taken = scale.unsqueeze(-1) * full_step.nan_to_num(0.0, 0.0, 0.0)  # none of it where scale is 0
        surrogate, kl, entropy = self.after(samples, taken)
        with torch.no_grad():
            self.actor.flat.add_(taken)
        metrics |= {"loss/policy": -surrogate, "policy/kl": kl, "policy/entropy": entropy, "policy/line_search": scale}
        fits = [
            self.fit_value(targets, minibatch)
            for epoch in noise["order"].unbind(1)
            for minibatch in epoch.split(c.batch_size, 1)
        ]
        return {**metrics, "optim/actor_grad_norm": dot(g, g).sqrt(), **average(fits)}

    def gather_experience(self, rollout: Transition) -> tuple[Samples, Targets, Metrics]:
        """Old policy and log-probabilities, Â and R̂ = Â + V̂, once, before anything moves."""
        obs, action, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        with torch.no_grad():
            pi = self.actor(obs)
            value, next_value = self.value(obs), self.value(rollout.next_obs.flatten(1, 2))
        advantage = self.advantages(rollout, value, next_value)
        returns = advantage + value
        a_hat = normalise(advantage, weight) if self.config.normalize_advantage else advantage
        samples = Samples(obs, action, pi, self.head(pi).log_prob(action), a_hat, weight)
        metrics = {"value/explained_variance": explained_variance(value, returns, weight)}
        return samples, Targets(obs, returns, weight), metrics

    def gradient(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """L(θ) and g = ∇L(θ)"""
        theta = self.actor.views()
        surrogate = self.surrogate(samples, theta)[0]
        gain, g = ranks.average_all((surrogate.detach(), self.actor.gradients(surrogate, theta)))
        return gain, g

    def fisher(self, samples: Samples, v: Tensor) -> Tensor:
        """Hv, H the Hessian of the mean KL at θ: ∇(∇KL · v); damping·v on top keeps H positive definite."""
        theta = self.actor.views()
        kl_gradient = self.actor.gradients(self.surrogate(samples, theta)[1], theta, create_graph=True)
        damping: Number = spread(self.hp.cg_damping, v)
        return ranks.average(self.actor.gradients(dot(kl_gradient, v), theta)) + damping * v

    def after(self, samples: Samples, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L, mean KL and mean entropy at θ + step."""
        with torch.no_grad():
            terms = self.surrogate(samples, self.actor.views(self.actor.flat + step))
            surrogate, kl, entropy = ranks.average_all(terms)
            return surrogate, kl, entropy

    def surrogate(self, samples: Samples, theta: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(L(θ) = mean ρÂ, mean KL[π_θ ‖ π], mean entropy), each `(S,)`; to second order KL[π ‖ π_θ] is the same."""
        pi, old = self.policy(samples.obs, theta), self.head(samples.pi)
        ratio = (pi.log_prob(samples.action) - samples.log_p).exp()
        terms = (ratio * samples.advantage, pi.kl(old), pi.entropy())
        surrogate, kl, entropy = (mean(term, samples.weight) for term in terms)
        return surrogate, kl, entropy

    def fit_value(self, targets: Targets, minibatch: Tensor) -> Metrics:
        """(V̂ − R̂)² over one minibatch, given by its indices `(S, M)`."""
        b, w = ranks.share_of(take(targets, minibatch)), self.critic.views()
        loss = mean((self.value(b.obs, w) - b.returns).square(), b.weight)
        norm = self.optimiser.step([self.critic.gradients(loss, w)])
        return {"loss/value": loss.detach(), "optim/critic_grad_norm": norm}
