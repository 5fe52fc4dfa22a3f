"""The replay memory of image observations: every frame is stored once, and stacks are built when they are sampled.

Shapes: S seeds, B environments a seed, N = S·B (seed-major), C transitions, k frames in an observation, F frames held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprl_cli.algorithm import Transition
from deeprl_cli.data.replay import Replay, layout, load_ring, ring_segments
from deeprl_cli.envs.spec import EnvSpec, Step, channels_last
from deeprl_cli.errors import ConfigError

SEGMENT_FRAMES = 1 << 13  # frames of one immutable checkpoint segment


class FrameMemory(Replay):
    """A Replay whose transitions hold the places of their k+1 frames (those of `obs` and the newest of `next_obs`).

    Observations are k frames along the channel axis, `(k·c, H, W)` or `(H, W, k·c)`, the oldest first. A seed's B
    environments write their frames into one ring: of each step the newest frame, and at an episode's start the first.
    Frames that no action followed (final ones) are thus no transitions, and every transition is drawn alike.

    C transitions of `num_envs` environments that never end an episode need at most F = C + B·(k+1) frames. Each start
    takes one frame more, so where episodes are short the memory holds somewhat fewer than C. A memory made smaller than
    `most`, the C that it stands for, grows instead until it has that many.
    """

    observations_in_rows = False

    def __init__(
        self,
        spec: EnvSpec,
        num_seeds: int,
        capacity: int,
        device: torch.device | str = "cpu",
        *,
        num_envs: int = 1,
        stack: int = 1,
        most: int | None = None,
    ) -> None:
        super().__init__(spec, num_seeds, capacity, device, most=most)
        self.num_envs, self.stack = num_envs, stack
        self.channels_last, self.frame_shape = frame_layout(spec, stack)
        self.num_frames = capacity + num_envs * (stack + 1)
        self.most_frames = self.most + num_envs * (stack + 1)
        self.frames = torch.empty(num_seeds, self.num_frames, *self.frame_shape, dtype=torch.uint8, device=device)
        self._flat = self.frames.flatten(0, 1)
        self.beside = {
            "places": torch.empty(num_seeds, capacity, stack + 1, dtype=torch.int32, device=device),
            "oldest": torch.empty(num_seeds, capacity, dtype=torch.int64),
        }
        self._oldest = self.beside["oldest"].numpy()
        self.stored = np.zeros(num_seeds, np.int64)  # frames ever stored, per seed: a frame's number counts them
        self.first = np.zeros(num_seeds, np.int64)  # the oldest transition held, per seed, counted like `written`
        self._window = np.zeros((num_seeds * num_envs, stack), np.int64)  # numbers of the frames of `_current`
        self._current: np.ndarray | None = None  # the observations the next step starts from
        self._first = torch.zeros(num_seeds, 1, dtype=torch.int64, device=device)
        self._env_seeds = np.repeat(np.arange(num_seeds), num_envs)

    @staticmethod
    def bytes_needed(spec: EnvSpec, num_seeds: int, capacity: int, num_envs: int = 1, stack: int = 1) -> int:
        """Memory that a full ring takes."""
        _, frame_shape = frame_layout(spec, stack)
        transition = 4 * layout(spec, observations=False)[1] + 4 * (stack + 1) + 8
        return num_seeds * (capacity * transition + (capacity + num_envs * (stack + 1)) * math.prod(frame_shape))

    def add(self, obs: np.ndarray, action: np.ndarray, step: Step) -> None:
        """Store one step of all N environments; dummies (weight 0) are left out.

        Raises ValueError where an observation isn't the one before, moved on by one frame.
        """
        self._follow(obs)
        weight = step.weight != 0
        real = np.flatnonzero(weight)
        self._check_stacks(obs, step.next_obs, weight)
        numbers = np.empty((len(obs), self.stack + 1), np.int64)
        numbers[:, :-1], numbers[:, -1] = self._window, self._window[:, -1]
        numbers[real, -1] = self._store(real, self._frame(self._planes(step.next_obs), -1)[real])
        beside = {
            "places": self._place(self._env_seeds[:, None], numbers).astype(np.int32),
            # of all the seed's environments, so that it never falls from one transition to the next
            "oldest": self._window[:, 0].reshape(self.num_seeds, -1).min(1)[self._env_seeds],
        }
        self._write(self._block(obs, action, step), beside, step.weight)
        self._window[real] = numbers[real, 1:]

        begun = ~weight
        if step.obs is not step.next_obs:
            begun |= step.terminated | step.truncated
        if begun.any():
            self._begin(np.flatnonzero(begun), step.obs)
        self._current = step.obs
        self._forget()

    def _check_stacks(self, obs: np.ndarray, next_obs: np.ndarray, weight: np.ndarray) -> None:
        """A stack that doesn't move on by one frame (an environment that stacks by itself) couldn't be rebuilt."""
        if self.stack == 1:
            return
        newer, older = self._planes(obs)[:, self.frame_shape[0] :], self._planes(next_obs)[:, : -self.frame_shape[0]]
        if not weight.all():
            newer, older = newer[weight], older[weight]
        if not np.array_equal(newer, older):
            raise ValueError(
                f"observations of shape {obs.shape[1:]} are not the last {self.stack} frames (env.frame_stack)"
            )

    def _planes(self, obs: np.ndarray) -> np.ndarray:
        """Observations `(n, *obs)` with the channels first, as frames are held."""
        return np.moveaxis(obs, -1, 1) if self.channels_last else obs

    def _follow(self, obs: np.ndarray) -> None:
        """Start anew in environments that aren't where the last step left them (a run that begins, or is resumed)."""
        if obs is self._current:
            return
        if self._current is None:
            strangers = np.arange(len(obs))
        else:
            strangers = np.flatnonzero((obs != self._current).reshape(len(obs), -1).any(1))
        if strangers.size:
            self._begin(strangers, obs)

    def _begin(self, who: np.ndarray, obs: np.ndarray) -> None:
        """Store the first observations of environments `who` (ascending): one frame, where it fills the whole stack.

        Other stacks (a back-end that goes on with its frames after a lost life) bring their older frames along.
        """
        stacks = self._planes(obs[who])
        older = [self._frame(stacks, j) for j in range(self.stack - 1)]
        newest = self._frame(stacks, -1)
        filled = np.ones(len(who), bool)
        for frame in older:
            filled &= (frame == newest).reshape(len(who), -1).all(1)
        if not filled.all():
            for j, frame in enumerate(older):
                self._window[who[~filled], j] = self._store(who[~filled], frame[~filled])
        self._window[who, -1] = self._store(who, newest)
        self._window[who[filled]] = self._window[who[filled], -1:]

    def _store(self, who: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Append a frame for each environment of `who` (ascending); returns the frames' numbers `(len(who),)`."""
        seeds = self._env_seeds[who]
        if self.num_frames < self.most_frames and self.stored.max() + len(who) > self.num_frames:
            self._grow(2 * self.num_frames)
        numbers: np.ndarray = self.stored[seeds] + np.arange(len(who)) - np.searchsorted(seeds, seeds)
        places = torch.from_numpy(self._place(seeds, numbers)).to(self._device)
        rows = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device)
        self._flat.index_copy_(0, places, rows)
        self.stored += np.bincount(seeds, minlength=self.num_seeds)
        return numbers

    def _grow(self, frames: int) -> None:
        """Room for so many frames. None has been overwritten yet: each keeps its place within its seed's."""
        frames = min(frames, self.most_frames)
        larger = self.frames.new_empty(self.num_seeds, frames, *self.frame_shape)
        larger[:, : self.num_frames] = self.frames
        self._shift_places(frames - self.num_frames)
        self.frames, self.num_frames = larger, frames
        self._flat = self.frames.flatten(0, 1)

    def _shift_places(self, by: int) -> None:
        """Places count through all seeds' frames: of each seed, on by what the ones before it have more."""
        seeds = torch.arange(self.num_seeds, dtype=torch.int32, device=self._device)
        self.beside["places"] += by * seeds.view(-1, 1, 1)

    def _place(self, seeds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Where frames of these numbers lie in `frames`, all seeds in a row."""
        places: np.ndarray = seeds * self.num_frames + numbers % self.num_frames
        return places

    def _frame(self, stacks: np.ndarray, j: int) -> np.ndarray:
        """The j-th frame (-1: the newest) of stacks with their channels first: `(n, c, H, W)`."""
        start = j % self.stack * self.frame_shape[0]
        return stacks[:, start : start + self.frame_shape[0]]

    def _forget(self) -> None:
        """Let go of transitions that are overwritten, or whose frames are."""
        np.maximum(self.first, self.written - self.capacity, out=self.first)
        lost = (self.stored - self.num_frames)[:, None]  # frames of smaller numbers are overwritten
        more = bool((lost > 0).any())
        while more:
            ahead = self.first[:, None] + np.arange(2 * self.num_envs)
            oldest = self._oldest[np.arange(self.num_seeds)[:, None], ahead % self.capacity]
            dead = (ahead < self.written[:, None]) & (oldest < lost)
            self.first += dead.sum(1)
            more = bool(dead[:, -1].any())
        self._update_sizes()

    def _held(self) -> np.ndarray:
        return self.written - self.first

    def _update_sizes(self) -> None:
        super()._update_sizes()
        self._first.copy_(torch.from_numpy(self.first).unsqueeze(-1))

    def sample(self, bits: Tensor) -> Transition:
        """Uniformly drawn transitions `(S, batch, …)`, chosen by random `bits` `(S, batch)` (modulo bias < 2⁻⁴⁰).

        `obs` and `next_obs` are views of the same k+1 frames: don't write into them.
        """
        index = (self._first + bits % self._sizes) % self.capacity
        places = self._gather(self.beside["places"], index)
        frames = self._flat.index_select(0, places.flatten()).unflatten(0, places.shape)
        planes, size = frames.flatten(2, 3), self.frame_shape[0]
        obs, next_obs = planes[:, :, :-size], planes[:, :, size:]
        if self.channels_last:
            obs, next_obs = obs.movedim(2, -1), next_obs.movedim(2, -1)
        return Transition(obs=obs, next_obs=next_obs, **self._fields(index), weight=self._ones.expand(index.shape))

    # --- checkpoint -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "frames": {
                "stored": self.stored.tolist(),
                "first": self.first.tolist(),
                "window": self._window.copy(),
                "current": self._current,
                "count": self.num_frames,
                "segment_rows": SEGMENT_FRAMES,
            },
        }

    def segments(self, seeds: slice = slice(None)) -> dict[str, Callable[[], dict[str, Tensor]]]:
        first, frames = (seeds.start or 0) * self.num_frames, {"frames": self.frames[seeds]}
        rings = super().segments(seeds) | ring_segments(
            "frames", frames, self.stored[seeds], self.num_frames, SEGMENT_FRAMES
        )
        return {name: partial(_counted_from, first, read) for name, read in rings.items()} if first else rings

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, Tensor]]) -> None:
        saved = state["frames"]
        count = saved.get("count", state["capacity"] + self.num_envs * (self.stack + 1))  # as the first versions had it
        if max(saved["stored"]) > self.num_frames < self.most_frames:
            self._grow(max(saved["stored"]))
        if count != self.num_frames and max(saved["stored"]) > min(count, self.num_frames):
            raise ValueError(f"the memory was of {count} frames, not {self.num_frames}")
        load_ring("frames", {"frames": self.frames}, segments, saved["segment_rows"])
        self.stored[:], self.first[:] = saved["stored"], saved["first"]
        self._window[:] = np.asarray(saved["window"])
        self._current = None if saved["current"] is None else np.asarray(saved["current"])
        super().load_state_dict(state, segments)
        self._shift_places(self.num_frames - count)


def _counted_from(first: int, read: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `read` gives, its places counted from another frame than that of the first seed."""
    pieces = read()
    return {name: piece - first if name == "places" else piece for name, piece in pieces.items()}


def frame_layout(spec: EnvSpec, stack: int) -> tuple[bool, tuple[int, ...]]:
    """(whether observations have their channels last, shape of one frame with them first: `(c, H, W)`).

    Raises ConfigError where the channels don't divide into `stack` frames.
    """
    shape = tuple(spec.observation_space.shape or ())
    last = len(shape) == 3 and channels_last(spec.observation_space)
    channels, *rest = (shape[-1], *shape[:-1]) if last else shape
    if channels % stack:
        raise ConfigError(f"env.frame_stack={stack}: observations of shape {shape} aren't that many frames stacked")
    return last, (channels // stack, *rest)
