"""An environment's own vector form (gymnasium's `vector_entry_point`), one instance per run seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.ids import construction_errors, resolve
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.envs.spec import Array, EnvSpec
from deeprl_cli.envs.vector import NextStepVectorEnv, episode_seed
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.run import EnvConfig


class NativeVectorEnv(NextStepVectorEnv):
    """S instances of B environments each: an instance draws all its environments' starts from one generator."""

    def __init__(self, config: EnvConfig, seeds: Sequence[int], num_envs: int, *, training: bool) -> None:
        super().__init__(seeds, num_envs, training=training, clip_reward=False)
        registered = resolve(config.id)
        if registered.vector_entry_point is None:
            raise ConfigError(f"env.backend=native: '{config.id}' has no vector form of its own; use env.backend=sync")
        if config.frame_stack > 1 or config.atari.enabled:
            key = "env.atari.enabled=true" if config.atari.enabled else f"env.frame_stack={config.frame_stack}"
            raise ConfigError(f"env.backend=native: an environment's own vector form takes no {key}; use sync or async")
        kwargs = dict(config.kwargs)
        if config.max_episode_steps is not None:
            kwargs["max_episode_steps"] = config.max_episode_steps
        with construction_errors(registered, kwargs, entry_point=registered.vector_entry_point):
            self._envs = [
                gym.make_vec(config.id, num_envs, vectorization_mode="vector_entry_point", **kwargs) for _ in seeds
            ]
        mode = self._envs[0].metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise ConfigError(
                f"env.backend=native: '{config.id}' resets by {mode}, not NEXT_STEP; use env.backend=sync"
            )
        self._actions = ActionView(config.id, self._envs[0].single_action_space)
        self._view = ObservationView(config.id, self._envs[0].single_observation_space)
        self.spec = EnvSpec(config.id, self._view.space, self._actions.space)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _reset_all(self, resets: int) -> Array:
        return self._joined(
            env.reset(seed=episode_seed(seed, 0, resets, training=self.training))[0]
            for env, seed in zip(self._envs, self.seeds, strict=True)
        )

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        rows = self._actions.decode(actions).reshape(len(self.seeds), self.envs_per_seed, *self._env_action_shape())
        parts = [env.step(row)[:4] for env, row in zip(self._envs, rows, strict=True)]
        obs, reward, terminated, truncated = zip(*parts, strict=True)
        ends = np.concatenate(terminated), np.concatenate(truncated)
        return self._joined(obs), np.concatenate(reward), *ends, np.zeros(self.num_envs, bool)

    def _env_action_shape(self) -> tuple[int, ...]:
        return self._envs[0].single_action_space.shape or ()

    def _joined(self, parts: Any) -> Array:
        # a copy: native environments may hand out their own state
        return self._view.convert(np.concatenate([np.asarray(part) for part in parts]), self.num_envs)
