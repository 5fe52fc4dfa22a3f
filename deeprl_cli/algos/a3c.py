"""Asynchronous advantage actor-critic (Mnih et al. 2016, Algorithm S3; deck Algorithm 6, whose lines are meant).

With `hardware=multiprocess`, each worker takes a copy of the shared weights, plays sub-episodes with it and applies
their gradients to the shared weights at once, waiting for nobody; the learning rate falls with the steps of all
workers. In one process it is the deck's loop with V̂ itself behind a sub-episode, as `algo=a2c
algo.subepisodes=terminal` has it.
Shapes: S seeds, T steps of a sub-episode, B sub-episodes side by side, N = T·B samples; scalars `(S, N)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.algorithm import Metrics, PolicyGradient, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.rl.objectives import squared_error
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import REDUCTIONS, advantage_estimator, explained_variance, mean
from deeprl_cli.schema import NetworkConfig, SubepisodeConfig
from deeprl_cli.typed import NonNegativeFloat, PositiveFloat


@dataclass(kw_only=True, slots=True)
class A3CConfig(SubepisodeConfig):
    lock: bool  # workers update one at a time
    lr: PositiveFloat
    reduction: Literal["mean", "sum"]
    vf_coef: NonNegativeFloat
    ent_coef: NonNegativeFloat


class A3C(PolicyGradient):
    """Actor-critic by workers over shared weights, one short sub-episode at a time (any actions)."""

    loop = "episodes"
    joint = True
    asynchronous = True
    reference = "deck Algorithm 6; Mnih et al. 2016"
    Config = A3CConfig
    config: A3CConfig

    def __init__(self, config: A3CConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__(config, network, spec, seeds)
        self.model = self.make_actor_critic()  # θ and w, a worker's copies of them
        self.optimiser = Optimiser(config, config.lr, [self.model.flat])
        self.reduce = REDUCTIONS[config.reduction]
        self.advantage = advantage_estimator("nstep", config.gamma, 1.0, None)  # Â_{T−t}: the rest of the sub-episode

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        return self.step(rollout)

    def step(self, rollout: Transition) -> Metrics:
        """Lines 9–14 of Algorithm 6: what its backward loop accumulates is the gradient of one loss."""
        s, a, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        theta = self.model.views()
        pi, value = self.policy(s, theta), self.value(s, theta)
        with torch.no_grad():
            next_value = self.value(rollout.next_obs.flatten(1, 2))
        advantage = self.advantages(rollout, value.detach(), next_value)
        R = value.detach() + advantage  # noqa: N806  R ← r_i + γR, from (1 − d_t)V̂(s_t) backwards  (lines 9–11)

        gain = self.reduce(pi.log_prob(a) * advantage, weight)  # δ_θ + ∇log π(s, a)(R − V̂(s)), ascending (12)
        fit = self.reduce(squared_error(value, R), weight)  # δ_w + ∇(R − V̂(s))², descending         (13)
        entropy = pi.entropy()
        loss = -gain + self.config.vf_coef * fit - self.config.ent_coef * self.reduce(entropy, weight)

        # update w and θ using δ_w and δ_θ; a seed that has done its share of the run stands still  (line 14)
        norm = self.optimiser.step([self.model.gradients(loss, theta)], weight.sum(1) > 0)
        return {
            "loss/policy": -gain.detach(),
            "loss/value": fit.detach(),
            "policy/entropy": mean(entropy.detach(), weight),
            "value/explained_variance": explained_variance(value.detach(), R, weight),
            "optim/grad_norm": norm,
        }
