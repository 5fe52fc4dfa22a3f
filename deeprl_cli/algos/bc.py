"""Behavioural cloning (Pomerleau 1991): supervised fine-tuning, as it is called with language models.

No reinforcement learning: a policy to start it from (`init_from`), learned from demonstrations alone.

Shapes: S seeds, B minibatch of demonstrated steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from deeprl_cli.algorithm import Members, Metrics, Transition, average
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import PolicyGradient
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.returns import mean
from deeprl_cli.schema.run import DemonstrationConfig, NetworkConfig
from deeprl_cli.schema.typed import PerMember, PositiveFloat


@dataclass(kw_only=True, slots=True)
class BCConfig(DemonstrationConfig):
    lr: PerMember[PositiveFloat]


class BC(PolicyGradient):
    """Supervised warm-up, not RL: imitates the environment's demonstrations (any actions)."""

    loop = "demonstrations"
    has_critic = False
    reference = "Pomerleau 1991"
    Config = BCConfig
    config: BCConfig

    def __init__(self, config: BCConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.actor = self.make_actor()
        self.optimiser = Optimiser(config, self.hp, "lr", [self.actor.flat])

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
