"""Randomness as data: a Noise describes the random numbers of a step or an action; they are drawn in blocks outside it.

One generator per seed and purpose, on the CPU: a seed draws the same numbers alone and beside others, on every
device, compiled or not, and a checkpoint of the generators is a checkpoint of all that will be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deeprl_cli.seeding import mix


@dataclass(frozen=True)
class Noise:
    """One named input of random numbers. `shape` is what one draw has after the seed axis and the batch axes."""

    kind: Literal["normal", "uniform", "bits", "permutation"]
    shape: tuple[int, ...]

    def draw(self, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """`(*lead, *shape)`: standard normal, uniform in [0, 1), 62 random bits, or permutations of the last axis."""
        shape = lead + self.shape
        if self.kind == "normal":
            return torch.randn(shape, generator=generator)
        if self.kind == "uniform":
            return torch.rand(shape, generator=generator)
        if self.kind == "bits":
            return torch.randint(2**62, shape, generator=generator)
        return torch.rand(shape, generator=generator, dtype=torch.float64).argsort(-1)


def normal(*shape: int) -> Noise:
    return Noise("normal", shape)


def uniform(*shape: int) -> Noise:
    return Noise("uniform", shape)


def bits(*shape: int) -> Noise:
    return Noise("bits", shape)


def permutation(*shape: int) -> Noise:
    return Noise("permutation", shape)


class NoiseStream:
    """Draws `spec` for S seeds, `block` draws at a time; `next()` gives one, each `(S, *lead, *shape)`, on `device`.

    `purpose` separates streams of one seed (actions, updates): each has generators of its own, so that how often one
    is read never shifts another.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        purpose: str,
        spec: Mapping[str, Noise],
        lead: tuple[int, ...] = (),
        block: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spec, self.lead, self.device = dict(spec), lead, device
        largest = max((math.prod(lead + noise.shape) for noise in self.spec.values()), default=1)
        # of one seed's size alone: normal numbers depend on how many are drawn at a time
        self.block = max(1, min(block, 1_000_000 // max(largest, 1)))
        self.generators = [torch.Generator().manual_seed(mix(seed, purpose)) for seed in seeds]
        self._position = self.block
        self._drawn: dict[str, Tensor] = {}
        self._block_start = [generator.get_state() for generator in self.generators]

    def next(self) -> dict[str, Tensor]:
        if self._position == self.block:
            self._refill()
        position = self._position
        self._position += 1
        return {name: drawn[position] for name, drawn in self._drawn.items()}

    def _refill(self) -> None:
        self._block_start = [generator.get_state() for generator in self.generators]
        self._drawn = {
            name: torch.stack([noise.draw((self.block, *self.lead), g) for g in self.generators], 1).to(self.device)
            for name, noise in self.spec.items()
        }
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """The generators as they stood at the block's start, and how far into the block we are.

        A block used up is left behind: then the generators as they stand now, at the start of the next one.
        """
        used_up = self._position == self.block
        states = [generator.get_state() for generator in self.generators] if used_up else self._block_start
        return {"generators": torch.stack(states), "position": self._position, "block": self.block}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["block"] != self.block:
            raise ValueError(f"noise was drawn in blocks of {state['block']}, not {self.block}")
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.clone())  # torch 2.13 reads a view's state from the wrong place, and crashes
        self._block_start = [generator.get_state() for generator in self.generators]
        self._position = self.block
        if state["position"] < self.block:
            self._refill()
            self._position = state["position"]
