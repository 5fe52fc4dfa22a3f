"""A look at an environment before a run trusts it: one reset and a few random steps."""

from __future__ import annotations

import math
import traceback
from typing import Any

import numpy as np
from gymnasium import spaces

from deeprl_cli.envs.make import build_env
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.errors import UserError
from deeprl_cli.schema import EnvConfig

STEPS = 3


def probe(cfg: EnvConfig) -> None:
    """Reset and step one environment. Raises UserError, one line, where it raises, or what it returns can't be learnt
    from: a wrong shape, NaN, a number outside its Discrete space, something else than five values.

    The environment's native vector form and EnvPool's are other programs, tested with their own environments.
    """
    if cfg.backend in ("native", "envpool"):
        return
    env = build_env(cfg, training=True)
    view = ObservationView(cfg.id, env.observation_space)
    doing, answer = "reset()", None  # type: tuple[str, Any]
    try:
        answer = env.reset(seed=0)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise UserError(f"env.id={cfg.id}: reset() returns {_kind(answer)}, not (observation, info)")
        _check(cfg.id, view, env.observation_space, answer[0])
        env.action_space.seed(0)
        for _ in range(STEPS):
            doing = "step()"
            answer = env.step(env.action_space.sample())
            if not isinstance(answer, tuple) or len(answer) != 5:
                five = "(observation, reward, terminated, truncated, info)"
                raise UserError(f"env.id={cfg.id}: step() returns {_kind(answer)}, not {five}")
            observation, reward, terminated, truncated, _ = answer
            _check(cfg.id, view, env.observation_space, observation)
            _check_reward(cfg.id, reward)
            if terminated or truncated:
                break
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UserError(f"env.id={cfg.id}: its {doing} raises {what} ({place.filename}:{place.lineno})") from error
    finally:
        env.close()


def _check(env_id: str, view: ObservationView, space: Any, observation: Any) -> None:
    view.check(observation)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if not space.contains(np.asarray(observation, space.dtype) if space.shape else int(observation)):
            raise UserError(f"env.id={env_id}: the observation {observation} lies outside of its space {space}")
    elif not np.isfinite(np.asarray(observation, np.float64)).all():
        raise UserError(f"env.id={env_id}: an observation holds NaN or infinity: nothing can be learnt from it")


def _check_reward(env_id: str, reward: Any) -> None:
    try:
        value = float(reward)
    except (TypeError, ValueError):
        raise UserError(f"env.id={env_id}: a reward is {_kind(reward)}, not a number") from None
    if not math.isfinite(value):
        raise UserError(f"env.id={env_id}: a reward is {value}: nothing can be learnt from it")


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else f"a {type(value).__name__}"
