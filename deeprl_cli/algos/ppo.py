"""Proximal policy optimisation (deck Algorithm 8; Schulman et al. 2017), clipped objective, GAE, entropy bonus, KL.

Shapes: S seeds, T steps, B environments, N = T·B samples of a rollout, M a minibatch of them; scalars `(S, N)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, NoiseSpec, Transition, average, take
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.families import PolicyGradient, PolicyOptions
from deeprl_cli.processes import ranks
from deeprl_cli.rl.kl import ESTIMATORS, KLConfig, adapt, k3
from deeprl_cli.rl.noise import bits, permutation
from deeprl_cli.rl.objectives import OBJECTIVES
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import AdvantageOptions, advantage_estimator, explained_variance, mean, normalise
from deeprl_cli.rl.targets import polyak_update
from deeprl_cli.rl.values import one_each
from deeprl_cli.schema.run import NetworkConfig, RolloutConfig
from deeprl_cli.schema.typed import NonNegativeFloat, PerMember, PositiveFloat, PositiveInt


@dataclass(kw_only=True, slots=True)
class PPOConfig(AdvantageOptions, PolicyOptions, RolloutConfig):
    lr: PerMember[PositiveFloat]
    batch_size: PositiveInt
    minibatch: Literal["epochs", "sample"]
    epochs: PositiveInt
    updates: PositiveInt | None
    objective: Literal["clip", "cpi"]
    clip_eps: PerMember[PositiveFloat]
    clip_schedule: Literal["constant", "linear"]
    ent_coef: PerMember[NonNegativeFloat]
    vf_coef: PerMember[NonNegativeFloat]
    kl: KLConfig

    @property
    def steps_per_update(self) -> int:
        """n_steps of line 5: minibatches, and gradient steps, from one rollout."""
        return self.updates or max(self.epochs * self.samples_per_update // self.batch_size, 1)

    def validate(self) -> None:
        self.kl.validate()
        self.check_advantages(self.batch_size, "algo.batch_size=1")
        if self.minibatch == "epochs":
            self.check_minibatches(self.batch_size)
            if self.updates is not None:
                raise ConfigError(f"algo.updates={self.updates} belongs to algo.minibatch=sample: give that as well")

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        return self.batch_size, self.steps_per_update * total_steps / self.samples_per_update


class Samples(NamedTuple):
    """The experience buffer M: ⟨s, a, log p, R̂, Â⟩ of line 4, `(S, N, …)`, the parameters of π_ref(s, ·), weights."""

    obs: Tensor
    action: Tensor
    log_p: Tensor
    returns: Tensor
    advantage: Tensor
    ref: Tensor
    weight: Tensor


class PPO(PolicyGradient):
    """On-policy actor-critic whose clipped objective allows several epochs over each rollout (any actions)."""

    loop = "rollout"
    graphs = ("act", "gather_experience", "step")
    joint = True
    reference = "deck Algorithm 8"
    Config = PPOConfig
    config: PPOConfig
    active: Tensor
    clip_eps: Tensor
    kl_coef: Tensor

    def __init__(self, config: PPOConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.model = self.make_actor_critic()
        self.optimiser = Optimiser(config, self.hp, "lr", [self.model.flat])
        self.advantage = advantage_estimator(config.advantage, config.nstep)
        self.objective, self.kl = OBJECTIVES[config.objective], ESTIMATORS[config.kl.estimator]
        if config.kl.ref == "initial":
            self.initial = self.model.target()  # π_ref for good; otherwise it is π, that gathered the experience
        self.register_buffer("kl_coef", one_each(self.hp.kl_coef, len(members)))  # β
        self.register_buffer("clip_eps", one_each(self.hp.clip_eps, len(members)))
        self.register_buffer("active", torch.ones(len(members), dtype=torch.bool))  # seeds that KL hasn't stopped

    def noise_spec(self) -> NoiseSpec:
        c = self.config
        shuffled, drawn = permutation(c.epochs, c.samples_per_update), bits(c.steps_per_update, c.batch_size)
        return NoiseSpec(act=self.act_noise, step={"index": shuffled if c.minibatch == "epochs" else drawn})

    def set_progress(self, steps: int | Tensor, horizon: int) -> None:
        super().set_progress(steps, horizon)
        if self.config.clip_schedule == "linear":
            self.clip_eps.copy_(torch.as_tensor(self.hp.clip_eps * max(1.0 - steps / horizon, 0.0)))
        if self.config.kl.ref == "initial" and steps == 0:  # whatever weights the run was given to start from
            polyak_update(self.initial, self.model, rho=0.0)

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Algorithm 8, lines 4–8. `index`: each epoch's order `(S, epochs, N)`, or bits that draw `(S, n_steps, M)`."""
        samples, metrics = self.gather_experience(rollout)
        samples = ranks.pooled(samples, self.config.num_envs)  # every rank draws the same minibatches
        self.active.fill_(True)
        steps: list[tuple[Tensor, Metrics]] = []  # which seeds learn from it: kl.mode=stop stops each by itself
        for epoch in (noise["index"] % samples.weight.shape[1]).unbind(1):
            steps += [(self.active.clone(), self.step(samples, m)) for m in epoch.split(self.config.batch_size, 1)]
            if not self.active.any():
                break
        if self.config.kl.mode == "penalty":
            metrics["policy/kl_coef"] = self.kl_coef.clone()
        if self.config.kl.adaptive:
            with torch.no_grad():
                m = ranks.share_of(samples)
                kl = ranks.average(mean(self.policy(m.obs).kl(self.head(m.ref)), m.weight))
            self.kl_coef.copy_(adapt(self.kl_coef, kl, self.hp.kl_target))
        return {**metrics, **average([metric for _, metric in steps], [learning for learning, _ in steps])}

    def gather_experience(self, rollout: Transition) -> tuple[Samples, Metrics]:
        """Procedure "Gather experience": old log-probabilities, Â and R̂ = Â + V̂, once, before any update."""
        obs, action, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        with torch.no_grad():
            pi = self.model(obs, part="policy")
            log_p = self.head(pi).log_prob(action)  # p = π'(s, a), 'old' probabilities        (line 5)
            value, next_value = self.value(obs), self.value(rollout.next_obs.flatten(1, 2))
            ref = self.initial(obs, part="policy") if self.config.kl.ref == "initial" else pi
        if self.config.kl.where == "reward":  # r − β log(π/π_ref)
            k1 = (log_p - self.head(ref).log_prob(action)).view_as(rollout.reward)
            rollout = rollout._replace(reward=rollout.reward - self.kl_coef.view(-1, 1, 1) * k1)
        advantage = self.advantages(rollout, value, next_value)
        returns = advantage + value  # (lines 9–10)
        samples = Samples(obs, action, log_p, returns, advantage, ref, weight)
        return samples, {"value/explained_variance": explained_variance(value, returns, weight)}

    def step(self, samples: Samples, minibatch: Tensor) -> Metrics:
        """One minibatch B of M, given by its indices `(S, M)`: lines 6–8."""
        whole, c, hp, theta = take(samples, minibatch), self.config, self.hp, self.model.views()
        b = ranks.share_of(whole)
        pi, ref, value = self.policy(b.obs, theta), self.head(b.ref), self.value(b.obs, theta)
        log_ratio = pi.log_prob(b.action) - b.log_p
        ratio = log_ratio.exp()
        advantage = normalise(whole.advantage, whole.weight, whole=True) if c.normalize_advantage else whole.advantage
        eps = self.clip_eps.unsqueeze(-1)
        surrogate = mean(self.objective(ratio, ranks.share(advantage), eps), b.weight)
        fit = mean((value - b.returns).square(), b.weight)  # procedure "Fit value function"
        entropy = mean(pi.entropy(), b.weight)
        loss = -surrogate + hp.vf_coef * fit - hp.ent_coef * entropy
        metrics = {"loss/policy": -surrogate, "loss/value": fit, "policy/entropy": entropy}
        if c.kl.mode == "penalty" and c.kl.where == "loss":
            divergence = self.kl(pi, ref, b.action)  # KL[π'(s, ·) ‖ π_ref(s, ·)]
            kl_ref = mean(ratio * divergence if c.kl.importance_weight else divergence, b.weight)
            loss, metrics["policy/kl_ref"] = loss + self.kl_coef * kl_ref, kl_ref
        with torch.no_grad():
            if c.kl.mode == "stop":  # KL[π ‖ π'], this way round: the actions were drawn from π
                kl = ranks.average(mean(self.kl(ref, pi, b.action), b.weight))
                self.active.logical_and_(kl <= 1.5 * hp.kl_target)
            metrics["policy/kl"] = mean(k3(log_ratio), b.weight)
            metrics["policy/clip_fraction"] = mean(((ratio - 1).abs() > eps).float(), b.weight)
        metrics["optim/grad_norm"] = self.optimiser.step([self.model.gradients(loss, theta)], self.active)
        return {name: metric.detach() for name, metric in metrics.items()}
