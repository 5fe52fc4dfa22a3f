"""The one interface of all vector back-ends, the seeding of episodes, and the tally of returns.

N = S*B environments, seed-major: index n = s*B + b.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprl_cli.envs.spec import Array, EnvSpec, Step
from deeprl_cli.errors import UserError


def episode_seed(run_seed: int, env_index: int, episode: int, *, training: bool) -> int:
    """The reset seed (31 bits) of one episode. `env_index` counts within the run seed, so the layout doesn't matter."""
    block, offset = divmod(episode, 64)
    return _seed_block(run_seed, env_index, block, training)[offset]


@lru_cache(maxsize=4096)
def _seed_block(run_seed: int, env_index: int, block: int, training: bool) -> array[int]:
    """Seeds of 64 episodes in a row: a SeedSequence costs as much as many steps of a light environment.

    An array of 32-bit numbers is an eighth of a list of them: a day-long run fills the cache.
    """
    entropy = (run_seed, env_index, block, int(training))
    return array("I", (np.random.SeedSequence(entropy).generate_state(64) >> 1).tolist())


class VectorEnv(ABC):
    """N environments stepped together. `reset()` first, then `step()`; finished episodes restart by themselves.

    `replayable`: whether load_state_dict() brings every environment back exactly.
    `obs`: the latest observation (N, *obs), what the next actions answer to; None before reset().
    """

    spec: EnvSpec
    replayable: bool
    pausable: bool  # whether step() can leave environments out

    def __init__(self, seeds: Sequence[int], num_envs: int, *, training: bool, clip_reward: bool) -> None:
        self.seeds = list(seeds)
        self.envs_per_seed = num_envs
        self.num_envs = len(self.seeds) * num_envs
        self.training = training
        self.obs: Array | None = None
        self._clip_reward = clip_reward
        # Of seeds, by their index: those whose environments stand still for good, and what one of them raised, where
        # that is to end its seed alone (`apart`; the synchronous back-end's only). Whoever reads `failures` empties it.
        self.apart = False
        self.left: set[int] = set()
        self.failures: dict[int, Exception] = {}

    def leave(self, seeds: Iterable[int]) -> None:
        """From now on the environments of these seeds don't matter: where it can, the back-end stops stepping them."""
        self.left.update(seeds)

    @abstractmethod
    def reset(self) -> Array:
        """Start a new episode everywhere; the first observations (N, *obs)."""

    @abstractmethod
    def step(self, actions: npt.ArrayLike, running: npt.NDArray[np.bool_] | None = None) -> Step:
        """Apply actions (N, *action). What an environment raises passes through, with a note saying which it was.

        Where `running` (N,) is False an environment stands still (`pausable` back-ends only): its transition is a dummy
        of weight 0 and reward 0 that leads to where it was.
        """

    @abstractmethod
    def close(self) -> None:
        """Release environments and processes; may be called twice."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything load_state_dict() needs: JSON scalars, lists and numpy arrays."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Go on from `state_dict()`, with `obs` set. Returns one line per exception to exactness, [] when exact.

        Raises UserError where the state is of other seeds or another number of environments.
        """

    def _learning_reward(self, reward: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return (np.sign(reward) if self._clip_reward else reward).astype(np.float32, copy=False)

    def _check_layout(self, state: Mapping[str, Any]) -> None:
        ours = {"seeds": self.seeds, "envs_per_seed": self.envs_per_seed, "training": self.training}
        for key, value in ours.items():
            if state[key] != value:
                raise UserError(f"the saved environments have {key}={state[key]}, this run has {value}")

    def _layout(self) -> dict[str, Any]:
        return {"seeds": list(self.seeds), "envs_per_seed": self.envs_per_seed, "training": self.training}


class NextStepVectorEnv(VectorEnv):
    """Back-ends that reset by themselves one step after an episode's end (NEXT_STEP), one instance per run seed.

    The step after an end ignores the action and returns the new episode's first observation: a dummy transition of
    weight 0. They can't be replayed: load_state_dict() starts fresh episodes.
    """

    replayable = False
    pausable = False

    def __init__(self, seeds: Sequence[int], num_envs: int, *, training: bool, clip_reward: bool) -> None:
        super().__init__(seeds, num_envs, training=training, clip_reward=clip_reward)
        self._dummy = np.zeros(self.num_envs, bool)  # whose coming step only resets
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._resets = 0

    @abstractmethod
    def _reset_all(self, resets: int) -> Array:
        """Fresh episodes everywhere, seeded by how often that has been done; observations (N, *obs)."""

    @abstractmethod
    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Observations, rewards, terminated, truncated, and where the game goes on after it (a lost life)."""

    def reset(self) -> Array:
        self.obs = self._reset_all(self._resets)
        self._resets += 1
        self._dummy[:] = False
        self._returns[:] = 0
        self._lengths[:] = 0
        return self.obs

    def step(self, actions: npt.ArrayLike, running: npt.NDArray[np.bool_] | None = None) -> Step:
        assert running is None, "this back-end can't pause"
        obs, rewards, terminated, truncated, continues = self._step_all(np.asarray(actions))
        real = ~self._dummy
        reward = np.where(real, rewards, 0.0).astype(np.float64)
        terminated, truncated = terminated & real, truncated & real
        self._returns += reward
        self._lengths += real
        self._dummy = terminated | truncated
        end = self._dummy & ~continues
        step = Step(
            obs=obs,
            next_obs=obs,
            reward=self._learning_reward(reward),
            terminated=terminated,
            truncated=truncated,
            weight=real.astype(np.float32),
            episode_end=end,
            episode_return=np.where(end, self._returns, 0).astype(np.float32),
            episode_length=np.where(end, self._lengths, 0),
        )
        self._returns[end] = 0
        self._lengths[end] = 0
        self.obs = obs
        return step

    def state_dict(self) -> dict[str, Any]:
        return {**self._layout(), "resets": self._resets}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        self._check_layout(state)
        self._resets = int(state["resets"])
        if self._resets:
            self.reset()
        return [f"{self.spec.id}: this back-end can't be replayed, every environment starts a fresh episode"]
