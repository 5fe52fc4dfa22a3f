"""EnvPool: environments stepped by a C++ thread pool, one instance per run seed (it ignores reset(seed))."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.ids import quiet_construction
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.envs.spec import Array, EnvSpec
from deeprl_cli.envs.vector import NextStepVectorEnv, episode_seed
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.schema.run import EnvConfig


class EnvPoolVectorEnv(NextStepVectorEnv):
    """S pools of B environments each. A pool's seed is fixed when it is built: a further reset() builds new ones."""

    def __init__(self, config: EnvConfig, seeds: Sequence[int], num_envs: int, *, training: bool) -> None:
        clip = config.atari.enabled and config.atari.clip_reward and training
        super().__init__(seeds, num_envs, training=training, clip_reward=clip)
        try:
            import envpool
        except ImportError as error:
            raise ConfigError("env.backend=envpool needs envpool: pip install 'deeprl-cli[envpool]'") from error
        known = envpool.list_all_envs()
        if config.id not in known:
            raise ConfigError(f"EnvPool has no environment '{config.id}'{_suggestion(config.id, known)}")
        self._config, self._envpool = config, envpool
        self._arguments = self._pool_arguments(training)
        self._pools: list[Any] = []
        self._open(0)
        with quiet_construction():
            self._action_space, observation_space = self._pools[0].action_space, self._pools[0].observation_space
        self.own_spaces = (observation_space, self._action_space)
        self._actions = ActionView(config.id, self._action_space)
        self._view = ObservationView(config.id, observation_space)
        self.spec = EnvSpec(config.id, self._view.space, self._actions.space)

    def _pool_arguments(self, training: bool) -> dict[str, Any]:
        config, atari = self._config, self._config.atari
        arguments = dict(config.kwargs)
        if config.max_episode_steps is not None:
            arguments["max_episode_steps"] = config.max_episode_steps
        self._by_life = False
        if atari.enabled:
            self._by_life = training and atari.terminal_on_life_loss
            arguments = {
                "stack_num": config.frame_stack,
                "frame_skip": atari.frame_skip,
                "noop_max": atari.noop_max,
                "use_fire_reset": atari.fire_reset,
                "img_height": atari.screen_size,
                "img_width": atari.screen_size,
                "episodic_life": self._by_life,
                "reward_clip": False,  # clipped here, so that episode returns stay true
                **arguments,
            }
        elif config.frame_stack > 1:
            raise ConfigError("env.backend=envpool stacks frames of Atari games only (env.atari.enabled=true)")
        return arguments

    def _open(self, resets: int) -> None:
        """New pools, seeded by how often that has been done."""
        self.close()
        for seed in self.seeds:
            pool_seed = episode_seed(seed, 0, resets, training=self.training)
            try:
                with quiet_construction():
                    pool = self._envpool.make(
                        self._config.id,
                        env_type="gymnasium",
                        num_envs=self.envs_per_seed,
                        seed=pool_seed,
                        **self._arguments,
                    )
            except (TypeError, ValueError, AssertionError, RuntimeError) as error:
                unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if unknown:
                    raise ConfigError(
                        f"env.kwargs.{unknown[1]}: EnvPool's '{self._config.id}' doesn't take it"
                    ) from error
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ConfigError(f"EnvPool can't build '{self._config.id}': {reason}") from error
            self._pools.append(pool)
        self._opened = resets

    def close(self) -> None:
        for pool in self._pools:
            pool.close()
        self._pools = []

    def _reset_all(self, resets: int) -> Array:
        if resets != self._opened:
            self._open(resets)
        with quiet_construction():  # a pool builds its spaces again at its first reset
            return self._joined([pool.reset()[0] for pool in self._pools])

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        decoded = self._actions.decode(actions)
        rows = decoded.astype(self._action_space.dtype)  # EnvPool takes exactly this dtype
        rows = rows.reshape(len(self.seeds), self.envs_per_seed, *decoded.shape[1:])
        parts = [pool.step(row) for pool, row in zip(self._pools, rows, strict=True)]
        obs, reward, terminated, truncated, infos = zip(*parts, strict=True)
        ended = np.concatenate(terminated)
        # under episodic_life a lost life terminates too; `info["terminated"]` tells of the whole game
        over = np.concatenate([info["terminated"] for info in infos]).astype(bool) if self._by_life else ended
        return self._joined(obs), np.concatenate(reward), ended, np.concatenate(truncated), ended & ~over

    def _joined(self, parts: Sequence[Array]) -> Array:
        return self._view.convert(np.concatenate(parts), self.num_envs)


def _suggestion(env_id: str, known: Sequence[str]) -> str:
    """The nearest id of EnvPool, whose names differ: ALE/Pong-v5 and PongNoFrameskip-v4 are both Pong-v5 there."""
    bare = re.sub(r"^ALE/|NoFrameskip", "", env_id)
    name = re.sub(r"-v\d+$", "", bare)
    same = sorted((other for other in known if re.sub(r"-v\d+$", "", other) == name), key=_version)
    return f"; there it is '{same[-1]}'" if same else did_you_mean(bare, known)


def _version(env_id: str) -> int:
    return int(env_id.rpartition("-v")[2] or 0)
