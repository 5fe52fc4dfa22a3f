"""Policies' distributions. The randomness ξ is an argument: `sample(noise)` is a function of it (deck: ã_θ(s, ξ)).

Shapes: parameters `(…, P)`, actions `(…, A)` or `(…,)` for one discrete choice, log-probabilities and entropies `(…,)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

from deeprl_cli.rl.noise import Noise, normal, uniform

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # SAC's bounds (Haarnoja et al. 2018)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    def sample(self, noise: Tensor) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...
    def kl(self, other: Self) -> Tensor: ...


class Categorical:
    """One choice of K from logits `(…, K)`. Noise: a uniform number `(…, 1)`, inverted through the CDF."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits - logits.logsumexp(-1, keepdim=True)

    def sample(self, noise: Tensor) -> Tensor:
        cdf = self.log_probs.exp().cumsum(-1)
        return (cdf <= noise).sum(-1).clamp_max(self.log_probs.shape[-1] - 1)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL[self ‖ other]"""
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)


class MultiCategorical:
    """Independent choices: logits `(…, ΣK)`, action `(…, k)`. Noise: uniform `(…, k)`."""

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        self.parts = [Categorical(part) for part in logits.split(list(sizes), -1)]

    def sample(self, noise: Tensor) -> Tensor:
        return torch.stack([part.sample(noise[..., i : i + 1]) for i, part in enumerate(self.parts)], -1)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.stack([part.log_prob(action[..., i]) for i, part in enumerate(self.parts)], -1).sum(-1)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts], -1).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL[self ‖ other]"""
        return torch.stack([p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)], -1).sum(-1)


class Bernoulli:
    """Independent yes/no choices: logits and action `(…, k)`. Noise: uniform `(…, k)`."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def sample(self, noise: Tensor) -> Tensor:
        return (noise < self.logits.sigmoid()).long()

    def mode(self) -> Tensor:
        return (self.logits > 0).long()

    def log_prob(self, action: Tensor) -> Tensor:
        return -F.softplus(torch.where(action > 0, -self.logits, self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        p = self.logits.sigmoid()
        return (p * F.softplus(-self.logits) + (1 - p) * F.softplus(self.logits)).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL[self ‖ other]; log p = −softplus(−logit) and log(1 − p) = −softplus(logit)"""
        p = self.logits.sigmoid()
        yes = F.softplus(-other.logits) - F.softplus(-self.logits)
        no = F.softplus(other.logits) - F.softplus(self.logits)
        return (p * yes + (1 - p) * no).sum(-1)


class Gaussian:
    """Diagonal normal from `(…, 2A)`: means, then log standard deviations. Noise ξ: standard normal `(…, A)`."""

    def __init__(self, params: Tensor) -> None:
        self.mean, self.log_std = params.chunk(2, -1)

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z * z - self.log_std - HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 + HALF_LOG_2PI).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL[self ‖ other]"""
        ratio = (2 * (self.log_std - other.log_std)).exp()  # of the variances
        z = (self.mean - other.mean) * (-other.log_std).exp()
        return (0.5 * (ratio + z * z - 1) + other.log_std - self.log_std).sum(-1)


class SquashedGaussian:
    """tanh of a diagonal normal: ã_θ(s, ξ) = tanh(μ_θ(s) + σ_θ(s) ⊙ ξ), in (−1, 1) (deck, SAC policy update)."""

    def __init__(self, params: Tensor) -> None:
        self.mean, log_std = params.chunk(2, -1)
        self.log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(ã, log π(ã|s)) for ξ = `noise`, differentiable in the parameters (the reparameterisation trick)."""
        u = self.mean + self.log_std.exp() * noise
        log_normal = -0.5 * noise * noise - self.log_std - HALF_LOG_2PI
        return u.tanh(), (log_normal - log_tanh_derivative(u)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        return self.rsample(noise)[0]

    def mode(self) -> Tensor:
        return self.mean.tanh()


class StateDependentGaussian(SquashedGaussian):
    """tanh(μ(s) + φ(s)ᵀW), W = σ ⊙ ξ: one matrix for all states of a batch (gSDE, Raffin et al. 2021).

    From `(…, 2A + F)`: means, log standard deviations of φᵀW, features φ; and log σ `(…, F, A)`. Noise ξ: standard
    normal `(…, F, A)`."""

    def __init__(self, params: Tensor, log_sigma: Tensor) -> None:
        size = log_sigma.shape[-1]
        self.mean, self.log_std, self.features = params.tensor_split([size, 2 * size], -1)
        self.log_sigma = log_sigma

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """As of SquashedGaussian. The density is that of one action, whatever W the others of the batch share."""
        offset = self.features @ (self.log_sigma.exp() * noise)
        z = offset * (-self.log_std).exp()
        log_normal = -0.5 * z * z - self.log_std - HALF_LOG_2PI
        u = self.mean + offset
        return u.tanh(), (log_normal - log_tanh_derivative(u)).sum(-1)


def log_tanh_derivative(u: Tensor) -> Tensor:
    """log(1 − tanh² u), exact for large |u|, where the difference itself rounds to nothing (SAC, appendix C)."""
    return 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))


class PolicyHead:
    """The distribution for an action space: how many outputs the network has, what noise a sample takes.

    Box: Gaussian with `log_std` of its own (`has_log_std`). Raises ValueError for other spaces.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.has_log_std = False
        self.make: Callable[[Tensor], Distribution]
        if isinstance(space, gym.spaces.Discrete):
            self.size, self.noise, self.make = int(space.n), uniform(1), Categorical
        elif isinstance(space, gym.spaces.MultiDiscrete):
            sizes = [int(n) for n in space.nvec]
            self.size, self.noise = sum(sizes), uniform(len(sizes))
            self.make = lambda logits: MultiCategorical(logits, sizes)
        elif isinstance(space, gym.spaces.MultiBinary):
            self.size, self.noise, self.make = int(space.shape[0]), uniform(int(space.shape[0])), Bernoulli
        elif isinstance(space, gym.spaces.Box):
            size = math.prod(space.shape)
            self.size, self.noise, self.make, self.has_log_std = size, normal(*space.shape), Gaussian, True
        else:
            raise ValueError(f"no policy distribution for {space}")

    def __call__(self, params: Tensor) -> Distribution:
        return self.make(params)


__all__ = [
    "Bernoulli",
    "Categorical",
    "Distribution",
    "Gaussian",
    "MultiCategorical",
    "Noise",
    "PolicyHead",
    "SquashedGaussian",
    "StateDependentGaussian",
    "log_tanh_derivative",
]
