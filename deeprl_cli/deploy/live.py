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
from deeprl_cli.evaluation.episodes import EVAL_ENVS, FRESH, surely_ending
from deeprl_cli.evaluation.video import Frame, make_rendered, render
from deeprl_cli.runs.lock import held
from deeprl_cli.runs.weights import Kind, best_path, has_best
from deeprl_cli.schema.run import RunConfig

LOOK = 0.5  # seconds between looks for newer weights


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
    """Plays one seed of a run. Whenever an episode begins, its weights are the newest of their kind: a run that is
    under way can be watched as it learns.

    `every`: follow the training. Of the best and the last weights (without `checkpoint`) those that are newer play one
    episode; the next begins when newer ones have come, and so many seconds later at the earliest; none does after the
    training's end. Its first weights are waited for. Raises UserError where there are none.
    """

    def __init__(
        self,
        run: Path,
        cfg: RunConfig,
        seed: int,
        checkpoint: Kind | None,
        *,
        stochastic: bool,
        every: float | None = None,
    ) -> None:
        """`run` must be trusted already where its environment names a module."""
        self.run, self.cfg, self.seed, self.checkpoint, self.stochastic = run, cfg, seed, checkpoint, stochastic
        self.every = every
        self._stamp: dict[Kind, int] = {}
        while every is not None and not self._written() and held(run):
            time.sleep(LOOK)
        self.kept = self._load()

    def _load(self) -> Kept:
        self._stamp, checkpoint = self._written(), self.checkpoint
        if self.every is not None and self._stamp:
            checkpoint = max(self._stamp.items(), key=lambda written: written[1])[0]
        kept = load_policies(self.run, self.cfg, checkpoint, trust=True)[self.seed]
        if self.stochastic:
            kept.policy.reset(seed=self.seed)
        return kept

    def _written(self) -> dict[Kind, int]:
        """When those of the weights that are there, and may be played, were written. A step's never change."""
        files: dict[Kind, Path] = {"last": self.run / "checkpoints" / "last" / "manifest.json"}
        if has_best(self.run, self.cfg.seed_list):
            files["best"] = best_path(self.run, self.seed)
        meant = {kind: file for kind, file in files.items() if self.checkpoint in (None, kind)}
        return {kind: file.stat().st_mtime_ns for kind, file in meant.items() if file.exists()}

    def make_env(self, mode: str = "rgb_array") -> gym.Env[Any, Any]:
        """An environment to play in, as an evaluation has it, drawn as `mode` says. Raises UserError."""
        return make_rendered(surely_ending(self.cfg.env, self.cfg.eval.max_steps), mode)

    def episodes(self, env: gym.Env[Any, Any], count: int | None, drawn: bool) -> Iterator[Moment]:
        """Each moment of `count` episodes (None: for ever), those that `deeprl eval` plays; `drawn`: with its frame."""
        number = 0
        while count is None or number < count:
            began = time.monotonic()
            if self._written() != self._stamp:
                self.kept = self._load()
            yield from self._episode(env, number, drawn)
            number += 1
            if self.every is not None and not (number == count or self._newer_come(env, began + self.every)):
                return

    def _newer_come(self, env: gym.Env[Any, Any], earliest: float) -> bool:
        """Wait for newer weights, at least until `earliest` (of `time.monotonic`); False: the training has ended."""
        while True:
            going = held(self.run)  # looked at first: a run writes its last weights, and then lets go
            newer = self._written() != self._stamp
            if not going or (newer and time.monotonic() >= earliest):
                return newer
            env.render()  # a window that isn't drawn is taken to hang
            time.sleep(LOOK)

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
