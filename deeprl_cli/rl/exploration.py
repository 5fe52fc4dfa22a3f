"""Exploration: ε-soft policies over discrete actions (deck, "Greedy and soft policy"), noise on continuous ones, the
same for all states or dependent on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.installed import load
from deeprl_cli.processes.ranks import share_size
from deeprl_cli.rl.values import Values, on, one_each, spread
from deeprl_cli.schema.typed import Choice, NonNegativeFloat, PerMember, PositiveFloat, PositiveInt, UnitInterval


@dataclass(kw_only=True, slots=True)
class EpsilonConfig:
    """ε goes from `start` to `end` over the first `fraction` of the run; `constant` stays at `start`."""

    schedule: Literal["constant", "linear", "exponential"]
    start: PerMember[UnitInterval]
    end: PerMember[UnitInterval]
    fraction: PerMember[PositiveFloat]

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


@dataclass(kw_only=True, slots=True)
class SeveralEpsilonsConfig:
    """Explorers that differ: each ε goes from `start` to one of `end`, dealt out in turn, over the first `fraction` of
    the run (Mnih et al. 2016 draw theirs); `constant`: it is that one from the first step on."""

    schedule: Literal["constant", "linear", "exponential"]
    start: PerMember[UnitInterval]
    end: PerMember[list[UnitInterval]]
    fraction: PerMember[PositiveFloat]

    def validate(self) -> None:
        """Raise ConfigError where there is no ε, or the schedule can't take the values."""
        if not self.end:
            raise ConfigError("algo.epsilon.end=[] leaves no epsilon to explore with: give algo.epsilon.end=[0.1]")
        if self.schedule == "exponential" and 0 in (self.start, *self.end):
            raise ConfigError(
                "algo.epsilon.schedule=exponential goes from and to numbers above 0: give algo.epsilon.end=[0.01], or "
                "algo.epsilon.schedule=linear"
            )


def epsilons(configs: Sequence[SeveralEpsilonsConfig], progress: float | Tensor, first: int, count: int) -> Tensor:
    """ε of `count` explorers, the `first`-th and those behind it, at `progress` in [0, 1] of the run, of all seeds or
    `(S,)`: `(S, count)`, or `(1, count)` where it is that of each. `configs`: one a seed."""
    if any(config != configs[0] for config in configs):
        each = list(progress) if isinstance(progress, Tensor) else [progress] * len(configs)
        return torch.cat([epsilons([c], p, first, count) for c, p in zip(configs, each, strict=True)])
    config = configs[0]
    end = torch.tensor([config.end[(first + k) % len(config.end)] for k in range(count)])
    if config.schedule == "constant":
        return end.unsqueeze(0)
    done = (torch.as_tensor(progress, dtype=torch.float32).reshape(-1, 1) / config.fraction).clamp_max(1.0)
    if config.schedule == "linear":
        return config.start + done * (end.to(done.device) - config.start)
    return config.start * (end.to(done.device) / config.start) ** done


def epsilon_greedy(q: Tensor, epsilon: Tensor, noise: Tensor) -> Tensor:
    """Greedy with probability 1 − ε + ε/|A|, every other action ε/|A|: the random draw includes the greedy one.

    q `(S, B, K)`, epsilon `(S,)` or, one for each environment, `(S, B)`, noise uniform `(S, B, 2)`; actions `(S, B)`.
    """
    epsilon = epsilon if epsilon.ndim == 2 else epsilon.unsqueeze(-1)
    num_actions = q.shape[-1]
    random = (noise[..., 1] * num_actions).long().clamp_max(num_actions - 1)
    return torch.where(noise[..., 0] < epsilon, random, q.argmax(-1))


@dataclass(kw_only=True, slots=True)
class ExplorationConfig:
    """Noise on a deterministic policy's actions; `sigma` in units of the action range [−1, 1].

    `theta` and `dt` are the Ornstein-Uhlenbeck process's. `linear`: sigma goes to `sigma_end` over the run.
    """

    kind: Annotated[str, Choice(("gaussian", "ou", "none"), "explorations")]
    sigma: PerMember[NonNegativeFloat]
    sigma_schedule: Literal["constant", "linear"]
    sigma_end: PerMember[NonNegativeFloat]
    theta: PerMember[NonNegativeFloat]
    dt: PerMember[PositiveFloat]

    def validate(self) -> None:
        """Raise ConfigError where the process would run away."""
        if self.kind == "ou" and self.theta * self.dt > 1:
            raise ConfigError(
                f"algo.exploration.theta={self.theta:g} times dt={self.dt:g} is above 1, so the process overshoots its "
                f"mean at every step: give algo.exploration.dt={1 / self.theta:.3g} or less"
            )


