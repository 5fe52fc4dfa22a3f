"""Deep Q-learning (deck Algorithm 3 and "Delayed Q update"; Mnih et al. 2015; double: van Hasselt et al. 2016).

`target_update=none` is the deck's simple Q-learning. Shapes: S seeds, B minibatch, K actions; Q(s) `(S, B, K)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Metrics, NoiseSpec, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import EpsilonConfig, epsilon, epsilon_greedy
from deeprl_cli.rl.noise import uniform
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import polyak_update, td_target
from deeprl_cli.schema import NetworkConfig, PositiveFloat, PositiveInt, ReplayConfig, UnitInterval


@dataclass(kw_only=True, slots=True)
class DQNConfig(ReplayConfig):
    lr: PositiveFloat
    target_update: Literal["hard", "polyak", "none"]
    target_every: PositiveInt
    rho: UnitInterval
    double: Literal["none", "double"]
    loss: Literal["huber", "mse", "half_mse"]
    epsilon: EpsilonConfig

    def validate(self) -> None:
        ReplayConfig.validate(self)  # super() doesn't work in dataclasses with slots
        self.epsilon.validate()


class DQN(Algorithm):
    """Q-learning with a replay memory and, by choice, a target network and double Q (discrete actions)."""

    loop = "replay"
    action_spaces = (Discrete,)
    reference = "deck Algorithm 3"
    Config = DQNConfig
    config: DQNConfig
    epsilon: Tensor

    def __init__(self, config: DQNConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__(config, network, spec, seeds)
        assert isinstance(spec.action_space, Discrete)
        self.num_actions = int(spec.action_space.n)
        self.q = Stacked(lambda: self.make_network(self.num_actions), seeds, name="q")  # Q̂: S → ℝ^|A|
        self.q_target = self.q if config.target_update == "none" else self.q.target()
        self.optimiser = Optimiser(config, config.lr, [self.q.flat])
        self.td_loss = {"huber": huber, "mse": squared, "half_mse": half_squared}[config.loss]
        self.register_buffer("epsilon", torch.full((len(seeds),), config.epsilon.start))
        self.copies = 0  # how often `target_every` has passed

    def noise_spec(self) -> NoiseSpec:
        return NoiseSpec(act=uniform(2), step={})

    def set_progress(self, steps: int, horizon: int) -> None:
        super().set_progress(steps, horizon)
        self.epsilon.fill_(epsilon(self.config.epsilon, steps / horizon))
        if self.config.target_update == "hard":
            self.copy_if_due(steps)

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            q = self.q(obs)
        return q.argmax(-1) if noise is None else epsilon_greedy(q, self.epsilon, noise)

    def update(self, minibatches: Iterable[Transition], noise: Iterable[Mapping[str, Tensor]]) -> Metrics:
        return average([self.step(batch, {}) for batch in minibatches])

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Lines 8–10 of Algorithm 3 for one minibatch."""
        w = self.q.views()
        y = self.target(batch)  # set targets r + γ max_a' [Q̂_target(s')]_a'                      (line 9)
        q_all = self.q(batch.obs, params=w)
        q = q_all.gather(-1, batch.action.long().unsqueeze(-1)).squeeze(-1)  # [Q̂(s)]_a
        loss = mean(self.td_loss(q, y), batch.weight)
        norm = self.optimiser.step([self.q.gradients(loss, w)])  # update Q̂'s weights             (line 10)
        if self.config.target_update == "polyak":
            polyak_update(self.q_target, self.q, self.config.rho)
        return {
            "loss/critic": loss.detach(),
            "q/mean": mean(q.detach(), batch.weight),
            "q/target_mean": mean(y, batch.weight),
            "optim/grad_norm": norm,
            "explore/epsilon": self.epsilon.clone(),
        }

    @torch.no_grad()
    def target(self, batch: Transition) -> Tensor:
        """y = r + γ(1 − d)·max_a' Q̂_target(s', a'), or with double Q  Q̂_target(s', argmax_a' Q̂(s', a'))."""
        next_q = self.q_target(batch.next_obs)
        if self.config.double == "double":
            best = self.q(batch.next_obs).argmax(-1, keepdim=True)
            next_value = next_q.gather(-1, best).squeeze(-1)
        else:
            next_value = next_q.amax(-1)
        return td_target(batch.reward, batch.terminated, next_value, self.config.gamma)

    def get_extra_state(self) -> dict[str, int]:
        return {"copies": self.copies}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.copies = state["copies"]

    def copy_if_due(self, steps: int) -> None:
        """w_target ← w every `target_every` environment steps (not updates)."""
        copies = steps // self.config.target_every
        if copies > self.copies:
            polyak_update(self.q_target, self.q, rho=0.0)
            self.copies = copies


def squared(q: Tensor, y: Tensor) -> Tensor:
    return (y - q).square()


def half_squared(q: Tensor, y: Tensor) -> Tensor:
    """½(y − Q̂)², the deck's mean squared error."""
    return 0.5 * (y - q).square()


def huber(q: Tensor, y: Tensor) -> Tensor:
    """½δ² for |δ| < 1, |δ| − ½ beyond: the deck's error with its gradient clipped to ±1 (Mnih et al. 2015)."""
    return F.smooth_l1_loss(q, y, reduction="none")
