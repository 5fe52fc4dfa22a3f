"""One-step Q-learning in the manner of A3C (deck Algorithm 5; Mnih et al. 2016, Algorithm 1): gradients are summed over
a few steps and applied at once, without a memory.

In one process it is the deck's single thread. With `hardware=multiprocess`, workers apply such sums to weights they
share, each exploring with an ε of its own; a shared step counter decides when the target is copied.
Shapes: S seeds, T steps of a sub-episode, B environments side by side, N = T·B samples, K actions; scalars `(S, N)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Loop, Members, Metrics, NoiseSpec, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import SeveralEpsilonsConfig, epsilon_greedy, epsilons
from deeprl_cli.rl.noise import uniform
from deeprl_cli.rl.objectives import VALUE_ERRORS
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import REDUCTIONS, mean
from deeprl_cli.rl.targets import td_target
from deeprl_cli.schema.run import AlgoConfig, NetworkConfig, SubepisodeConfig
from deeprl_cli.schema.typed import PerMember, PositiveFloat, PositiveInt


@dataclass(kw_only=True, slots=True)
class AsyncQConfig(SubepisodeConfig):
    lock: bool  # workers update one at a time
    subepisodes: Literal["fixed", "terminal"]
    lr: PerMember[PositiveFloat]
    target_every: PositiveInt
    loss: Literal["huber", "mse", "half_mse"]
    reduction: Literal["mean", "sum"]
    epsilon: SeveralEpsilonsConfig

    def validate(self) -> None:
        self.epsilon.validate()


class AsyncQ(Algorithm):
    """Q-learning from the last few steps, alone or by workers over shared weights (discrete actions)."""

    loop = "episodes"
    asynchronous = True
    action_spaces = (Discrete,)
    reference = "deck Algorithm 5"
    Config = AsyncQConfig
    config: AsyncQConfig
    epsilon: Tensor
    copies: Tensor
    t: Tensor

    def __init__(self, config: AsyncQConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        assert isinstance(spec.action_space, Discrete)
        num_actions = int(spec.action_space.n)
        self.q = Stacked(lambda: self.make_network(num_actions), self.seeds, name="q")  # Q̂: S → ℝ^|A|, weights w
        self.q_target = self.q.target()
        self.optimiser = Optimiser(config, self.hp, "lr", [self.q.flat])
        self.td_loss = VALUE_ERRORS[config.loss]
        self.reduce = REDUCTIONS[config.reduction]
        self.register_buffer("epsilon", torch.zeros(len(members), config.num_envs))
        self.explore_at(0.0)
        self.register_buffer("t", torch.zeros(len(members), dtype=torch.int64))  # where the sub-episode at hand began
        self.register_buffer("copies", torch.zeros(len(members), dtype=torch.int64))  # how often target_every passed

    @classmethod
    def loop_for(cls, config: AlgoConfig) -> Loop:
        assert isinstance(config, AsyncQConfig)
        return "episodes" if config.subepisodes == "terminal" else "rollout"

    def noise_spec(self) -> NoiseSpec:
        return NoiseSpec(act=uniform(2), step={})

    def set_progress(self, steps: int | Tensor, horizon: int) -> None:
        super().set_progress(steps, horizon)
        self.t.copy_(torch.as_tensor(steps))

    def explore_at(self, progress: float | Tensor) -> None:
        B = self.config.num_envs  # noqa: N806
        self.epsilon.copy_(epsilons([c.epsilon for c in self.configs], progress, self.worker * B, B))

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """ε-greedy by Q̂(s), each environment with its own ε (line 3)."""
        with torch.no_grad():
            q: Tensor = self.q(obs)
        if noise is None:
            return q.argmax(-1)
        turns = torch.arange(q.shape[1], device=q.device) % self.config.num_envs  # an evaluation may have more
        return epsilon_greedy(q, self.epsilon[:, turns], noise)

    def expected_return(self, obs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.q(obs).amax(-1)

    def update(self, rollout: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        return self.step(rollout)

    def step(self, rollout: Transition) -> Metrics:
        """Lines 4–11 of Algorithm 5 for the T steps of a sub-episode: w stands still in them, so their gradients are
        that of one loss."""
        s, a, r, s_next, d, _, weight = (x.flatten(1, 2) for x in rollout)
        w = self.q.views()
        with torch.no_grad():
            # y = r + (1 − d')γ max_a Q̂_target(s', a)                                                 (line 4)
            y = td_target(r, d, self.q_target(s_next).amax(-1), self.hp.gamma)
        q = self.q(s, params=w).gather(-1, a.long().unsqueeze(-1)).squeeze(-1)  # Q̂(s, a)
        loss = self.reduce(self.td_loss(q, y), weight)
        delta = self.q.gradients(loss, w)  # δ_w ← δ_w + ∇(y − Q̂(s, a))²                              (line 5)
        self.copy_if_due(self.t + weight.sum(1).long())  # t mod T_target-update = 0: w_target ← w    (lines 7–8)
        # update w based on δ_w, descending; a seed that has done its share of the run stands still  (lines 9–11)
        norm = self.optimiser.step([delta], weight.sum(1) > 0)
        return {
            "loss/critic": loss.detach(),
            "q/mean": mean(q.detach(), weight),
            "q/target_mean": mean(y, weight),
            "optim/grad_norm": norm,
            "explore/epsilon": self.epsilon.mean(1),
        }

    @torch.no_grad()
    def copy_if_due(self, steps: Tensor) -> None:
        """w_target ← w, once for each `target_every` environment steps, `(S,)` of which are done."""
        copies = steps // self.config.target_every
        due = (copies > self.copies).float()
        self.q_target.flat.lerp_(self.q.flat, due.unsqueeze(-1))
        self.copies.copy_(torch.maximum(copies, self.copies))

    def counted(self, before: int, after: int, horizon: int) -> None:
        super().counted(before, after, horizon)
        self.copy_if_due(torch.full_like(self.copies, after))
