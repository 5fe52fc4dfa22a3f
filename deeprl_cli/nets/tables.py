"""Look-up tables: the outputs of a state are its row, or the sum of a few rows (tile coding).

Shapes: B batch, N rows, K outputs, T rows read for one observation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Table(nn.Module):
    """`forward(obs)` adds up the rows of a table (N, K) that `index(obs)` `(B, T)` names: `(B, K)`.

    With T = 1 it is the look-up table of the deck, Q̂(s) = w[s]; with tiles, w_iᵀφ(s) for a φ that is 1 at T places and
    0 elsewhere, without the product. Starts at zero, has no bias.
    """

    def __init__(self, index: JointIndex | Tiles, out_features: int) -> None:
        super().__init__()
        self.index = index
        self.table = nn.Parameter(torch.zeros(index.rows, out_features))
        self.multiplications = (index.read - index.rows) * out_features  # only rows that are read cost anything

    def forward(self, obs: Tensor) -> Tensor:
        return lookup(self.table, self.index(obs)).sum(1)


class JointIndex(nn.Module):
    """The number of a state: Discrete `(B,)` or MultiDiscrete `(B, k)` to `(B, 1)`, the last component fastest."""

    read = 1

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.rows = math.prod(self.sizes)

    def forward(self, obs: Tensor) -> Tensor:
        columns = obs.reshape(obs.shape[0], len(self.sizes)).long()
        index = columns[:, 0]
        for column, size in enumerate(self.sizes[1:], 1):
            index = index * size + columns[:, column]
        return index.unsqueeze(-1)


class Tiles(nn.Module):
    """Tile coding (Sutton & Barto 2018, 9.5.4): a vector `(B, k)` to the tile it lies in, in each tiling, `(B, T)`.

    Tiling t is shifted by t·(1, 3, 5, …)/T of a tile along dimensions 1, 2, 3, …, so that no diagonal is favoured; a
    shift by whole tiles only renames them and is left out, and one more tile a dimension covers the rest. `unit` brings
    observations to [0, 1].
    """

    def __init__(self, unit: UnitBox, tilings: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.unit, self.read, self.bins = unit, tilings, list(bins)
        self.rows = tilings * math.prod(n + 1 for n in self.bins)

    def forward(self, obs: Tensor) -> Tensor:
        tiling = torch.arange(self.read, device=obs.device)
        index = tiling
        for dimension, (x, n) in enumerate(zip(self.unit(obs), self.bins, strict=True)):
            shift = (tiling * (2 * dimension + 1) % self.read) / self.read
            # clamped as an integer too: NaN, which becomes some integer, must not read past the table
            tile = (x.unsqueeze(-1) * n + shift).floor().long().clamp(0, n)
            index = index * (n + 1) + tile
        return index


class UnitBox(nn.Module):
    """The dimensions of a vector `(B, k)`, each brought from its bounds to [0, 1], what lies beyond them to 0 or 1."""

    def __init__(self, bounds: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        # numbers, not a tensor: a module under `Stacked` has parameters only
        self.scales = [(low, 1 / (high - low) if high > low else 0.0) for low, high in bounds]

    def forward(self, obs: Tensor) -> list[Tensor]:
        columns = obs.float().unbind(-1)
        return [((x - low) * scale).clamp(0, 1) for x, (low, scale) in zip(columns, self.scales, strict=True)]


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Rows `(*index, K)` of a table `(N, K)`.

    A gather, of the several ways: it batches over seeds, and its gradient comes out the same every time, compiled on
    several threads too, where that of an embedding is a race between them.
    """
    rows = index.reshape(-1, 1).expand(-1, table.shape[1])
    found: Tensor = table.gather(0, rows).unflatten(0, index.shape)
    return found
