"""The one look at an environment before a run trusts it: its spaces, one reset, a few random steps."""

from __future__ import annotations

import math
import traceback
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.ids import metadata, resolve
from deeprl_cli.envs.make import build_env, make_vector_env
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.schema.run import EnvConfig

STEPS = 3


@dataclass(frozen=True)
class Look:
    """What is known of an environment before a run.

    `ends`: a time limit ends every episode. `reseedable`: it draws from the generator that gymnasium gives it on
    reset(seed=…). `transcripts`: its episodes can be shown as text (`has_transcripts`).
    """

    spec: EnvSpec
    ends: bool
    reseedable: bool
    transcripts: bool


def look(cfg: EnvConfig) -> Look:
    """Build one environment, reset and step it, and close it. Raises ConfigError where it can't be built or acted in;
    UserError, one line, where it raises, or what it returns can't be learnt from: a wrong shape, NaN, a number outside
    its Discrete space, something else than five values.

    The environment's native vector form and EnvPool's are other programs, tested with their own environments.
    """
    if cfg.backend in ("native", "envpool"):
        vector = make_vector_env(cfg, [0], 1, training=True)
        vector.close()
        return Look(vector.spec, ends=True, reseedable=False, transcripts=has_transcripts(cfg.id))
    env = build_env(cfg, training=True)
    try:
        observations, actions = ObservationView(cfg.id, env.observation_space), ActionView(cfg.id, env.action_space)
        reseedable = _probe(cfg.id, env, observations)
    finally:
        env.close()
    spec = EnvSpec(cfg.id, observations.space, actions.space)
    return Look(spec, _has_time_limit(cfg), reseedable, has_transcripts(cfg.id))


def has_transcripts(env_id: str) -> bool:
    """Whether the environment says that its episodes can be shown as text (`metadata["transcripts"]`)."""
    try:
        return bool(metadata(env_id).get("transcripts"))
    except ConfigError:  # an id that EnvPool alone knows
        return False


def _has_time_limit(cfg: EnvConfig) -> bool:
    """Our own environments end by themselves; Atari's emulator has a limit of frames."""
    registered = resolve(cfg.id)
    own = str(registered.entry_point).startswith("deeprl_cli.")
    return own or cfg.atari.enabled or (cfg.max_episode_steps or registered.max_episode_steps) is not None


def _probe(env_id: str, env: gym.Env[Any, Any], view: ObservationView) -> bool:
    """Reset and step it, as `look` says; whether it has taken gymnasium's generator."""
    doing, answer = "reset()", None  # type: tuple[str, Any]
    try:
        answer = env.reset(seed=0)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise UserError(f"env.id={env_id}: reset() returns {_kind(answer)}, not (observation, info)")
        reseedable = getattr(env.unwrapped, "_np_random", None) is not None
        _check(env_id, view, env.observation_space, answer[0])
        env.action_space.seed(0)
        for _ in range(STEPS):
            doing = "step()"
            answer = env.step(env.action_space.sample())
            if not isinstance(answer, tuple) or len(answer) != 5:
                five = "(observation, reward, terminated, truncated, info)"
                raise UserError(f"env.id={env_id}: step() returns {_kind(answer)}, not {five}")
            observation, reward, terminated, truncated, _ = answer
            _check(env_id, view, env.observation_space, observation)
            _check_reward(env_id, reward)
            if terminated or truncated:
                break
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UserError(f"env.id={env_id}: its {doing} raises {what} ({place.filename}:{place.lineno})") from error
    return reseedable


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
