"""Behavioural cloning (Pomerleau 1991): supervised fine-tuning, as it is called with language models.

No reinforcement learning: a policy to start it from (`init_from`), learned from demonstrations alone.

Shapes: S seeds, B minibatch of demonstrated steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Metrics, NoiseSpec, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.distributions import Distribution, PolicyHead
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.schema import DemonstrationConfig, NetworkConfig, PositiveFloat


@dataclass(kw_only=True, slots=True)
class BCConfig(DemonstrationConfig):
    lr: PositiveFloat


class BC(Algorithm):
    """Supervised warm-up, not RL: imitates the environment's demonstrations (any actions)."""

    loop = "demonstrations"
    action_spaces = (Discrete, Box, MultiDiscrete, MultiBinary)
    reference = "Pomerleau 1991"
    Config = BCConfig
    config: BCConfig

    def __init__(self, config: BCConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__(config, network, spec, seeds)
        self.head = head = PolicyHead(spec.action_space)
        make = self.make_network
        self.actor = Stacked(lambda: make.policy(head.size, log_std=head.has_log_std), seeds, name="actor")
        self.optimiser = Optimiser(config, config.lr, [self.actor.flat])

    def noise_spec(self) -> NoiseSpec:
        return NoiseSpec(act=self.head.noise, step={})

    def policy(self, obs: Tensor, params: dict[str, Tensor] | None = None) -> Distribution:
        return self.head(self.actor(obs, params=params))

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        with torch.no_grad():
            pi = self.policy(obs)
        return pi.mode() if noise is None else pi.sample(noise)

    def update(self, minibatches: Iterable[Transition], noise: Iterable[Mapping[str, Tensor]]) -> Metrics:
        return average([self.step(batch) for batch in minibatches])

    def step(self, batch: Transition) -> Metrics:
        """1/|B| Σ −log π_θ(s, a), descending: the cross-entropy of the policy on the demonstrated actions."""
        theta = self.actor.views()
        pi = self.policy(batch.obs, theta)
        loss = mean(-pi.log_prob(batch.action), batch.weight)
        norm = self.optimiser.step([self.actor.gradients(loss, theta)])
        return {
            "loss/policy": loss.detach(),
            "policy/entropy": mean(pi.entropy().detach(), batch.weight),
            "optim/grad_norm": norm,
        }
