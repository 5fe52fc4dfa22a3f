"""A trained policy at play, step by step, for whoever watches: in the environment's own window, or on a page.

Shapes: an observation is what the algorithm sees, `(*obs,)`; a frame is (height, width, 3) bytes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from deeprl_cli.deploy.loading import Kept, load_policies
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation.episodes import EVAL_ENVS, FRESH
from deeprl_cli.evaluation.video import Frame, render
from deeprl_cli.runs.weights import Kind, best_path
from deeprl_cli.schema.run import RunConfig


@dataclass(frozen=True)
class Moment:
    """A step of an episode: before its first, `action` is None. `value` is what the policy expects from here on, None
    where it learned none; `ended`: how the episode did, "" while it goes on; `weights`: of which step of training."""

    episode: int
    step: int
    frame: Frame | None
    action: Any
    value: float | None
    reward: float
    total: float
    ended: str
    weights: int


class Player:
    """Plays one seed of a run. Whenever an episode begins, its weights are the newest there are: a run that is under
    way can be watched as it learns. Raises UserError where there are none."""

    def __init__(self, run: Path, cfg: RunConfig, seed: int, checkpoint: Kind | None, *, stochastic: bool) -> None:
        """`run` must be trusted already where its environment names a module."""
        self.run, self.cfg, self.seed, self.checkpoint, self.stochastic = run, cfg, seed, checkpoint, stochastic
        self._stamp: tuple[int, ...] = ()
        self.kept = self._load()

    def _load(self) -> Kept:
        self._stamp = self._written()
        kept = load_policies(self.run, self.cfg, self.checkpoint, trust=True)[self.seed]
        if self.stochastic:
            kept.policy.reset(seed=self.seed)
        return kept

    def _written(self) -> tuple[int, ...]:
        """When each file was that the weights may come from."""
        files = best_path(self.run, self.seed), self.run / "checkpoints" / "last" / "manifest.json"
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)

    def episodes(self, env: gym.Env[Any, Any], count: int | None, drawn: bool) -> Iterator[Moment]:
        """Each moment of `count` episodes (None: for ever), those that `deeprl eval` plays; `drawn`: with its frame."""
        number = 0
        while count is None or number < count:
            if self._written() != self._stamp:
                self.kept = self._load()
            yield from self._episode(env, number, drawn)
            number += 1

    def _episode(self, env: gym.Env[Any, Any], number: int, drawn: bool) -> Iterator[Moment]:
        policy = self.kept.policy
        policy.reset()
        again, place = divmod(number, EVAL_ENVS)  # side by side, as an evaluation plays them
        obs, _ = env.reset(seed=episode_seed(self.seed + FRESH, place, again, training=False))
        action, reward, total, step, ended = None, 0.0, 0.0, 0, ""
        while True:
            seen = np.asarray(obs)[None]
            if seen.shape[1:] != policy.inner.obs_shape:
                raise UserError(f"{self.run}: observations are {seen.shape[1:]}, its policy's {policy.inner.obs_shape}")
            value = policy.inner.value(seen)
            yield Moment(
                number + 1,
                step,
                render(env) if drawn else None,
                None if action is None else env.get_wrapper_attr("actions").decode([action])[0],
                None if value is None else float(value[0]),
                reward,
                total,
                ended,
                self.kept.step,
            )
            if ended:
                return
            noise = policy.draw(1) if self.stochastic else None
            action = policy.inner.act(seen, noise)[0]
            obs, gained, terminated, truncated, _ = env.step(action)
            reward = float(gained)
            total, step = total + reward, step + 1
            ended = "terminated" if terminated else "truncated" if truncated else ""


class Pace:
    """Waits so that moments come `per_second`; what took longer isn't caught up."""

    def __init__(self, per_second: float) -> None:
        self.interval, self._next = 1 / per_second, time.monotonic()

    def wait(self) -> None:
        self._next = max(self._next + self.interval, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))


def has_display() -> bool:
    """Whether a window could be opened here."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
