"""Our own synchronous stepping: one Python loop over gymnasium environments, the default back-end.

What it saves over a generic vector environment: no deep copies, no info merging, no wrappers that only check, one
numpy call per array and step rather than one per environment.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.answers import BadAnswer, flag, infos, number, of_reset, of_step, stumbled
from deeprl_cli.envs.atari import LIFE_LOST
from deeprl_cli.envs.closing import close_all
from deeprl_cli.envs.observations import ObservationView, origin_given
from deeprl_cli.envs.replayed import ReplayedVectorEnv
from deeprl_cli.envs.spec import Array, EnvSpec, Step
from deeprl_cli.errors import UserError
from deeprl_cli.plugins.classes import said, where_raised
from deeprl_cli.schema.run import EnvConfig

# a number beyond 32 bits becomes infinity, which `_examine` finds, and says where it came from
warnings.filterwarnings("ignore", "overflow encountered in (cast|reduce)", RuntimeWarning, r"deeprl_cli\.envs")

Env = gym.Env[Any, Any]
NEVER = 1 << 62
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a program that was asked to stop


class SyncVectorEnv(ReplayedVectorEnv):
    """N environments, each seed's built by its own of `make_env`, stepped one after another in this process."""

    pausable = True

    def __init__(
        self,
        cfg: EnvConfig,
        make_env: Sequence[Callable[[], Env]],
        seeds: Sequence[int],
        num_envs: int,
        *,
        training: bool,
        clip_reward: bool,
        groups_of: int = 1,
        own_noise: bool = False,
        first_env: int = 0,
    ) -> None:
        self._envs = several([make for make in make_env for _ in range(num_envs)], cfg.id)
        action_view = ActionView(cfg.id, self._envs[0].action_space, len(self._envs))
        super().__init__(
            action_view,
            seeds,
            num_envs,
            training=training,
            clip_reward=clip_reward,
            groups_of=groups_of,
            own_noise=own_noise,
            first_env=first_env,
        )
        self._observations = ObservationView(cfg.id, self._envs[0].observation_space, origin_given(cfg.origin))
        self.spec = EnvSpec(cfg.id, self._observations.space, action_view.space)
        for env in self._envs:
            _quicken(env.unwrapped.action_space)
        self._inner, self._limit = zip(*(_peel(env) for env in self._envs), strict=True)
        self._step_functions = [env.step for env in self._inner]
        view = self._observations
        # of an observation that needs no second look; none where it is a number, or has another shape to us
        self._usual = (None, None) if view.reshapes or not view.shape else (view.source_shape, view.declared)
        self._counts = view.offset is not None or view.origin is not None
        self._floats = view.dtype.kind == "f"
        self._deadline = NEVER  # the first global step at which some episode reaches the time limit
        self._ones = np.ones(self.num_envs, np.float32)
        self._obs_shape = (self.num_envs, *self._observations.shape)
        self._as_list, self._action_dtype = action_view.scalar, action_view.dtype

    def reset(self) -> Array:
        obs = np.empty(self._obs_shape, self._observations.dtype)
        self._start_over()
        for index in range(self.num_envs):
            if index // self.envs_per_seed in self.left:
                obs[index] = 0 if self.obs is None else self.obs[index]
            else:
                self._reset_into(obs, index)
        self._set_deadline()
        self.obs = obs
        return obs

    def step(self, actions: npt.ArrayLike, running: npt.NDArray[np.bool_] | None = None) -> Step:
        actions = np.asarray(actions, self._action_dtype)
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        decoded = self._actions.decode(actions)
        rows: Any = decoded.tolist() if self._as_list else decoded
        view = self._observations
        obs = np.empty(self._obs_shape, view.raw_dtype)
        reward = np.empty(self.num_envs, np.float32)
        returns = self._returns
        ended: dict[int, tuple[bool, bool, bool]] = {}
        array, (shape, dtype) = np.ndarray, self._usual
        # of a vector the length is enough, in half the time: another shape of that length can't be written into obs
        due: Any = shape[0] if shape is not None and len(shape) == 1 and shape[0] > 1 else shape
        flat = due is not shape
        asked, running = running, self._without_left(running)
        playing: Iterator[tuple[int, Any]] = enumerate(self._step_functions)
        if running is not None and not running.all():
            reward[:] = 0.0
            playing = ((index, self._step_functions[index]) for index in np.flatnonzero(running).tolist())
        index, answer = 0, None
        while True:
            try:
                for index, step in playing:
                    answer = step(rows[index])
                    observation, gained, terminated, truncated, info = answer
                    if (
                        observation.__class__ is not array
                        or observation.dtype is not dtype
                        or (len(observation) if flat else observation.shape) != due
                    ):
                        observation = view.checked(observation)
                    if gained.__class__ is not float:
                        gained = number(gained)
                    obs[index] = observation
                    reward[index] = gained
                    returns[index] += gained
                    if terminated is not False or truncated is not False or info.__class__ is not dict:
                        terminated, truncated = flag(terminated, "terminated"), flag(truncated, "truncated")
                        told = infos(info)
                        if terminated or truncated:
                            ended[index] = (terminated, truncated, LIFE_LOST in told)
                break
            except BaseException as error:
                self._blame(error, index, answer)  # and on with the next one, where this one ends alone
        if self._counts:
            obs = view.counted(obs)
        running = self._without_left(running)
        if running is not None and not running.all():
            self._stand_still(~running, obs, reward, ended)
        self._history.append(actions)
        if running is not None:
            self._history.leave_out(~running)
        while not self._examine(obs, reward):
            running = self._without_left(running)
            assert running is not None
            self._stand_still(~running, obs, reward, ended)
        if self._history.time >= self._deadline:
            for late in np.flatnonzero(self._history.time - self._history.starts >= self._limit[0]).tolist():
                ended[late] = (ended.get(late, (False,))[0], True, False)
            self._set_deadline()  # nothing may be late yet, where environments paused
        count = self.num_envs
        result = Step(
            obs,
            obs,
            np.sign(reward) if self._clip_reward else reward,
            np.zeros(count, bool),
            np.zeros(count, bool),
            self._ones.copy() if asked is None else running.astype(np.float32),  # type: ignore[union-attr]
            np.zeros(count, bool),
            np.zeros(count, np.float32),
            np.zeros(count, np.int64),
        )
        if ended:
            self._finish(result, ended)
        self.obs = result.obs
        return result

    def _blame(self, error: BaseException, index: int, answer: Any, doing: str = "step()") -> None:
        """An environment's failure: UserError where it was what it returned, that it would end the program, or an
        exception that elsewhere says something about this program; else its own exception, where it is named. Raised,
        or kept where it ends its seed alone."""
        where = self._where(index)
        here = error.__traceback__ is not None and error.__traceback__.tb_next is None
        if isinstance(error, UserError):
            return self._failed(index, UserError(f"{where}: {error}"), error)
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in STOPPED):
            raise error
        if isinstance(error, SystemExit):
            told = f"{where}: its {doing} ends the program, sys.exit({error.code!r})"
            return self._failed(index, UserError(told), error)
        if answer is not None and here and isinstance(error, TypeError | ValueError):  # raised by what it returned
            try:
                self._observations.checked(of_step(answer)[0])
            except UserError as wrong:
                return self._failed(index, UserError(f"{where}: {wrong}"), error)
        if (bad := stumbled(error)) is not None:
            return self._failed(index, UserError(f"{where}: {bad}"), error)
        if isinstance(error, OSError) or not isinstance(error, Exception):  # no disk or pipe of ours, no end of ours
            return self._failed(index, UserError(f"{where}: its {doing} raises {where_raised(error)}"), error)
        error.add_note(f"raised by {'' if doing == 'step()' else 'the reset of '}{where}")
        return self._failed(index, error, None)

    def _without_left(self, running: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
        """Who plays, but for the environments of seeds that are left."""
        if not self.left:
            return running
        playing = np.ones(self.num_envs, bool) if running is None else running.copy()
        playing.reshape(len(self.seeds), -1)[sorted(self.left)] = False
        return playing

    def _stand_still(self, who: npt.NDArray[np.bool_], obs: Array, reward: Array, ended: dict[int, Any]) -> None:
        """Have the environments `who` (N,) be where they were."""
        assert self.obs is not None
        np.copyto(obs, self.obs, "unsafe", who.reshape(-1, *[1] * (obs.ndim - 1)))
        np.copyto(reward, 0.0, where=who)
        for index in [index for index in ended if who[index]]:
            del ended[index]

    def close(self) -> None:
        close_all([env.close for env in self._envs], self.spec.id)
        self._envs = []

    def _finish(self, result: Step, ended: Mapping[int, tuple[bool, bool, bool]]) -> None:
        """Fill in the ends and start the next episodes; `result.obs` parts from `result.next_obs`."""
        result.obs = result.next_obs.copy()
        for index, (terminated, truncated, life_lost) in ended.items():
            result.terminated[index], result.truncated[index] = terminated, truncated
            if life_lost:
                result.obs[index] = self._observations.row(self._inner[index].reset()[0])  # goes on with the same game
                continue
            result.episode_end[index] = True
            result.episode_return[index] = self._returns[index]
            result.episode_length[index] = self._history.time - self._history.starts[index]
            self._reset_into(result.obs, index)
        self._set_deadline()

    def _reset_into(self, obs: Array, index: int) -> None:
        seed = self._begin(index)
        try:
            observation, _ = of_reset(self._inner[index].reset(seed=seed))
            shape, dtype = self._usual
            if self._counts or getattr(observation, "shape", ()) != shape or observation.dtype is not dtype:
                observation = self._observations.row(observation)
            obs[index] = observation
            sound = self._floats and math.isfinite(np.vdot(observation, observation))  # most often; half a sum's time
            if not sound and (useless := self._useless(obs[index])) is not None:
                raise BadAnswer(f"its reset() returned {useless}")
        except BaseException as error:
            self._blame(error, index, None, "reset()")
        if index // self.envs_per_seed in self.failures:
            obs[index] = 0 if self.obs is None else self.obs[index]
            return
        _reseed(self._inner[index], self._noise(index))

    def _set_deadline(self) -> None:
        if self._limit[0] is not None:
            self._deadline = int(self._history.starts.min()) + self._limit[0]

    def _replay(self, episodes: Mapping[int, tuple[int, Array]]) -> dict[int, Array]:
        restored = {
            index: self._observations.row(
                replay(self._inner[index], seed, self._env_actions(actions), self._noise(index))
            )
            for index, (seed, actions) in episodes.items()
            if index // self.envs_per_seed not in self.left
        }
        self._set_deadline()
        return restored

    def _env_actions(self, actions: Array) -> Any:
        decoded = self._actions.decode(actions)
        return decoded.tolist() if self._as_list else decoded


class QuickDiscrete(spaces.Discrete[Any]):
    """A Discrete whose membership test of a plain int skips numpy; environments that assert it do so every step."""

    def contains(self, x: Any) -> bool:
        return 0 <= x - self.start < self.n if type(x) is int else super().contains(x)


def _quicken(space: gym.Space[Any]) -> None:
    """Give an environment's own Discrete space the quicker test, in place (its generator and identity stay)."""
    if type(space) is spaces.Discrete:
        space.start, space.n = int(space.start), int(space.n)
        space.__class__ = QuickDiscrete


def several(make_env: Sequence[Callable[[], Env]], env_id: str) -> list[Env]:
    """The environments that these build. UserError where there can be only one at a time, and none is then left."""
    made: list[Env] = []
    try:
        for make in make_env:
            made.append(make())  # noqa: PERF401 - those made before one that fails are to be closed
    except UserError:
        close_all([env.close for env in made], env_id)
        raise
    except Exception as error:
        close_all([env.close for env in made], env_id)
        raise OneAtATimeError(f"env.id={env_id} can't be built again beside itself ({said(error)})") from error
    return made


class OneAtATimeError(UserError):
    """An environment of which there can't be as many as are needed."""


def replay(env: Env, seed: int, actions: Any, noise: np.random.Generator | None = None) -> Any:
    """Bring `env` to where `actions` after reset(seed) lead; its observation there. Lost lives go on as in training."""
    observation, _ = env.reset(seed=seed)
    _reseed(env, noise)
    for action in actions:
        observation, _, _, _, info = env.step(action)
        if LIFE_LOST in info:
            observation, _ = env.reset()
    return observation


def _reseed(env: Env, noise: np.random.Generator | None) -> None:
    """Have the environment draw from `noise` from here on, where there is any."""
    if noise is not None:
        env.unwrapped.np_random = noise


def _peel(env: Env) -> tuple[Env, int | None]:
    """`env` without outer wrappers whose work this back-end does itself, and the time limit one of them held.

    A TimeLimit is counted here for all environments at once, and the call order is ours: two Python frames less a step.
    """
    limit: int | None = None
    while True:
        if type(env) is TimeLimit and limit is None:
            limit = env._max_episode_steps
        elif type(env) is not OrderEnforcing:
            return env, limit
        env = env.env
