"""One process per environment, on gymnasium's AsyncVectorEnv: for environments that take milliseconds a step.

For light environments the synchronous back-end is many times faster: a message to a process costs more than a step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import registry
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.answers import BadAnswer, checked, of_reset, of_step, stumbled
from deeprl_cli.envs.atari import LIFE_LOST
from deeprl_cli.envs.closing import close_all, closing, said_already, say_nothing
from deeprl_cli.envs.generators import seed_all
from deeprl_cli.envs.ids import resolve
from deeprl_cli.envs.observations import ObservationView, origin_given
from deeprl_cli.envs.replayed import ReplayedVectorEnv
from deeprl_cli.envs.spec import Array, EnvSpec, Step
from deeprl_cli.envs.sync import replay
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.errors import UserError
from deeprl_cli.plugins.classes import where_raised
from deeprl_cli.schema.run import EnvConfig

Env = gym.Env[Any, Any]
FAILURE = "failure"  # key in `info`: the traceback of what the environment raised
FAULT = "fault"  # key in `info`: what it returned, where something else was declared
PATIENCE = 600.0  # seconds without an answer after which an environment counts as hung
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
GRACE = 5.0  # seconds that environments have to close
_DEAD_WORKER = (EOFError, BrokenPipeError, ConnectionResetError)
_NO_ANSWER = (*_DEAD_WORKER, multiprocessing.TimeoutError)


class Worker(gym.Wrapper[Any, Any, Any, Any]):
    """What runs in a worker process: the environment, its observations converted, its exceptions sent as text.

    Raising in a worker would end it, log the traceback out of context and lose exceptions that can't be pickled.
    """

    def __init__(self, cfg: EnvConfig, env: Env) -> None:
        super().__init__(checked(env))
        self._env_id, self._actions = cfg.id, ActionView(cfg.id, env.action_space)
        self._view = ObservationView(cfg.id, env.observation_space, origin_given(cfg.origin))
        self.observation_space = self._view.space
        self.replay_task: tuple[int, Array] | None = None  # seed and actions; set from outside before replay()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            return self._view.row(of_reset(self.env.reset(seed=seed))[0]), {}
        except BaseException as error:
            return self._zeros(), _failure(error, "reset()")

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = of_step(self.env.step(action))
            kept = {LIFE_LOST: True} if LIFE_LOST in info else {}
            return self._view.row(observation), reward, terminated, truncated, kept
        except BaseException as error:
            return self._zeros(), 0.0, False, False, _failure(error, "step()")

    def close(self) -> None:
        close_all([super().close], self._env_id)

    def replay(self) -> Any:
        """The observation after replay_task; None without one; a traceback (str) where the environment raised."""
        if self.replay_task is None:
            return None
        seed, actions = self.replay_task
        decoded = self._actions.decode(actions)
        try:
            return self._view.row(replay(self.env, seed, decoded.tolist() if self._actions.scalar else decoded))
        except Exception:
            return traceback.format_exc()

    def _zeros(self) -> Array:
        return np.zeros(self._view.shape, self._view.dtype)


def _make_known(registered: Registered) -> None:
    """In a worker process: what was registered in the parent by hand, not by a module."""
    registry.setdefault(registered.id, registered)


def _failure(error: BaseException, doing: str) -> dict[str, Any]:
    """The `info` that tells the parent."""
    told = error if isinstance(error, UserError) else stumbled(error)
    if isinstance(error, SystemExit):
        told = BadAnswer(f"its {doing} ends the program, sys.exit({error.code!r})")
    elif told is None and (isinstance(error, OSError) or not isinstance(error, Exception)):
        told = BadAnswer(f"its {doing} raises {where_raised(error)}")  # Ctrl-C doesn't come here: it is its own
    return {FAILURE: traceback.format_exc()} if told is None else {FAULT: str(told)}


class Unbuilt(gym.Env[Any, Any]):
    """Stands in a worker process for an environment that couldn't be built there, though it could be here: its first
    reset tells why."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], trace: str) -> None:
        self.observation_space, self.action_space, self._trace = observation_space, action_space, trace
        assert observation_space.shape is not None
        self._observation = np.zeros(observation_space.shape, observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._observation, {FAILURE: self._trace}


class AsynchronousVectorEnv(ReplayedVectorEnv):
    """N environments, one process each, observations through shared memory."""

    pausable = False

    def __init__(
        self,
        cfg: EnvConfig,
        make_env: Callable[[], Env],
        seeds: Sequence[int],
        num_envs: int,
        *,
        training: bool,
        clip_reward: bool,
        first_env: int = 0,
    ) -> None:
        registered = resolve(cfg.id)
        with closing(make_env(), cfg.id) as probe:
            action_view, env_actions = ActionView(cfg.id, probe.action_space), probe.action_space
            space = ObservationView(cfg.id, probe.observation_space, origin_given(cfg.origin)).space

        told = said_already(cfg.id)  # if not, by the first worker for all

        def make_worker(index: int, parent: int = os.getpid()) -> Env:
            if os.getpid() == parent:  # gymnasium's look at the spaces
                return Unbuilt(space, env_actions, "")
            # Ctrl-C reaches the whole process group; the parent decides when workers stop
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _make_known(registered)
            if told or index > 0:
                say_nothing(cfg.id)
            own = first_env + index % num_envs
            seed_all(episode_seed(seeds[index // num_envs], own, 0, training=training))
            try:
                return Worker(cfg, make_env())
            except Exception:
                return Unbuilt(space, env_actions, traceback.format_exc())

        super().__init__(action_view, seeds, num_envs, training=training, clip_reward=clip_reward, first_env=first_env)
        self.spec = EnvSpec(cfg.id, space, action_view.space)
        # Forked from a process that has no threads: a lock that some thread of ours holds would never be let go of.
        multiprocessing.get_context(START).set_forkserver_preload([__name__])
        try:
            self._envs = AsyncVectorEnv(
                [partial(make_worker, index) for index in range(self.num_envs)],
                shared_memory=True,
                copy=False,
                context=START,
                autoreset_mode=AutoresetMode.DISABLED,
            )
        except _DEAD_WORKER as error:
            raise UserError(f"env.id={cfg.id}: an environment's process died while it was being built") from error

    def reset(self) -> Array:
        self._start_over()
        seeds: list[int | None] = [self._begin(index) for index in range(self.num_envs)]
        self.obs = self._reset_masked(seeds, None).copy()
        return self.obs

    def step(self, actions: npt.ArrayLike, running: npt.NDArray[np.bool_] | None = None) -> Step:
        assert running is None, "this back-end can't pause"
        actions = np.asarray(actions)
        try:
            self._envs.step_async(self._actions.decode(actions))
            observed, reward, terminated, truncated, info = self._envs.step_wait(PATIENCE)
        except _NO_ANSWER as error:
            self._report(error)
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
        """Every environment is asked to close, wherever it is; a process that is still there after GRACE is killed."""
        if self._envs.closed:
            return
        self._envs.closed = True
        end = time.monotonic() + GRACE
        for pipe in self._envs.parent_pipes:
            with suppress(OSError):
                pipe.send(("close", None))
        for process in self._envs.processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
        for pipe in self._envs.parent_pipes:
            pipe.close()

    def _reset_masked(self, seeds: list[int | None], mask: npt.NDArray[np.bool_] | None) -> Array:
        """Reset the environments of `mask` (all: None); the shared observations, stale where not reset."""
        try:
            # gymnasium pops the mask out of the dictionary: a fresh one each time
            self._envs.reset_async(seed=seeds, options=None if mask is None else {"reset_mask": mask})
            observed, info = self._envs.reset_wait(PATIENCE)
        except _NO_ANSWER as error:
            self._report(error)
        self._raise_failure(info)
        for index in range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist():
            if (useless := self._useless(observed[index])) is not None:
                raise UserError(f"{self._where(index)}: its reset() returned {useless}")
        return observed  # type: ignore[no-any-return]

    def _raise_failure(self, info: Mapping[str, Any]) -> None:
        if FAULT in info:
            index = int(np.flatnonzero(info["_" + FAULT])[0])
            raise UserError(f"{self._where(index)}: {info[FAULT][index]}")
        if FAILURE in info:
            index = int(np.flatnonzero(info["_" + FAILURE])[0])
            trace = info[FAILURE][index]
            raise RuntimeError(f"{self._where(index)} raised {trace.strip().splitlines()[-1]}\n\n{trace}")

    def _report(self, error: BaseException) -> NoReturn:
        """Raise UserError naming the environments whose processes are gone, or haven't answered for too long."""
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [index for index, pipe in enumerate(self._envs.parent_pipes) if not pipe.poll()]
            others = f" (nor have {len(silent) - 1} others)" if len(silent) > 1 else ""
            where = self._where(silent[0]) if silent else self.spec.id
            raise UserError(f"{where} has not answered for {PATIENCE:g} s{others}: it hangs") from error
        end = time.monotonic() + 1.0
        processes = self._envs.processes
        while all(process.is_alive() for process in processes) and time.monotonic() < end:
            time.sleep(0.02)
        dead = [index for index, process in enumerate(processes) if not process.is_alive()]
        where = self._where(dead[0]) if dead else f"an environment ({self.spec.id})"
        code = processes[dead[0]].exitcode if dead else None
        why = "" if code is None else f" with exit code {code}"
        memory = "; out of memory is the usual cause" if code == -signal.SIGKILL else ""
        raise UserError(f"{where}: its process died{why}{memory}") from error

    def _replay(self, episodes: Mapping[int, tuple[int, Array]]) -> dict[int, Array]:
        try:
            self._envs.set_attr("replay_task", [episodes.get(index) for index in range(self.num_envs)])
            restored = dict(enumerate(self._envs.call("replay")))
        except _DEAD_WORKER as error:
            self._report(error)
        for index, observation in restored.items():
            if isinstance(observation, str):
                raise RuntimeError(f"{self._where(index)} raised while being restored:\n{observation}")
        return {index: restored[index] for index in episodes}
