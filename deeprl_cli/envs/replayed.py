"""Bookkeeping for back-ends that can be restored exactly: an episode is determined by its seed and its actions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.spec import Array, outside
from deeprl_cli.envs.vector import VectorEnv, episode_seed
from deeprl_cli.errors import UserError

LONGEST_REPLAY = 200_000  # steps of one episode; beyond it the history is dropped and the episode can't be restored


class ActionHistory:
    """The actions of every environment's present episode, as rows (T, N, *action) of one growing array.

    Row 0 is the oldest step that any environment still needs; `starts[n]` is the global step its episode began at.
    """

    def __init__(self, num_envs: int, view: ActionView) -> None:
        self._rows = np.empty((256, num_envs, *view.shape), view.record_dtype)
        self._first = 0  # global step of row 0
        self._count = 0  # rows in use
        self.time = 0  # global step: vector steps since construction
        self.starts = np.zeros(num_envs, np.int64)

    def append(self, actions: Array) -> None:
        if self._count == len(self._rows):
            self._make_room()
        self._rows[self._count] = actions
        self._count += 1
        self.time += 1

    def leave_out(self, paused: Array) -> None:
        """The environments that `paused` (N,) through the step appended last have not done it: their episodes, as long
        as before, began a step later."""
        begun = paused & (self.starts < self.time - 1)
        for n in np.flatnonzero(begun) if begun.any() else ():
            start = max(int(self.starts[n]) - self._first, 0)  # of one too long to be replayed, the rest
            self._rows[start + 1 : self._count, n] = self._rows[start : self._count - 1, n].copy()
        self.starts += paused

    def _make_room(self) -> None:
        """Drop what no restorable episode needs; double the array where that frees less than half of it."""
        running = self.starts[self.time - self.starts <= LONGEST_REPLAY]
        needed = int(running.min()) if len(running) else self.time
        kept = self._rows[max(needed - self._first, 0) : self._count]
        rows = self._rows if len(kept) <= len(self._rows) // 2 else np.empty_like(self._rows, shape=self._doubled())
        rows[: len(kept)] = kept.copy()
        self._rows, self._first, self._count = rows, max(needed, self._first), len(kept)

    def _doubled(self) -> tuple[int, ...]:
        return (2 * len(self._rows), *self._rows.shape[1:])

    def of(self, index: int) -> Array | None:
        """The actions (length, *action) of one environment's present episode; None past LONGEST_REPLAY."""
        start = int(self.starts[index])
        if self.time - start > LONGEST_REPLAY:
            return None
        return self._rows[start - self._first : self._count, index]

    def restore(self, actions: Sequence[Array]) -> None:
        """Take over these episodes, one array (length, *action) per environment, all ending now."""
        longest = max(len(history) for history in actions)
        rows = max(256, longest)
        self._rows = np.zeros((rows, *self._rows.shape[1:]), self._rows.dtype)
        for index, history in enumerate(actions):
            self._rows[longest - len(history) : longest, index] = history
        self._first, self._count, self.time = 0, longest, longest
        self.starts = np.array([longest - len(history) for history in actions], np.int64)


MOST_EPISODES = 1 << 62
EPISODES_A_RESET = 1 << 20  # episode numbers set aside between two resets of all environments


