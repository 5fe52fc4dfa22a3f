"""Which episodes an evaluation plays. No torch here: exported policies are played without."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from deeprl_cli.envs.look import has_time_limit
from deeprl_cli.schema.run import EnvConfig

EVAL_ENVS, MOST_ENVS = 10, 50  # environments per seed that an evaluation steps side by side
FRESH = 1_000_003  # added to a run's seeds for the episodes of `deeprl eval` and of the final evaluation


def side_by_side(episodes: int) -> int:
    """How many environments play so many episodes: several each, where there are many. Acting costs about the same for
    one as for fifty, and each environment takes memory and time to be made."""
    return min(episodes, max(EVAL_ENVS, min(MOST_ENVS, episodes // 5)))


def shares(episodes: int, envs: int) -> list[int]:
    """How many of `episodes` each of `envs` environments plays, its first ones: taking whichever end first would favour
    short ones."""
    return [episodes // envs + (e < episodes % envs) for e in range(envs)]


def surely_ending(env: EnvConfig, max_steps: int) -> EnvConfig:
    """The environment stepped in this process, an episode that nothing ends cut after `max_steps`. EnvPool's keep their
    own limits."""
    if env.backend == "envpool":
        return env
    env = dataclasses.replace(env, backend="sync")
    return env if has_time_limit(env) else dataclasses.replace(env, max_episode_steps=max_steps)


def cut_short(env: EnvConfig, max_steps: int, *lengths: npt.NDArray[np.int64]) -> str:
    """What to say where episodes were cut that nothing had ended; "" where none was."""
    if env.backend == "envpool" or has_time_limit(env):
        return ""
    count = sum(int((played >= max_steps).sum()) for played in lengths)
    return f"{count} episodes cut at {max_steps:,} steps (eval.max_steps): nothing ended them" if count else ""
