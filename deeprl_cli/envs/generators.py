"""For environments that draw from global generators: those of numpy, Python or torch.

Left alone, such an environment would draw other numbers in each run, and from the same stream as its neighbours.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np


class OwnGenerators(gym.Wrapper[Any, Any, Any, Any]):
    """Gives the environment global generators of its own around each reset and step: seeded with the episode's seed,
    going on from step to step, the process's left as they were."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._own: Any = None  # states, once there are any

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with kept_apart():
            self._enter(seed)
            answer = self.env.reset(seed=seed, options=options)
            self._own = states()
        return answer

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with kept_apart():
            self._enter(None)
            answer = self.env.step(action)
            self._own = states()
        return answer

    def _enter(self, seed: int | None) -> None:
        if seed is not None:
            seed_all(seed)
        elif self._own is not None:
            restore(self._own)


@contextmanager
def seeded_apart(seed: int) -> Iterator[None]:
    """Draw from generators seeded so, for as long as this lasts; the process's stay as they were."""
    with kept_apart():
        seed_all(seed)
        yield


@contextmanager
def kept_apart() -> Iterator[None]:
    """What is drawn in here leaves the global generators where they were."""
    outer = states()
    try:
        yield
    finally:
        restore(outer)


def seed_all(seed: int) -> None:
    np.random.seed(seed % 2**32)
    random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:  # what hasn't loaded it doesn't draw from it
        torch.default_generator.manual_seed(seed)


def states() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    return np.random.get_state(), random.getstate(), None if torch is None else torch.default_generator.get_state()


def digest() -> tuple[bytes, int, bytes]:
    """What tells whether somebody has drawn from them, or seeded them."""
    numpys, pythons, torchs = states()
    return numpys[1].tobytes(), hash((numpys[2:], pythons)), b"" if torchs is None else torchs.numpy().tobytes()


def restore(saved: tuple[Any, ...]) -> None:
    numpys, pythons, torchs = saved
    np.random.set_state(numpys)
    random.setstate(pythons)
    if torchs is not None:
        sys.modules["torch"].default_generator.set_state(torchs)