class Exploration(nn.Module):
    """Adds noise to actions `(S, B, A)`, and keeps them within [−1, 1].

    gaussian: a + σξ. ou: a + x, where x ← x − θx·dt + σ√dt·ξ goes on from step to step of each environment and starts
    at 0 in each episode (Uhlenbeck & Ornstein 1930; Lillicrap et al. 2016, who take dt = 1). `x` is `(S, num_envs, A)`.
    A batch of another size, as an evaluation with noise has it, takes each action as the first of its episode and
    leaves `x` alone.
    """

    per_env = ("x",)
    sigma: Tensor
    x: Tensor

    def __init__(self, config: ExplorationConfig, hp: Values, num_seeds: int, num_envs: int, size: int) -> None:
        super().__init__()
        self.config, self.hp, self.num_envs, self.size = config, hp, share_size(num_envs), size
        kinds: dict[str, Callable[[Tensor], Tensor]] = {
            "gaussian": self.gaussian,
            "ou": self.ornstein_uhlenbeck,
            "none": torch.zeros_like,
        }
        self.noise: Callable[[Tensor], Tensor] = kinds.get(config.kind) or self.custom(config, num_seeds, size)
        self.register_buffer("sigma", one_each(hp.exploration_sigma, num_seeds))
        if config.kind == "ou":
            self.register_buffer("x", torch.zeros(num_seeds, self.num_envs, size))

    def forward(self, action: Tensor, xi: Tensor) -> Tensor:
        """`xi`: standard normal numbers `(S, B, A)`. Moves the process."""
        return (action + self.noise(xi)).clamp(-1.0, 1.0)

    def custom(self, config: ExplorationConfig, num_seeds: int, size: int) -> nn.Module:
        """A plug-in's noise: a module from `xi` to what is added, before both are clamped."""
        made: nn.Module = load("explorations", config.kind)(config, num_seeds, self.num_envs, size)
        return made

    def remembers(self) -> bool:
        """Whether the noise is another at the next step, for the same numbers: the process's is, and a plug-in's may be
        (it is asked twice, for as many environments as there are in training, and for one)."""
        if not isinstance(self.noise, nn.Module):
            return self.config.kind == "ou"
        asked = deepcopy(self.noise)
        for count in (self.num_envs, 1):
            xi = torch.ones(len(self.sigma), count, self.size, device=self.sigma.device)
            answers, before = asked(xi).clone(), [buffer.clone() for buffer in self.noise.buffers()]
            moved = not all(map(torch.equal, asked.buffers(), before))
            if moved or not torch.equal(answers, asked(xi)):
                return True
        return False

    def gaussian(self, xi: Tensor) -> Tensor:
        return self.sigma.view(-1, 1, 1) * xi

    def ornstein_uhlenbeck(self, xi: Tensor) -> Tensor:
        theta, dt = spread(self.hp.exploration_theta, xi), spread(self.hp.exploration_dt, xi)
        pushed: Tensor = dt**0.5 * self.gaussian(xi)
        if xi.shape[1] != self.num_envs:
            return pushed
        self.x.mul_(1.0 - theta * dt).add_(pushed)
        return self.x

    def set_progress(self, progress: float | Tensor) -> None:
        """Anneal sigma: `progress` in [0, 1] of the run, of all seeds or `(S,)`."""
        if self.config.sigma_schedule == "linear":
            start, end = self.hp.exploration_sigma, self.hp.exploration_sigma_end
            progress = on(self.sigma.device, progress)
            self.sigma.copy_(torch.as_tensor(start + progress * (end - start)))

    def episodes_ended(self, ended: Tensor) -> None:
        """The process starts again from 0 where `ended` `(S, num_envs)`."""
        if self.config.kind == "ou":
            self.x.mul_(~ended.unsqueeze(-1))
        if (own := getattr(self.noise, "episodes_ended", None)) is not None:
            own(ended)


@dataclass(kw_only=True, slots=True)
class SDEConfig:
    """Generalised state-dependent exploration. `sample_every`: steps after which another matrix W is drawn, beside the
    one that every rollout begins with; null: no other."""

    enabled: bool
    sample_every: PositiveInt | None


class StateDependentNoise(nn.Module):
    """φ(s)ᵀW: noise that is a function of the state while W `(S, num_envs, F, A)`, each environment's own, stays the
    same (Raffin et al. 2021). W = σ ⊙ ξ is drawn for the first step after `begin()`, and every `sample_every` steps.

    A batch of another size, as an evaluation with noise has it, draws W for each step and leaves the one kept alone.
    """

    per_env = ("matrix",)
    matrix: Tensor
    t: Tensor

    def __init__(self, num_seeds: int, num_envs: int, shape: Sequence[int], sample_every: int | None) -> None:
        super().__init__()
        self.num_envs, self.sample_every = share_size(num_envs), sample_every
        self.register_buffer("matrix", torch.zeros(num_seeds, self.num_envs, *shape))
        self.register_buffer("t", torch.zeros(num_seeds, dtype=torch.int64))  # steps since `begin()`

    def forward(self, features: Tensor, log_std: Tensor, xi: Tensor) -> Tensor:
        """`(S, B, A)` for φ `(S, B, F)`, log σ `(S, F, A)` and standard normal numbers `(S, B, F, A)`."""
        drawn = log_std.exp().unsqueeze(1) * xi
        if xi.shape[1] != self.num_envs:
            return weighed(features, drawn)
        due = self.t == 0 if self.sample_every is None else self.t % self.sample_every == 0
        self.matrix.copy_(torch.where(due.view(-1, 1, 1, 1), drawn, self.matrix))
        self.t.add_(1)
        return weighed(features, self.matrix)

    def begin(self) -> None:
        """Another W is due: the policy has learned, and its σ moved."""
        self.t.zero_()


def weighed(features: Tensor, matrix: Tensor) -> Tensor:
    """φᵀW, `(…, A)` for φ `(…, F)` and W `(…, F, A)`."""
    return (features.unsqueeze(-1) * matrix).sum(-2)
