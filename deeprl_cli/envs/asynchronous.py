"""One process per environment, on gymnasium's AsyncVectorEnv: for environments that take milliseconds a step.

For light environments the synchronous back-end is many times faster: a message to a process costs more than a step.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.atari import LIFE_LOST
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.envs.replayed import ReplayedVectorEnv
from deeprl_cli.envs.spec import Array, EnvSpec, Step
from deeprl_cli.envs.sync import replay

Env = gym.Env[Any, Any]
FAILURE = "failure"  # key in `info`: the traceback of what the environment raised
_DEAD_WORKER = (EOFError, BrokenPipeError, ConnectionResetError)


class Worker(gym.Wrapper[Any, Any, Any, Any]):
    """What runs in a worker process: the environment, its observations converted, its exceptions sent as text.

    Raising in a worker would end it, log the traceback out of context and lose exceptions that can't be pickled.
    """

    def __init__(self, env_id: str, env: Env) -> None:
        super().__init__(env)
        self._actions = ActionView(env_id, env.action_space)
        self._view = ObservationView(env_id, env.observation_space)
        self.observation_space = self._view.space
        self.replay_task: tuple[int, Array] | None = None  # seed and actions; set from outside before replay()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            observation, _ = self.env.reset(seed=seed)
            if seed is not None:
                self._view.check(observation)
            return self._converted(observation), {}
        except Exception:
            return self._zeros(), {FAILURE: traceback.format_exc()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            kept = {LIFE_LOST: True} if LIFE_LOST in info else {}
            return self._converted(observation), float(reward), bool(terminated), bool(truncated), kept
        except Exception:
            return self._zeros(), 0.0, False, False, {FAILURE: traceback.format_exc()}

    def replay(self) -> Any:
        """The observation after replay_task; None without one; a traceback (str) where the environment raised."""
        if self.replay_task is None:
            return None
        seed, actions = self.replay_task
        decoded = self._actions.decode(actions)
        try:
            return self._converted(replay(self.env, seed, decoded.tolist() if self._actions.scalar else decoded))
        except Exception:
            return traceback.format_exc()

    def _converted(self, observation: Any) -> Array:
        return self._view.convert(observation, 1)[0]  # type: ignore[no-any-return]

    def _zeros(self) -> Array:
        return np.zeros(self._view.shape, self._view.dtype)


class AsynchronousVectorEnv(ReplayedVectorEnv):
    """N environments, one process each, observations through shared memory."""

    pausable = False

    def __init__(
        self,
        env_id: str,
        make_env: Callable[[], Env],
        seeds: Sequence[int],
        num_envs: int,
        *,
        training: bool,
        clip_reward: bool,
    ) -> None:
        def make_worker(parent: int = os.getpid()) -> Env:
            if os.getpid() != parent:
                # Ctrl-C reaches the whole process group; the parent decides when workers stop
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            return Worker(env_id, make_env())

        probe = make_env()
        action_view, space = (
            ActionView(env_id, probe.action_space),
            ObservationView(env_id, probe.observation_space).space,
        )
        probe.close()
        super().__init__(action_view, seeds, num_envs, training=training, clip_reward=clip_reward)
        self.spec = EnvSpec(env_id, space, action_view.space)
        try:
            self._envs = AsyncVectorEnv(
                [make_worker] * self.num_envs, shared_memory=True, copy=False, autoreset_mode=AutoresetMode.DISABLED
            )
        except _DEAD_WORKER as error:
            raise RuntimeError(f"{env_id}: an environment's process died while it was being built") from error

    def reset(self) -> Array:
        self._start_over()
        seeds: list[int | None] = [self._begin(index) for index in range(self.num_envs)]
        self.obs = self._reset_masked(seeds, None).copy()
        return self.obs

    def step(self, actions: npt.ArrayLike, running: npt.NDArray[np.bool_] | None = None) -> Step:
        assert running is None, "this back-end can't pause"
        actions = np.asarray(actions)
        try:
            observed, reward, terminated, truncated, info = self._envs.step(self._actions.decode(actions))
        except _DEAD_WORKER as error:
            self._report_death(error)
        self._raise_failure(info)
        self._history.append(actions)
        self._returns = [total + gained for total, gained in zip(self._returns, reward.tolist(), strict=True)]
        next_obs: Array = observed.copy()
        self._examine(next_obs, reward)
        done = terminated | truncated
        end = done & ~info.get(LIFE_LOST, np.zeros(self.num_envs, bool)).astype(bool)
        result = Step(
            obs=next_obs,
            next_obs=next_obs,
            reward=self._learning_reward(reward),
            terminated=terminated,
            truncated=truncated,
            weight=np.ones(self.num_envs, np.float32),
            episode_end=end,
            episode_return=np.where(end, self._returns, 0).astype(np.float32),
            episode_length=np.where(end, self._history.time - self._history.starts, 0),
        )
        if done.any():
            seeds = [self._begin(index) if ends else None for index, ends in enumerate(end.tolist())]
            first = self._reset_masked(seeds, done)
            result.obs = next_obs.copy()
            result.obs[done] = first[done]
        self.obs = result.obs
        return result

    def close(self) -> None:
        if not self._envs.closed:
            try:
                self._envs.close(timeout=5)
            except _DEAD_WORKER:
                for process in self._envs.processes:
                    process.terminate()
                self._envs.closed = True

    def _reset_masked(self, seeds: list[int | None], mask: npt.NDArray[np.bool_] | None) -> Array:
        """Reset the environments of `mask` (all: None); the shared observations, stale where not reset."""
        try:
            # gymnasium pops the mask out of the dictionary: a fresh one each time
            observed, info = self._envs.reset(seed=seeds, options=None if mask is None else {"reset_mask": mask})
        except _DEAD_WORKER as error:
            self._report_death(error)
        self._raise_failure(info)
        return observed  # type: ignore[no-any-return]

    def _raise_failure(self, info: Mapping[str, Any]) -> None:
        if FAILURE in info:
            index = int(np.flatnonzero(info["_" + FAILURE])[0])
            raise RuntimeError(f"{self._where(index)} raised:\n{info[FAILURE][index]}")

    def _report_death(self, error: BaseException) -> NoReturn:
        for process in self._envs.processes:
            process.join(timeout=0.2)
        dead = [index for index, process in enumerate(self._envs.processes) if not process.is_alive()]
        where = self._where(dead[0]) if dead else "an environment"
        code = f" with exit code {self._envs.processes[dead[0]].exitcode}" if dead else ""
        raise RuntimeError(f"{where}: its process died{code}; out of memory is the usual cause") from error

    def _replay(self, episodes: Mapping[int, tuple[int, Array]]) -> dict[int, Array]:
        self._envs.set_attr("replay_task", [episodes.get(index) for index in range(self.num_envs)])
        restored = dict(enumerate(self._envs.call("replay")))
        for index, observation in restored.items():
            if isinstance(observation, str):
                raise RuntimeError(f"{self._where(index)} raised while being restored:\n{observation}")
        return {index: restored[index] for index in episodes}
