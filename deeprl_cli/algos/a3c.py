"""Asynchronous advantage actor-critic (Mnih et al. 2016, Algorithm S3; deck Algorithm 6, whose lines are meant).

With `hardware=multiprocess`, each worker takes a copy of the shared weights, plays sub-episodes with it and applies
their gradients to the shared weights at once, waiting for nobody; the learning rate falls with the steps of all
workers. In one process it is the deck's loop with V̂ itself behind a sub-episode, as `algo=a2c
algo.subepisodes=terminal` has it.
Shapes: S seeds, T steps of a sub-episode, B sub-episodes side by side, N = T·B samples; scalars `(S, N)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deeprl_cli.algorithm import Members, Metrics, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import SubepisodeActorCritic, SubepisodeActorCriticConfig
from deeprl_cli.rl.objectives import squared_error
from deeprl_cli.rl.returns import advantage_estimator, explained_variance
from deeprl_cli.schema.run import NetworkConfig


@dataclass(kw_only=True, slots=True)
class A3CConfig(SubepisodeActorCriticConfig):
    lock: bool  # workers update one at a time


class A3C(SubepisodeActorCritic):
    """Actor-critic by workers over shared weights, one short sub-episode at a time (any actions)."""

    loop = "episodes"
    asynchronous = True
    reference = "deck Algorithm 6; Mnih et al. 2016"
    Config = A3CConfig
    config: A3CConfig

    def __init__(self, config: A3CConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.advantage = advantage_estimator("nstep", None)  # Â_{T−t}: the rest of the sub-episode

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
        metrics = self.learn(gain, fit, pi.entropy(), theta, weight)  # update w and θ using δ_w and δ_θ     (14)
        return {**metrics, "value/explained_variance": explained_variance(value.detach(), R, weight)}
