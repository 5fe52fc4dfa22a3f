"""Checks one environment before a run: its spaces, two resets with the same seed, and a few random steps."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from deeprl_cli.envs.answers import stumbled
from deeprl_cli.envs.closing import closing
from deeprl_cli.envs.generators import OwnGenerators
from deeprl_cli.envs.ids import metadata, resolve
from deeprl_cli.envs.make import AlgorithmView, build_env, make_vector_env
from deeprl_cli.envs.observations import ObservationView, origin_of
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.settings import settings_kept
from deeprl_cli.envs.spec import Array, EnvSpec, Parts
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.plugins.classes import where_raised
from deeprl_cli.schema.run import EnvConfig

STEPS = 3
PICTURE = 16  # a side of what may well be meant as a picture
SEED = 0


@dataclass(frozen=True)
class Look:
    """What is known of an environment before a run.

    `env`: its configuration, with what `auto` came to. `ends`: a time limit ends every episode. `reseedable`: it draws
    from the generator that gymnasium gives it on reset(seed=…). `repeatable`: one seed and the same actions gave the
    same episode twice. `transcripts`: its episodes can be shown as text (`has_transcripts`). `notes`: what a user
    should know of it.
    """

    env: EnvConfig
    spec: EnvSpec
    ends: bool
    reseedable: bool
    repeatable: bool
    transcripts: bool
    notes: tuple[str, ...] = ()


def look(cfg: EnvConfig) -> Look:
    """Build one environment, reset and step it, and close it. Raises ConfigError where it can't be built or acted in;
    UserError, one line, where it raises, or what it returns can't be learnt from: a wrong shape, NaN, a number outside
    its Discrete space, something else than five values.

    The environment's native vector form and EnvPool's are other programs, tested with their own environments.
    """
    if cfg.backend in ("native", "envpool"):
        if cfg.generators == "own" or isinstance(cfg.origin, list):
            raise ConfigError(
                f"env.generators=own and env.origin: env.backend={cfg.backend} steps all environments as one, and has "
                "neither: leave them out, or use env.backend=sync"
            )
        vector = make_vector_env(cfg, [0], 1, training=True)
        vector.close()
        settled = dataclasses.replace(cfg, generators="shared", origin=None)
        return Look(settled, vector.spec, True, False, repeatable=True, transcripts=has_transcripts(cfg.id))
    settled = dataclasses.replace(
        cfg,
        generators="shared" if cfg.generators == "auto" else cfg.generators,
        origin=None if cfg.origin == "auto" else cfg.origin,
    )
    with staying(), settings_kept() as changed, closing(_built(settled), cfg.id) as env:
        declared = (env.observation_space, env.action_space)
        raw: list[Array] = []
        seen = _Watched(settled, env, raw)
        repeatable = _same(_played(cfg.id, seen), _played(cfg.id, seen))
        if not repeatable and cfg.generators == "auto":
            alone = _Watched(settled, OwnGenerators(env), raw)
            if _same(_played(cfg.id, alone), _played(cfg.id, alone)):
                settled, repeatable = dataclasses.replace(settled, generators="own"), True
        if setting := changed():
            raise UserError(
                f"env.id={cfg.id} calls {setting}, which the networks would be trained with, too: it is to do so only "
                "around what it computes itself"
            )
        if (env.observation_space, env.action_space) != declared:
            raise UserError(
                f"env.id={cfg.id} declares other spaces once it is reset ({env.observation_space}, {env.action_space}) "
                f"than before ({declared[0]}, {declared[1]}): it is to keep those that it was built with"
            )
        if cfg.origin == "auto":
            settled = dataclasses.replace(settled, origin=origin_of(raw, seen.observations.declared))
        reseedable = getattr(env.unwrapped, "_np_random", None) is not None
        spec = AlgorithmView(settled, env).as_seen
    notes = _notes(settled, repeatable, seen.observations)
    return Look(settled, spec, has_time_limit(cfg), reseedable, repeatable, has_transcripts(cfg.id), notes)


def _notes(cfg: EnvConfig, repeatable: bool, observations: ObservationView) -> tuple[str, ...]:
    found = []
    if not repeatable:
        found.append(
            f"{cfg.id}: one seed gave two different episodes, so this run can't be repeated exactly; resumed, its "
            "episodes start afresh"
        )
    elif cfg.generators == "own":
        found.append(f"{cfg.id} draws from the process's global generators: each environment gets states of its own")
    if isinstance(cfg.origin, list):
        which = [index for index, value in enumerate(cfg.origin) if value]
        found.append(
            f"{cfg.id}: 32 bits can't hold the changes of feature {', '.join(map(str, which[:8]))}"
            f"{' …' if len(which) > 8 else ''} of the observation: it is counted from its first value (env.origin)"
        )
    shape = observations.source_shape
    space = observations.space
    if observations.declared.kind == "f" and len(shape) == 3 and max(shape) >= PICTURE:
        found.append(
            f"{cfg.id}: observations of shape {shape} are floats, read as a vector of {math.prod(shape):,} numbers: "
            "convolutions read images of bytes (uint8), and of floats that have finite bounds and 36 lines and columns"
        )
    if isinstance(space, Parts):
        numbers = int((~space.is_pixel()).sum())
        images = ", ".join(f"{picture.name or 'image'} {picture.shape}" for picture in space.pictures)
        rest = f" and {numbers:,} other number{'s' if numbers > 1 else ''}" if numbers else ""
        found.append(f"{cfg.id}: the observation is read as {images}{rest}")
    return tuple(found)


def _built(cfg: EnvConfig) -> Any:
    try:
        return build_env(cfg, training=True)
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"env.id={cfg.id} can't be built: it ends the program, sys.exit({error.code!r})") from error
    except Exception as error:
        raise UserError(f"env.id={cfg.id} can't be built: {where_raised(error)}") from error


class _Watched(AlgorithmView):
    """Keeps the observations of vectors as they come, in the environment's own numbers."""

    def __init__(self, cfg: EnvConfig, env: Any, raw: list[Array]) -> None:
        super().__init__(cfg, env)
        self.raw = raw if self.observations.dtype == np.float32 else []  # images and choices aren't counted anew

    def see(self, observation: Any) -> Array:
        self.raw.append(self.observations.checked(observation).astype(np.float64))
        return super().see(observation)


