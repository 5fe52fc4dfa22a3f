"""Compares what an environment returns with what it declares. Nothing is reshaped, broadcast or guessed.

Back-ends look at each value's class first and come here only with what isn't the usual kind: of a light environment's
step that costs a hundredth.
"""

from __future__ import annotations

import numbers
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from deeprl_cli.errors import UserError
from deeprl_cli.plugins.classes import said

FIVE = "five values (observation, reward, terminated, truncated, info)"
NUMERIC = "fiub"  # kinds of numpy: floats, signed and unsigned integers, booleans


class BadAnswer(UserError):  # noqa: N818 - the environment's, not ours
    """Something else than what was declared. The text says what came and what is due; who asks adds where."""


PLAIN = (int, np.float64, np.float32, np.int64, bool)  # what a reward often is that isn't a float


def number(reward: Any) -> float:
    """A reward as a number. Raises BadAnswer."""
    try:
        return _number(reward)
    except OverflowError:
        raise BadAnswer("returned a reward beyond the largest number there is") from None


def _number(reward: Any) -> float:
    if reward.__class__ in PLAIN:
        return float(reward)
    scalar = isinstance(reward, numbers.Real | np.bool_) or (
        isinstance(reward, np.ndarray) and reward.shape == () and reward.dtype.kind in NUMERIC
    )
    if not scalar:
        raise BadAnswer(f"returned {described(reward)} as its reward, where one number is due")
    return float(reward)


def flag(value: Any, name: str) -> bool:
    """`terminated` or `truncated`. 0 and 1 are taken for what they mean. Raises BadAnswer."""
    if value.__class__ is bool or isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind == "b":
        return bool(value)
    if isinstance(value, int | np.integer) and value in (0, 1):
        return bool(value)
    raise BadAnswer(f"returned {described(value)} as `{name}`, where True or False is due")


def infos(info: Any) -> Mapping[str, Any]:
    """`info`; None, as some return where there is nothing to tell, is an empty one. Raises BadAnswer."""
    if info.__class__ is dict:
        return info
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise BadAnswer(f"returned {described(info)} as its info, where a dictionary is due")
    return info


def of_step(answer: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """What step() returned: the observation as it is, the rest checked. Raises BadAnswer."""
    if not isinstance(answer, tuple | list) or len(answer) != 5:
        raise BadAnswer(f"its step() returned {described(answer)}, where {FIVE} are due")
    observation, reward, terminated, truncated, info = answer
    return observation, number(reward), flag(terminated, "terminated"), flag(truncated, "truncated"), infos(info)


def of_reset(answer: Any) -> tuple[Any, Mapping[str, Any]]:
    """What reset() returned: the observation as it is, and the info. Raises BadAnswer."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise BadAnswer(f"its reset() returned {described(answer)}, where two values (observation, info) are due")
    return answer[0], infos(answer[1])


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """What an environment returns, checked before gymnasium's own wrappers take it apart."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = of_reset(self.env.reset(seed=seed, options=options))
        return observation, dict(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = of_step(self.env.step(action))
        return observation, reward, terminated, truncated, dict(info)


def checked(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env`, checked below the time limit that stands outermost where there is one."""
    if type(env) is TimeLimit and not isinstance(env.env, Checked):
        env.env = Checked(env.env)
    return env


def stumbled(error: BaseException) -> BadAnswer | None:
    """Of an exception that a wrapper of gymnasium's raised over what the environment returned: what to say."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or "wrappers" not in Path(frames[-1].filename).parts:
        return None
    return BadAnswer(f"returned what can't be taken apart ({said(error)}), where {FIVE} are due")


def described(value: Any) -> str:
    """A value in a few words: its kind, and its shape or itself where that is short."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    if isinstance(value, bool | numbers.Number | np.generic):
        return f"the number {value} ({type(value).__name__})"
    return f"a {type(value).__name__}"
