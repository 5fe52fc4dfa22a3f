"""Exploration of discrete actions: ε-soft policies and how ε falls (deck, "Greedy and soft policy")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.errors import ConfigError
from deeprl_cli.schema import PositiveFloat, UnitInterval


@dataclass(kw_only=True, slots=True)
class EpsilonConfig:
    """ε goes from `start` to `end` over the first `fraction` of the run; `constant` stays at `start`."""

    schedule: Literal["constant", "linear", "exponential"]
    start: UnitInterval
    end: UnitInterval
    fraction: PositiveFloat

    def validate(self) -> None:
        """Raise ConfigError where the schedule can't take the values."""
        if self.schedule == "exponential" and 0 in (self.start, self.end):
            raise ConfigError(
                "algo.epsilon.schedule=exponential goes from and to numbers above 0: give algo.epsilon.end=0.01, or "
                "algo.epsilon.schedule=linear"
            )


def epsilon(config: EpsilonConfig, progress: float) -> float:
    """ε at `progress` in [0, 1] of the run."""
    done = min(progress / config.fraction, 1.0)
    if config.schedule == "constant":
        return config.start
    if config.schedule == "linear":
        return config.start + done * (config.end - config.start)
    return float(config.start * (config.end / config.start) ** done)


def epsilon_greedy(q: Tensor, epsilon: Tensor, noise: Tensor) -> Tensor:
    """Greedy with probability 1 − ε + ε/|A|, every other action ε/|A|: the random draw includes the greedy one.

    q `(S, B, K)`, epsilon `(S,)`, noise uniform `(S, B, 2)`; actions `(S, B)`.
    """
    num_actions = q.shape[-1]
    random = (noise[..., 1] * num_actions).long().clamp_max(num_actions - 1)
    return torch.where(noise[..., 0] < epsilon.unsqueeze(-1), random, q.argmax(-1))