def has_transcripts(env_id: str) -> bool:
    """Whether the environment says that its episodes can be shown as text (`metadata["transcripts"]`)."""
    try:
        return bool(metadata(env_id).get("transcripts"))
    except ConfigError:  # an id that EnvPool alone knows
        return False


def has_time_limit(cfg: EnvConfig) -> bool:
    """Whether every episode ends, after so many steps if not before. Our own environments' do; Atari's emulator has a
    limit of frames."""
    registered = resolve(cfg.id)
    own = str(registered.entry_point).startswith("deeprl_cli.")
    return own or cfg.atari.enabled or (cfg.max_episode_steps or registered.max_episode_steps) is not None


def _played(env_id: str, env: AlgorithmView) -> list[tuple[Array, float, bool]]:
    """Reset and step it, as `look` says: observations, rewards, ends."""
    doing = "reset()"
    try:
        observation, _ = env.reset(seed=SEED)
        _check(env, observation)
        steps = [(observation, 0.0, False)]
        env.action_space.seed(SEED)
        for _ in range(STEPS):
            doing = "step()"
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            _check(env, observation)
            if not math.isfinite(reward):
                raise UserError(f"a reward is {reward}: nothing can be learnt from it")
            steps.append((observation, reward, terminated or truncated))
            if terminated or truncated:
                break
    except UserError as error:
        raise UserError(f"env.id={env_id}: {error}") from error
    except SystemExit as error:
        raise UserError(f"env.id={env_id}: its {doing} ends the program, sys.exit({error.code!r})") from error
    except Exception as error:
        if (bad := stumbled(error)) is not None:
            raise UserError(f"env.id={env_id}: {bad}") from error
        raise UserError(f"env.id={env_id}: its {doing} raises {where_raised(error)}") from error
    return steps


def _same(first: list[tuple[Array, float, bool]], second: list[tuple[Array, float, bool]]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b) and gained == other and ended == over
        for (a, gained, ended), (b, other, over) in zip(first, second, strict=True)
    )


def _check(env: AlgorithmView, observation: Array) -> None:
    """Raise UserError where an observation is of no use."""
    space = env.observation_space
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if not space.contains(observation):
            raise UserError(f"the observation {observation} lies outside of its space {space}")
    elif not np.isfinite(observation).all():
        raise UserError("an observation holds NaN or infinity: nothing can be learnt from it")
