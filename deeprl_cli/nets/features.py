"""Features φ(s) of a vector for linear approximators w_iᵀφ(s) (Sutton & Barto 2018, 9.5).

Shapes: B batch, k dimensions of the vector, F features. All see the vector through a `UnitBox`, in [0, 1]^k, and take
every combination of a few functions of each dimension, so F is their numbers multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeprl_cli.nets.modules import OneHot
from deeprl_cli.nets.tables import UnitBox


class Linear(nn.Module):
    """w_iᵀφ(s), `(B, K)`: no bias, weights that start at zero (no feature is favoured before anything is known)."""

    def __init__(self, features: OneHot | Polynomial | Fourier | RadialBasis, out_features: int) -> None:
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(torch.zeros(out_features, features.out_features))

    def forward(self, obs: Tensor) -> Tensor:
        return F.linear(self.features(obs), self.weight)


class Polynomial(nn.Module):
    """Π_j x_j^{c_j} for every c in {0 … order}^k (Sutton & Barto 2018, eq. 9.17)."""

    def __init__(self, unit: UnitBox, order: int) -> None:
        super().__init__()
        self.unit, self.order = unit, order
        self.out_features = (order + 1) ** len(unit.scales)

    def forward(self, obs: Tensor) -> Tensor:
        def powers(x: Tensor) -> Tensor:
            columns = [torch.ones_like(x)]
            for _ in range(self.order):
                columns.append(columns[-1] * x)
            return torch.stack(columns, -1)

        return combinations([powers(x) for x in self.unit(obs)], torch.mul)


class Fourier(nn.Module):
    """cos(π Σ_j c_j x_j) for every c in {0 … order}^k (Konidaris et al. 2011, eq. 4)."""

    def __init__(self, unit: UnitBox, order: int) -> None:
        super().__init__()
        self.unit, self.order = unit, order
        self.out_features = (order + 1) ** len(unit.scales)

    def forward(self, obs: Tensor) -> Tensor:
        frequencies = torch.arange(self.order + 1, device=obs.device) * math.pi
        return combinations([x.unsqueeze(-1) * frequencies for x in self.unit(obs)], torch.add).cos()


class RadialBasis(nn.Module):
    """exp(−‖x − c‖² / 2σ²) for centres c on an even grid over [0, 1]^k (Sutton & Barto 2018, eq. 9.19 f.).

    σ is `width` distances between neighbours, in each dimension its own (a single centre: `width` of the whole range).
    """

    def __init__(self, unit: UnitBox, centres: Sequence[int], width: float) -> None:
        super().__init__()
        self.unit, self.centres, self.width = unit, list(centres), width
        self.out_features = math.prod(self.centres)

    def forward(self, obs: Tensor) -> Tensor:
        def exponents(x: Tensor, n: int) -> Tensor:
            first, gap = (0.0, 1 / (n - 1)) if n > 1 else (0.5, 1.0)
            places = torch.arange(n, device=obs.device) * gap + first
            return ((x.unsqueeze(-1) - places) / (self.width * gap)).square() * -0.5

        columns = zip(self.unit(obs), self.centres, strict=True)
        return combinations([exponents(x, n) for x, n in columns], torch.add).exp()


def combinations(columns: Sequence[Tensor], combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """k tensors `(B, n_j)` to every combination of one entry of each, `(B, Π n_j)`, the last column fastest."""
    result = columns[0]
    for column in columns[1:]:
        result = combine(result.unsqueeze(-1), column.unsqueeze(-2)).flatten(-2)
    return result
