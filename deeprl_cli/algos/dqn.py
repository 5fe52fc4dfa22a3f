"""Deep Q-learning (deck Algorithm 3 and "Delayed Q update"; Mnih et al. 2015).

`target_update=none` is the deck's simple Q-learning, `td_target=sarsa` its one-step Sarsa, `td_gradient=full` the
residual gradient (Baird 1995). `double=double`: van Hasselt et al. 2016; `clipped`: two networks drawn to the smaller
of their target values, the first of them chooses the actions (Fujimoto et al. 2018).
Shapes: S seeds, B minibatch, K actions, C networks (2 where clipped, else 1); Q(s) `(S, C, B, K)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, NoiseSpec, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.families import OffPolicy
from deeprl_cli.nets.build import starts_at_zero
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import EpsilonConfig, epsilon, epsilon_greedy
from deeprl_cli.rl.noise import uniform
from deeprl_cli.rl.objectives import VALUE_ERRORS
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.rl.targets import PolyakConfig, choose, polyak_update, td_target
from deeprl_cli.rl.values import one_each
from deeprl_cli.schema.run import NetworkConfig
from deeprl_cli.schema.typed import PerMember, PositiveFloat, PositiveInt


@dataclass(kw_only=True, slots=True)
class DQNConfig(PolyakConfig):
    lr: PerMember[PositiveFloat]
    target_update: Literal["hard", "polyak", "none"]
    target_every: PositiveInt
    td_target: Literal["max", "sarsa"]
    td_gradient: Literal["semi", "full"]
    double: Literal["none", "double", "clipped"]
    loss: Literal["huber", "mse", "half_mse"]
    epsilon: EpsilonConfig

    def validate(self) -> None:
        PolyakConfig.validate(self)
        self.epsilon.validate()
        n = self.num_envs
        if self.td_target == "sarsa" and not self.buffer_capacity == self.batch_size == self.train_every == n:
            raise ConfigError(
                "algo.td_target=sarsa learns on-policy, from the latest step only: give "
                f"algo.buffer_capacity={n} algo.batch_size={n} algo.train_every={n}"
            )
        if self.td_target == "sarsa" and self.double != "none":
            raise ConfigError(
                f"algo.double={self.double} mends the maximum that algo.td_target=sarsa doesn't take: give "
                "algo.double=none"
            )
        if self.td_gradient == "full" and self.target_update != "none":
            raise ConfigError(
                f"algo.td_gradient=full differentiates the target, which algo.target_update={self.target_update} takes "
                "from another network: give algo.target_update=none"
            )
        if self.double == "double" and self.target_update == "none":
            raise ConfigError(
                "algo.double=double takes two networks, and algo.target_update=none leaves one: give "
                "algo.target_update=hard, or algo.double=clipped"
            )


class DQN(OffPolicy):
    """Q-learning with a replay memory and, by choice, a target network and double Q (discrete actions)."""

    action_spaces = (Discrete,)
    reference = "deck Algorithm 3"
    Config = DQNConfig
    config: DQNConfig
    untraced = ("copies",)
    epsilon: Tensor

    def __init__(self, config: DQNConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        assert isinstance(spec.action_space, Discrete)
        self.num_actions = int(spec.action_space.n)
        copies = 2 if config.double == "clipped" else None
        self.q = Stacked(lambda: self.make_network(self.num_actions), self.seeds, copies, name="q")  # Q̂: S → ℝ^|A|
        self.q_target = self.q if config.target_update == "none" else self.q.target()
        self.optimiser = Optimiser(config, self.hp, "lr", [self.q.flat])
        self.td_loss = VALUE_ERRORS[config.loss]
        self.register_buffer("epsilon", one_each(self.hp.epsilon_start, len(members)))
        self.copies = 0  # how often `target_every` has passed

    @classmethod
    def check(cls, config: DQNConfig, network: NetworkConfig, spec: EnvSpec) -> None:  # type: ignore[override]
        super().check(config, network, spec)
        if config.double == "clipped" and starts_at_zero(network):
            raise ConfigError(
                f"algo.double=clipped takes two networks that differ, and with network={network.name} both start at "
                "zero: use algo.double=double or network=mlp"
            )

    def noise_spec(self) -> NoiseSpec:
        draw = {"xi": uniform(self.config.batch_size, 2)} if self.config.td_target == "sarsa" else {}
        return NoiseSpec(act=uniform(2), step=draw)

    def set_progress(self, steps: int | Tensor, horizon: int) -> None:
        super().set_progress(steps, horizon)
        assert isinstance(steps, int)  # in the replay loop all seeds have done the same
        copies = steps // self.config.target_every  # w_target ← w every so many environment steps (not updates)
        if self.config.target_update == "hard" and copies > self.copies:
            polyak_update(self.q_target, self.q, rho=0.0)
            self.copies = copies

    def explore_at(self, progress: float | Tensor) -> None:
        each = progress.tolist() if isinstance(progress, Tensor) else [progress] * len(self.configs)
        self.epsilon.copy_(torch.tensor([epsilon(c.epsilon, p) for c, p in zip(self.configs, each, strict=True)]))

    def values(self, stack: Stacked, obs: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Q̂_j(s), `(S, C, B, K)`."""
        q = stack(obs, params=params)
        return q if stack.copies else q.unsqueeze(1)

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            q = self.values(self.q, obs)[:, 0]
        return q.argmax(-1) if noise is None else epsilon_greedy(q, self.epsilon, noise)

    def expected_return(self, obs: Tensor) -> Tensor:
        with torch.no_grad():
            q = self.values(self.q, obs)
        return choose(q, q[:, 0].argmax(-1)).amin(1)

    def step(self, batch: Transition, noise: Mapping[str, Tensor]) -> Metrics:
        """Lines 9–10 of Algorithm 3, for one of the minibatches that `update` takes from M (line 8)."""
        w = self.q.views()
        y = self.target(batch, noise, w)  # set targets r + γ max_a' [Q̂_target(s')]_a'            (line 9)
        q = choose(self.values(self.q, batch.obs, w), batch.action)  # [Q̂(s)]_a
        loss = mean(self.td_loss(q, y.unsqueeze(1).expand_as(q)).sum(1), batch.weight)
        norm = self.optimiser.step([self.q.gradients(loss, w)])  # update Q̂'s weights             (line 10)
        if self.config.target_update == "polyak":
            polyak_update(self.q_target, self.q, self.hp.keep)
        return {
            "loss/critic": loss.detach(),
            "q/mean": mean(q.detach().mean(1), batch.weight),
            "q/target_mean": mean(y.detach(), batch.weight),
            "optim/grad_norm": norm,
            "explore/epsilon": self.epsilon.clone(),
        }

    def target(self, batch: Transition, noise: Mapping[str, Tensor], w: dict[str, Tensor]) -> Tensor:
        """y = r + γ(1 − d)·min_j Q̂_target,j(s', a'), a' being the argmax of Q̂_target(s'), with double Q that of Q̂(s'),
        and with Sarsa what the ε-soft policy takes in s', drawn anew."""
        c = self.config
        full = c.td_gradient == "full"  # is y independent of w? semi: it is taken to be
        with torch.set_grad_enabled(full):
            next_q = self.values(self.q_target, batch.next_obs, w if full else None)
            alone = c.td_target == "max" and c.double == "none"
            chooser = (next_q if alone else self.values(self.q, batch.next_obs))[:, 0].detach()
            sarsa = c.td_target == "sarsa"
            next_action = epsilon_greedy(chooser, self.epsilon, noise["xi"]) if sarsa else chooser.argmax(-1)
            next_value = choose(next_q, next_action).amin(1)
            return td_target(batch.reward, batch.terminated, next_value, self.hp.gamma)

    def get_extra_state(self) -> dict[str, int]:
        return {"copies": self.copies}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.copies = state["copies"]
