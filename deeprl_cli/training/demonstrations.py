"""The supervised loop: minibatches of steps that the environment demonstrates; nothing is played.

Shapes: S seeds, M steps in a minibatch. Steps count demonstrated steps of one seed.

An environment demonstrates by a method `demonstration(seed)`, the observations and actions of one episode in its own
terms. Those of a seed follow one another, numbered from 0, cut into minibatches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from deeprl_cli.algorithm import Transition
from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.make import build_env
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.envs.spec import Array, EnvSpec
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.run import DemonstrationConfig, EnvConfig
from deeprl_cli.training.base import Trainer

TEACHER = 1 << 20  # instead of an environment's index, so that no played episode has these seeds


class DemonstrationTrainer(Trainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        assert isinstance(self.cfg.algo, DemonstrationConfig)
        self.batch_size = self.cfg.algo.batch_size
        learners = zip(self.cfg.member_envs, self.cfg.seed_list, strict=True)
        self.lessons = [Lessons(env, self.algorithm.spec, seed) for env, seed in learners]
        self.taken: list[tuple[Array, Array]] = []  # of each seed, the latest minibatch

    def iterate(self) -> None:
        if self.first_step_at is None:
            self.first_step_at = time.monotonic()
        batch = self.minibatch(self.steps_of_all())
        self.algorithm.set_progress(self.steps, self.horizon)
        self.steps += self.batch_size
        learnable = iter([self.policy.normalise(batch)])
        self.learned(self.algorithm.update(learnable, iter([self.update_noise.next()])))
        self.policy.observe(batch.obs, batch.weight)

    def steps_of_all(self) -> list[tuple[Array, Array]]:
        """The next steps of each seed. If an environment raises an error, its run ends, and the others go on."""
        taken: list[tuple[Array, Array]] = []
        for index, lessons in enumerate(self.lessons):
            if not self.shares.left[index]:
                try:
                    taken.append(lessons.take(self.batch_size))
                    continue
                except Exception as error:
                    self.shares.end(self.shares.of(index), error, self.steps)
            taken.append(self.taken[index] if self.taken else self.nothing())
        self.taken = taken
        return taken

    def nothing(self) -> tuple[Array, Array]:
        """A minibatch for a seed whose run has ended."""
        spec = self.algorithm.spec
        spaces = spec.observation_space, spec.action_space
        obs, action = (np.zeros((self.batch_size, *(space.shape or ())), space.dtype) for space in spaces)
        return obs, action

    def minibatch(self, steps: Sequence[tuple[Array, Array]]) -> Transition:
        """Each seed's (observations, actions) `(M, …)` as one Transition `(S, M, …)`."""
        obs, action = (torch.from_numpy(np.stack(field)).to(self.device) for field in zip(*steps, strict=True))
        zeros = torch.zeros(obs.shape[:2], device=self.device)
        return Transition(obs, action, zeros, obs, zeros, zeros, zeros + 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "lessons": [[lessons.number, lessons.used] for lessons in self.lessons]}

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().load_state_dict(state, segments)
        for lessons, (number, used) in zip(self.lessons, state["lessons"], strict=True):
            lessons.number, lessons.used = number, used


class Lessons:
    """The demonstrations of one seed, step by step. Where they stand is `number`, of the next one, and how many of its
    steps are `used`."""

    def __init__(self, cfg: EnvConfig, spec: EnvSpec, seed: int) -> None:
        self.env = build_env(cfg, training=True)
        check_demonstrations(cfg, spec, self.env)
        own = self.env.unwrapped
        self.observations = ObservationView(cfg.id, own.observation_space)
        self.actions = ActionView(cfg.id, own.action_space)
        self.seed, self.number, self.used = seed, 0, 0

    def take(self, count: int) -> tuple[Array, Array]:
        """The next `count` steps: observations and actions as the algorithm sees them."""
        steps: list[tuple[Any, Any]] = []
        while len(steps) < count:
            number = episode_seed(self.seed, TEACHER, self.number, training=True)
            rest = self.env.unwrapped.demonstration(number)[self.used :]  # type: ignore[attr-defined]
            taken = rest[: count - len(steps)]
            steps += taken
            finished = len(taken) == len(rest)
            self.number, self.used = (self.number + 1, 0) if finished else (self.number, self.used + len(taken))
        obs, actions = zip(*steps, strict=True)
        return self.observations.convert(obs, count), np.stack([self.actions.encode(action) for action in actions])


def check_demonstrations(cfg: EnvConfig, spec: EnvSpec, env: gym.Env[Any, Any] | None = None) -> None:
    """Raise ConfigError if the environment has no demonstrations, or the algorithm would see something else."""
    if cfg.wrappers:
        raise ConfigError(
            "env.wrappers: demonstrations are the environment's own steps, which no wrapper sees: use env.wrappers=[]"
        )
    env = env or build_env(cfg, training=True)
    own = env.unwrapped
    if not callable(getattr(own, "demonstration", None)):
        raise ConfigError(
            f"env.id={cfg.id} gives no demonstrations (it has no method demonstration(seed)): use an environment that "
            "does, such as env=ArithQA-v0"
        )
    if ObservationView(cfg.id, own.observation_space).space != spec.observation_space:
        raise ConfigError(
            f"env.id={cfg.id} demonstrates its own observations, and what is learned from are wrapped ones: give "
            "env.frame_stack=1 env.atari.enabled=false"
        )
