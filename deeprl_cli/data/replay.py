"""The experience memory M: a first-in first-out ring per seed (deck: "if buffer is full, the oldest is removed").

Shapes: S seeds, C capacity, W columns of a packed row, N = S·B environments (seed-major).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from deeprl_cli.algorithm import Transition
from deeprl_cli.envs.spec import EnvSpec, Step

SEGMENT_ROWS = 1 << 16  # rows of one immutable checkpoint segment


@dataclass(frozen=True)
class Column:
    """Where a field lies in a packed row."""

    start: int
    stop: int
    shape: tuple[int, ...]

    def read(self, rows: Tensor) -> Tensor:
        """The field of `(S, batch, W)` rows: `(S, batch, *shape)`."""
        return rows[..., self.start : self.stop].unflatten(-1, self.shape) if self.shape else rows[..., self.start]


class Replay:
    """Transitions as packed float32 rows: one write for a step and one gather for a minibatch, whatever the fields.

    Image observations lie beside the rows as bytes. Observations are stored raw; a normaliser is applied when sampled.
    """

    def __init__(self, spec: EnvSpec, num_seeds: int, capacity: int, device: torch.device | str = "cpu") -> None:
        self.num_seeds, self.capacity = num_seeds, capacity
        self.columns, self.width, self.byte_shape = layout(spec)
        self.rows = torch.empty(num_seeds, capacity, self.width, device=device)
        self.frames = {
            name: torch.empty(num_seeds, capacity, *self.byte_shape, dtype=torch.uint8, device=device)
            for name in (("obs", "next_obs") if self.byte_shape else ())
        }
        self.written = np.zeros(num_seeds, np.int64)  # transitions ever written, per seed
        self._device = torch.device(device)
        self._ones = torch.ones((), device=device)
        self._sizes = torch.zeros(num_seeds, 1, dtype=torch.int64, device=device)
        self._seed_axis = torch.arange(num_seeds, device=device).unsqueeze(-1)

    @staticmethod
    def bytes_needed(spec: EnvSpec, num_seeds: int, capacity: int) -> int:
        """Memory that a full ring takes."""
        _, width, byte_shape = layout(spec)
        return num_seeds * capacity * (4 * width + 2 * (math.prod(byte_shape) if byte_shape else 0))

    def __len__(self) -> int:
        """Transitions held by the seed that holds fewest."""
        return int(min(self.written.min(), self.capacity))

    def add(self, obs: np.ndarray, action: np.ndarray, step: Step) -> None:
        """Store one step of all N environments; dummies (weight 0) are left out."""
        n = obs.shape[0]
        block = np.empty((n, self.width), np.float32)
        fields: dict[str, np.ndarray] = {"action": action, "reward": step.reward}
        fields |= {"terminated": step.terminated, "truncated": step.truncated}
        if not self.frames:
            fields |= {"obs": obs, "next_obs": step.next_obs}
        for name, value in fields.items():
            column = self.columns[name]
            block[:, column.start : column.stop] = value.reshape(n, -1)
        pictures = {"obs": obs, "next_obs": step.next_obs} if self.frames else {}
        self._write(block, pictures, step.weight)

    def _write(self, block: np.ndarray, pictures: Mapping[str, np.ndarray], weight: np.ndarray) -> None:
        per_seed = block.shape[0] // self.num_seeds
        start = int(self.written[0] % self.capacity)
        if weight.all() and start + per_seed <= self.capacity and (self.written == self.written[0]).all():
            slots = slice(start, start + per_seed)
            self.rows[:, slots] = torch.from_numpy(block).view(self.num_seeds, per_seed, -1)
            for name, value in pictures.items():
                self.frames[name][:, slots] = torch.from_numpy(value).view(self.num_seeds, per_seed, *self.byte_shape)
            self.written += per_seed
        else:
            self._write_ragged(block, pictures, weight, per_seed)
        self._sizes.copy_(torch.from_numpy(np.minimum(self.written, self.capacity)).unsqueeze(-1))

    def _write_ragged(
        self, block: np.ndarray, pictures: Mapping[str, np.ndarray], weight: np.ndarray, per_seed: int
    ) -> None:
        """Around the ring's end, or with dummies to leave out: seed by seed."""
        for s in range(self.num_seeds):
            kept = s * per_seed + np.flatnonzero(weight[s * per_seed : (s + 1) * per_seed])
            slots = torch.from_numpy((self.written[s] + np.arange(len(kept))) % self.capacity)
            self.rows[s, slots] = torch.from_numpy(block[kept]).to(self._device)
            for name, value in pictures.items():
                self.frames[name][s, slots] = torch.from_numpy(value[kept]).to(self._device)
            self.written[s] += len(kept)

    def sample(self, bits: Tensor) -> Transition:
        """Uniformly drawn transitions `(S, batch, …)`, chosen by random `bits` `(S, batch)` (modulo bias < 2⁻⁴⁰)."""
        index = bits % self._sizes
        rows = self._gather(self.rows, index)
        fields = {name: column.read(rows) for name, column in self.columns.items()}
        fields |= {name: self._gather(frames, index) for name, frames in self.frames.items()}
        return Transition(**fields, weight=self._ones.expand(index.shape))

    def _gather(self, storage: Tensor, index: Tensor) -> Tensor:
        if self.num_seeds == 1:
            return storage[0].index_select(0, index[0]).unsqueeze(0)
        return storage[self._seed_axis, index]

    def minibatches(self, draws: Iterator[Tensor]) -> Iterator[Transition]:
        return (self.sample(bits) for bits in draws)

    # --- checkpoint -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.written.tolist(), "capacity": self.capacity, "segment_rows": SEGMENT_ROWS}

    def segments(self) -> dict[str, Callable[[], dict[str, Tensor]]]:
        """The ring in blocks of slots. A name carries how much was ever written there: same name, same bytes."""
        blocks = {}
        for start in range(0, int(min(self.written.max(), self.capacity)), SEGMENT_ROWS):
            stop = min(start + SEGMENT_ROWS, self.capacity)
            laps, position = np.divmod(self.written, self.capacity)
            version = int((laps * (stop - start) + np.clip(position - start, 0, stop - start)).sum())
            filled = stop if laps.max() else min(stop, int(position.max()))
            blocks[f"replay-{start // SEGMENT_ROWS:05d}-{version:012d}"] = self._reader(start, filled)
        return blocks

    def _reader(self, start: int, stop: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {
            "rows": self.rows[:, start:stop].cpu().contiguous(),
            **{name: frames[:, start:stop].cpu().contiguous() for name, frames in self.frames.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore from `state_dict()` and its segments. Raises ValueError where the shapes are another memory's."""
        if state["capacity"] != self.capacity:
            raise ValueError(f"the memory was of {state['capacity']} transitions, not {self.capacity}")
        for name in sorted(segments):
            start = int(name.split("-")[1]) * int(state["segment_rows"])
            for key, saved in segments[name].items():
                storage = self.rows if key == "rows" else self.frames[key]
                storage[:, start : start + saved.shape[1]] = saved.to(self._device)
        self.written[:] = state["written"]
        self._sizes.copy_(torch.from_numpy(np.minimum(self.written, self.capacity)).unsqueeze(-1))


def layout(spec: EnvSpec) -> tuple[dict[str, Column], int, tuple[int, ...]]:
    """(columns of a packed row, its width, shape of byte observations or ())."""
    space = spec.observation_space
    is_bytes = isinstance(space, Box) and space.dtype == np.uint8
    obs_shape = tuple(space.shape or ())
    fields = {"action": tuple(spec.action_space.shape or ()), "reward": (), "terminated": (), "truncated": ()}
    if not is_bytes:
        fields = {"obs": obs_shape, **fields, "next_obs": obs_shape}
    columns, start = {}, 0
    for name, shape in fields.items():
        size = math.prod(shape)
        columns[name] = Column(start, start + size, shape)
        start += size
    return columns, start, obs_shape if is_bytes else ()
