"""Advantage actor-critic (deck Algorithm 6; the synchronous form of A3C, Mnih et al. 2016).

Shapes: S seeds, T steps of a sub-episode, B sub-episodes side by side, N = T·B samples; scalars `(S, N)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.algorithm import Loop, Members, Metrics, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import PolicyOptions, SubepisodeActorCritic, SubepisodeActorCriticConfig
from deeprl_cli.rl.objectives import squared_error
from deeprl_cli.rl.returns import AdvantageOptions, advantage_estimator, explained_variance, normalise
from deeprl_cli.schema.run import AlgoConfig, NetworkConfig
from deeprl_cli.schema.typed import PositiveInt


@dataclass(kw_only=True, slots=True)
class A2CConfig(AdvantageOptions, PolicyOptions, SubepisodeActorCriticConfig):
    subepisodes: Literal["fixed", "terminal"]
    bootstrap: Literal["online", "target"]
    target_every: PositiveInt

    def validate(self) -> None:
        self.check_advantages(self.samples_per_update, "algo.num_envs=1 algo.rollout_length=1")


class A2C(SubepisodeActorCritic):
    """On-policy actor-critic: one gradient step from each batch of short sub-episodes (any actions)."""

    loop = "rollout"
    reference = "deck Algorithm 6"
    Config = A2CConfig
    config: A2CConfig
    copies: Tensor

    def __init__(self, config: A2CConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.model_target = self.model.target() if config.bootstrap == "target" else self.model  # V̂_target
        self.register_buffer("copies", torch.zeros(len(members), dtype=torch.int64))  # how often target_every passed
        self.advantage = advantage_estimator(config.advantage, config.nstep)

    @classmethod
    def loop_for(cls, config: AlgoConfig) -> Loop:
        """Sub-episodes that end at a terminal state, and wait for one another, are the episodic loop's."""
        assert isinstance(config, A2CConfig)
        return "episodes" if config.subepisodes == "terminal" else "rollout"

    def set_progress(self, steps: int | Tensor, horizon: int) -> None:
        super().set_progress(steps, horizon)
        if self.config.bootstrap == "target":
            self.copy_if_due(torch.as_tensor(steps, device=self.copies.device))

    def step(self, rollout: Transition) -> Metrics:
        """Lines 9–14 of Algorithm 6: what its backward loop accumulates is the gradient of one loss."""
        obs, action, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        theta = self.model.views()
        pi, value = self.policy(obs, theta), self.value(obs, theta)
        R = self.returns(rollout, value.detach())  # noqa: N806                                      (lines 9–11)
        advantage = R - value.detach()
        if self.config.normalize_advantage:
            advantage = normalise(advantage, weight)

        gain = self.reduce(pi.log_prob(action) * advantage, weight)  # δ_θ + ∇log π(s, a)(R − V̂(s)), ascending (12)
        fit = self.reduce(squared_error(value, R), weight)  # δ_w + ∇(R − V̂(s))², descending                 (13)
        metrics = self.learn(gain, fit, pi.entropy(), theta, weight)  # update w and θ using δ_w and δ_θ     (14)
        return {**metrics, "value/explained_variance": explained_variance(value.detach(), R, weight)}

    def returns(self, rollout: Transition, value: Tensor) -> Tensor:
        """R `(S, N)` = Â + V̂, whose bootstraps are V̂'s or, under `bootstrap=target`, all V̂_target's."""
        with torch.no_grad():
            if self.config.bootstrap == "target":
                value = self.model_target(rollout.obs.flatten(1, 2), part="value")
            next_value = self.model_target(rollout.next_obs.flatten(1, 2), part="value")
        return self.advantages(rollout, value, next_value) + value

    @torch.no_grad()
    def copy_if_due(self, steps: Tensor) -> None:
        """w_target ← w every `target_every` environment steps of a seed (deck, "Delayed Q update")."""
        copies = steps // self.config.target_every
        due = (copies > self.copies).float()
        self.model_target.flat.lerp_(self.model.flat, due.unsqueeze(-1))
        self.copies.copy_(copies)
