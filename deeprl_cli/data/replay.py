"""The experience memory M: a first-in first-out ring per seed (deck: "if buffer is full, the oldest is removed").

Shapes: S seeds, C capacity, W columns of a packed row, N = S·B environments (seed-major).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprl_cli.algorithm import Transition
from deeprl_cli.envs.spec import EnvSpec, Step

Segments = Mapping[str, Callable[[], Mapping[str, Tensor]]]  # by name, what gives a piece of a checkpoint
SEGMENT_ROWS = 1 << 16  # rows of one immutable checkpoint segment


@dataclass(frozen=True)
class Column:
    """Where a field lies in a packed row."""

    start: int
    stop: int
    shape: tuple[int, ...]

    def shaped(self, part: Tensor) -> Tensor:
        """This field's columns `(S, batch, width)` as `(S, batch, *shape)`."""
        if len(self.shape) == 1:
            return part
        return part.unflatten(-1, self.shape) if self.shape else part.squeeze(-1)


class Replay:
    """Transitions as packed float32 rows: one write for a step and one gather for a minibatch, whatever the fields.

    `capacity` is what this run can fill; `most`, what a longer one would have. Observations are stored raw; a
    normaliser is applied when sampled. Images belong into frames.FrameMemory.
    """

    observations_in_rows = True

    def __init__(
        self,
        spec: EnvSpec,
        num_seeds: int,
        capacity: int,
        device: torch.device | str = "cpu",
        *,
        most: int | None = None,
    ) -> None:
        self.num_seeds, self.capacity = num_seeds, capacity
        self.most = max(most or 0, capacity)
        self.columns, self.width = layout(spec, observations=self.observations_in_rows)
        self.rows = torch.empty(num_seeds, capacity, self.width, device=device)
        self._array = self.rows.numpy() if self.rows.device.type == "cpu" else None  # the same memory, written faster
        self.beside: dict[str, Tensor] = {}  # what a subclass keeps of each transition beside its row, `(S, C, …)`
        self.written = np.zeros(num_seeds, np.int64)  # transitions ever written, per seed
        self._widths = [column.stop - column.start for column in self.columns.values()]
        self._device = torch.device(device)
        self._ones = torch.ones((), device=device)
        self._sizes = torch.zeros(num_seeds, 1, dtype=torch.int64, device=device)
        self._seed_axis = torch.arange(num_seeds, device=device).unsqueeze(-1)

    @staticmethod
    def bytes_needed(spec: EnvSpec, num_seeds: int, capacity: int) -> int:
        """Memory that a full ring takes."""
        return num_seeds * capacity * 4 * layout(spec)[1]

    def __len__(self) -> int:
        """Transitions held by the seed that holds fewest."""
        return int(self._held().min())

    def _held(self) -> np.ndarray:
        return np.minimum(self.written, self.capacity)

    def add(self, obs: np.ndarray, action: np.ndarray, step: Step) -> None:
        """Store one step of all N environments; dummies (weight 0) are left out."""
        self._write(self._block(obs, action, step), {}, step.weight)
        self._update_sizes()

    def _block(self, obs: np.ndarray, action: np.ndarray, step: Step) -> np.ndarray:
        """One step as packed rows `(N, W)`."""
        n = obs.shape[0]
        block = np.empty((n, self.width), np.float32)
        fields: dict[str, np.ndarray] = {"action": action, "reward": step.reward}
        fields |= {"terminated": step.terminated, "truncated": step.truncated}
        if self.observations_in_rows:
            fields |= {"obs": obs, "next_obs": step.next_obs}
        for name, value in fields.items():
            column = self.columns[name]
            block[:, column.start : column.stop] = value.reshape(n, -1)
        return block

    def _write(self, block: np.ndarray, beside: Mapping[str, np.ndarray], weight: np.ndarray) -> None:
        per_seed = block.shape[0] // self.num_seeds
        start = int(self.written[0] % self.capacity)
        if weight.all() and start + per_seed <= self.capacity and (self.written == self.written[0]).all():
            slots = slice(start, start + per_seed)
            rows = block.reshape(self.num_seeds, per_seed, -1)
            if self._array is not None:
                self._array[:, slots] = rows
            else:
                self.rows[:, slots] = torch.from_numpy(rows)
            for name, value in beside.items():
                self.beside[name][:, slots] = torch.from_numpy(value).unflatten(0, (self.num_seeds, per_seed))
            self.written += per_seed
        else:
            self._write_ragged(block, beside, weight, per_seed)

    def _write_ragged(
        self, block: np.ndarray, beside: Mapping[str, np.ndarray], weight: np.ndarray, per_seed: int
    ) -> None:
        """Around the ring's end, or with dummies to leave out: seed by seed."""
        for s in range(self.num_seeds):
            kept = s * per_seed + np.flatnonzero(weight[s * per_seed : (s + 1) * per_seed])
            slots = torch.from_numpy((self.written[s] + np.arange(len(kept))) % self.capacity)
            self.rows[s, slots] = torch.from_numpy(block[kept]).to(self._device)
            for name, value in beside.items():
                self.beside[name][s, slots] = torch.from_numpy(value[kept]).to(self.beside[name].device)
            self.written[s] += len(kept)

    def _update_sizes(self) -> None:
        self._sizes.copy_(torch.from_numpy(self._held()).unsqueeze(-1))

    def sample(self, bits: Tensor) -> Transition:
        """Uniformly drawn transitions `(S, batch, …)`, chosen by random `bits` `(S, batch)` (modulo bias < 2⁻⁴⁰)."""
        index = bits % self._sizes
        return Transition(**self._fields(index), weight=self._ones.expand(index.shape))

    def _fields(self, index: Tensor) -> dict[str, Tensor]:
        """What the rows at `index` `(S, batch)` hold."""
        rows = self._gather(self.rows, index)
        parts = rows.split(self._widths, -1)
        return {name: column.shaped(part) for (name, column), part in zip(self.columns.items(), parts, strict=True)}

    def _gather(self, storage: Tensor, index: Tensor) -> Tensor:
        if self.num_seeds == 1:
            return storage[0].index_select(0, index[0]).unsqueeze(0)
        return storage[self._seed_axis, index]

    # --- checkpoint -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.written.tolist(), "capacity": self.capacity, "segment_rows": SEGMENT_ROWS}

    def segments(self, seeds: slice = slice(None)) -> dict[str, Callable[[], dict[str, Tensor]]]:
        """Of these seeds alone, as if there were no others."""
        rings = {name: ring[seeds] for name, ring in {"rows": self.rows, **self.beside}.items()}
        return ring_segments("replay", rings, self.written[seeds], self.capacity, SEGMENT_ROWS)

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore from `state_dict()` and its segments, of a ring of another size as long as neither has come round.

        Raises ValueError where the shapes are another memory's.
        """
        smaller = min(state["capacity"], self.capacity)
        if state["capacity"] != self.capacity and (max(state["written"]) > smaller or state["capacity"] > self.most):
            raise ValueError(f"the memory was of {state['capacity']} transitions, not {self.capacity}")
        load_ring("replay", {"rows": self.rows, **self.beside}, segments, state["segment_rows"])
        self.written[:] = state["written"]
        self._update_sizes()


def layout(spec: EnvSpec, *, observations: bool = True) -> tuple[dict[str, Column], int]:
    """(columns of a packed row, its width), with or without the observations."""
    obs_shape = tuple(spec.observation_space.shape or ())
    fields = {"action": tuple(spec.action_space.shape or ()), "reward": (), "terminated": (), "truncated": ()}
    if observations:
        fields = {"obs": obs_shape, **fields, "next_obs": obs_shape}
    columns, start = {}, 0
    for name, shape in fields.items():
        size = math.prod(shape)
        columns[name] = Column(start, start + size, shape)
        start += size
    return columns, start


def ring_segments(
    prefix: str, tensors: Mapping[str, Tensor], written: np.ndarray, capacity: int, rows: int
) -> dict[str, Callable[[], dict[str, Tensor]]]:
    """Rings `(S, capacity, …)` in blocks of `rows` slots, `written` `(S,)` items having ever gone into each.

    A name carries how much was ever written there: same name, same bytes.
    """

    def reader(start: int, stop: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {name: tensor[:, start:stop].cpu().contiguous() for name, tensor in tensors.items()}

    blocks = {}
    laps, position = np.divmod(written, capacity)
    for start in range(0, int(min(written.max(), capacity)), rows):
        stop = min(start + rows, capacity)
        version = int((laps * (stop - start) + np.clip(position - start, 0, stop - start)).sum())
        filled = stop if laps.max() else min(stop, int(position.max()))
        blocks[f"{prefix}-{start // rows:05d}-{version:012d}"] = reader(start, filled)
    return blocks


def load_ring(
    prefix: str, tensors: Mapping[str, Tensor], segments: Mapping[str, Mapping[str, Tensor]], rows: int
) -> None:
    """Put back what `ring_segments` gave. Raises ValueError where the shapes are another ring's."""
    for name in sorted(segments):
        kind, block, _ = name.split("-")
        if kind != prefix:
            continue
        start = int(block) * rows
        for key, saved in segments[name].items():
            target = tensors[key][:, start : start + saved.shape[1]]
            if target.shape != saved.shape:
                raise ValueError(f"the memory's {key} were {tuple(saved.shape)}, not {tuple(target.shape)}")
            target.copy_(saved)