class ReplayedVectorEnv(VectorEnv):
    """A back-end whose episodes are each reset with a seed of their own, and can therefore be replayed."""

    replayable = True

    def __init__(
        self,
        view: ActionView,
        seeds: Sequence[int],
        num_envs: int,
        *,
        training: bool,
        clip_reward: bool,
        groups_of: int = 1,
        own_noise: bool = False,
        first_env: int = 0,
    ) -> None:
        super().__init__(seeds, num_envs, training=training, clip_reward=clip_reward)
        self.groups_of, self.own_noise = groups_of, own_noise
        self.first_env = first_env  # of each seed: those before it are another process's
        self._actions = view
        self._history = ActionHistory(self.num_envs, view)
        self._returns = [0.0] * self.num_envs  # Python floats: 64 bits, and no numpy call a step
        self._episodes = [-1] * self.num_envs  # number of the present episode; -1 before the first

    @abstractmethod
    def _replay(self, episodes: Mapping[int, tuple[int, Array]]) -> dict[int, Array]:
        """Reset the environments named with (seed, actions (T, *action)), repeat the actions; their observations."""

    def _seed(self, index: int) -> int:
        """The reset seed of one environment's present episode: `groups_of` environments in a row share it."""
        seed, env_index = self._place(index)
        return episode_seed(seed, env_index // self.groups_of, self._episodes[index], training=self.training)

    def _place(self, index: int) -> tuple[int, int]:
        """The run seed of one environment, and its number among all of that seed's."""
        return self.seeds[index // self.envs_per_seed], self.first_env + index % self.envs_per_seed

    def _noise(self, index: int) -> np.random.Generator | None:
        """Under `own_noise`, what the environment draws from after the reset that its group shares; else None."""
        if not self.own_noise:
            return None
        seed, env_index = self._place(index)
        own = episode_seed(seed, env_index, self._episodes[index], training=self.training)
        return np.random.default_rng([own, 1])  # a stream that no reset(seed=own) draws from

    def _start_over(self) -> None:
        """Before a reset of all: number its episodes by how often that was done, whatever was played in between."""
        resets = (max(self._episodes) // EPISODES_A_RESET) + 1
        self._episodes = [resets * EPISODES_A_RESET - 1] * self.num_envs

    def _begin(self, index: int) -> int:
        """Count a new episode of one environment from here on; its seed."""
        self._episodes[index] += 1
        self._returns[index] = 0.0
        self._history.starts[index] = self._history.time
        return self._seed(index)

    def _where(self, index: int, ago: int = 0) -> str:
        """One environment, its episode and step, in words: the step to come, or the one so many `ago`."""
        step = self._history.time - int(self._history.starts[index]) - ago
        seed, env_index = self._place(index)
        return f"environment {env_index} of seed {seed} ({self.spec.id}), episode {self._episodes[index]}, step {step}"

    def leave(self, seeds: Iterable[int]) -> None:
        super().leave(seeds)
        starts = self._history.starts.reshape(len(self.seeds), -1)
        starts[sorted(self.left)] = self._history.time  # what was played needs no record any more

    def _failed(self, index: int, error: Exception, cause: BaseException | None) -> None:
        """An environment has failed: raise `error`, or where that ends its seed alone, keep it and leave the seed."""
        if cause is not None:
            error.__cause__ = cause
        if not self.apart:
            raise error
        self.failures.setdefault(index // self.envs_per_seed, error)
        self.leave([index // self.envs_per_seed])

    def _examine(self, obs: Array, reward: Array) -> bool:
        """Whether all is well. It isn't where an environment returned NaN or infinity, which would spoil all that
        learns from it, or a number that isn't of its Discrete space: UserError, or its seed is left. Two sums of
        squares find it, in the time of a fraction of a light environment's step."""
        if obs.dtype.kind == "i" and (outside := self._outside(obs)).any():
            self._returned(int(outside.argmax()), f"an observation outside of its space {self.spec.observation_space}")
            return False
        if math.isfinite(np.vdot(reward, reward)) and (obs.dtype.kind != "f" or math.isfinite(np.vdot(obs, obs))):
            return True
        for what, values in (("observation", obs), ("reward", reward)):
            bad = ~np.isfinite(values.reshape(self.num_envs, -1)).all(1)
            if bad.any():  # finite numbers may have an infinite sum
                self._returned(int(bad.argmax()), f"NaN or infinity in its {what}")
                return False
        return True

    def _returned(self, index: int, what: str) -> None:
        """An environment has failed by what its latest step, which is counted, returned."""
        self._failed(index, UserError(f"{self._where(index, 1)}: returned {what}"), None)

    def _useless(self, first: Array) -> str | None:
        """What is wrong with an episode's first observation, where nothing can be learnt from it."""
        if first.dtype.kind == "f":
            return None if np.isfinite(first).all() else "NaN or infinity in its observation"
        outside = first.dtype.kind == "i" and self._outside(first[None])[0]
        return f"an observation outside of its space {self.spec.observation_space}" if outside else None

    def _outside(self, obs: Array) -> npt.NDArray[np.bool_]:
        """Of observations counted from 0, (n, *obs): which aren't below the number of choices there are."""
        return np.asarray(outside(self.spec.observation_space, obs).reshape(len(obs), -1).any(1))

    def state_dict(self) -> dict[str, Any]:
        histories = [self._history.of(index) for index in range(self.num_envs)]
        kept = [history for history in histories if history is not None]
        return {
            **self._layout(),
            "env": self.spec.id,
            "episodes": list(self._episodes),
            "returns": list(self._returns),
            "lengths": [-1 if history is None else len(history) for history in histories],  # -1: too long to replay
            "actions": np.concatenate(kept) if kept else None,
            "obs": None if self.obs is None else self.obs.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        self._check_layout(state)
        if state["obs"] is None:
            return []
        lengths = [int(length) for length in state["lengths"]]
        self._episodes = [int(episode) for episode in state["episodes"]]
        if not all(-1 <= episode < MOST_EPISODES for episode in self._episodes):
            raise ValueError(f"episodes are numbered below {MOST_EPISODES}")
        recorded = np.zeros((0, *self._actions.shape)) if state["actions"] is None else np.asarray(state["actions"])
        ends = np.cumsum([max(length, 0) for length in lengths])
        histories = [recorded[end - max(length, 0) : end] for end, length in zip(ends, lengths, strict=True)]
        self._history.restore(histories)
        self._returns = [float(value) for value in state["returns"]]
        exceptions: list[str] = []
        for index, length in enumerate(lengths):
            if length < 0:
                exceptions.append(f"{self._where(index)}: longer than {LONGEST_REPLAY} steps, starts a fresh episode")
                self._begin(index)
        restored = self._replay({index: (self._seed(index), history) for index, history in enumerate(histories)})
        obs = np.asarray(state["obs"])
        fresh = [index for index, length in enumerate(lengths) if length < 0]
        parted = [
            index
            for index, length in enumerate(lengths)
            if index in restored and length >= 0 and obs[index].tobytes() != restored[index].tobytes()
        ]
        for index in parted:
            exceptions.append(
                f"{self._where(index)}: its actions led elsewhere than before, as its dynamics depend on more than the "
                "reset seed: it starts a fresh episode, so the run will differ from one that was never stopped"
            )
            self._begin(index)
        restored |= self._replay({index: (self._seed(index), recorded[:0]) for index in parted}) if parted else {}
        for index in (*fresh, *parted):
            if index in restored:
                obs[index] = restored[index]
        self.obs = obs
        return exceptions


PER_ENV = ("episodes", "returns", "lengths")  # of `state_dict()`: lists with an item for each environment


def joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One `state_dict()` of several, of which each has the next few environments of every seed."""
    own = int(states[0]["envs_per_seed"])
    order = [
        (state, s * own + e, actions)
        for s in range(len(states[0]["seeds"]))
        for state, actions in zip(states, map(_histories, states), strict=True)
        for e in range(own)
    ]
    kept = [actions[n] for state, n, actions in order if state["lengths"][n] >= 0]
    return {
        **states[0],
        "envs_per_seed": own * len(states),
        **{key: [state[key][n] for state, n, _ in order] for key in PER_ENV},
        "actions": np.concatenate(kept) if kept else None,
        "obs": np.stack([np.asarray(state["obs"])[n] for state, n, _ in order]),
    }


def part(state: Mapping[str, Any], which: int, parts: int) -> dict[str, Any]:
    """The inverse of `joined`: the state of the `which`-th of so many equal `parts` of each seed's environments."""
    whole = int(state["envs_per_seed"])
    own = whole // parts
    chosen = [s * whole + which * own + e for s in range(len(state["seeds"])) for e in range(own)]
    actions = _histories(state)
    kept = [actions[n] for n in chosen if state["lengths"][n] >= 0]
    return {
        **state,
        "envs_per_seed": own,
        **{key: [state[key][n] for n in chosen] for key in PER_ENV},
        "actions": np.concatenate(kept) if kept else None,
        "obs": np.asarray(state["obs"])[chosen],
    }


def of_seeds(state: Mapping[str, Any], seeds: slice) -> dict[str, Any]:
    """Of any vector environment's `state_dict()`, what belongs to some of its seeds."""
    own = {**state, "seeds": list(state["seeds"])[seeds]}
    if "lengths" not in state:  # a back-end that isn't replayed
        return own
    per_seed = int(state["envs_per_seed"])
    envs = slice(seeds.start * per_seed, seeds.stop * per_seed)
    kept = [a for a, n in zip(_histories(state)[envs], state["lengths"][envs], strict=True) if n >= 0]
    own |= {key: list(state[key])[envs] for key in PER_ENV}
    own["actions"] = np.concatenate(kept) if kept and state["actions"] is not None else None
    own["obs"] = None if state["obs"] is None else np.asarray(state["obs"])[envs]
    return own


def in_a_row(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The inverse: one state of several, of seeds that follow one another."""
    whole = {**states[0], "seeds": [seed for state in states for seed in state["seeds"]]}
    if "lengths" not in whole:
        return whole
    whole |= {key: [item for state in states for item in state[key]] for key in PER_ENV}
    for key in ("actions", "obs"):
        found = [np.asarray(state[key]) for state in states if state[key] is not None]
        whole[key] = np.concatenate(found) if found else None
    return whole


def _histories(state: Mapping[str, Any]) -> list[Array]:
    """The recorded actions of each environment, none where its episode is too long for that."""
    ends = np.cumsum([max(int(length), 0) for length in state["lengths"]])
    if state["actions"] is None:
        return [np.zeros(0)] * len(ends)
    return np.split(np.asarray(state["actions"]), ends[:-1])
