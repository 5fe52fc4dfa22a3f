"""Building environments from their configuration: single ones, vectors of them, and the spaces an algorithm sees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TimeLimit

from deeprl_cli.envs import mujoco
from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.answers import checked, of_reset, of_step
from deeprl_cli.envs.atari import preprocess
from deeprl_cli.envs.closing import closing
from deeprl_cli.envs.generators import OwnGenerators, seeded_apart
from deeprl_cli.envs.ids import construction_errors, resolve
from deeprl_cli.envs.observations import (
    Frames,
    Layout,
    ObservationView,
    StackedChannels,
    StackedParts,
    flatten_nested,
    is_image,
    origin_given,
)
from deeprl_cli.envs.spec import Array, EnvSpec, Parts
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.classes import check_arguments, load_named, where_raised
from deeprl_cli.schema.named import class_of
from deeprl_cli.schema.run import EnvConfig

Env = gym.Env[Any, Any]


def make_vector_env(
    cfg: EnvConfig,
    seeds: Sequence[int],
    num_envs: int,
    *,
    training: bool,
    groups_of: int = 1,
    own_noise: bool = False,
    first_env: int = 0,
    own: Sequence[EnvConfig] = (),
) -> VectorEnv:
    """N = len(seeds) * num_envs environments, seed-major. `training` turns on what only learning should see (reward
    clipping, lost lives as ends) and keeps training and evaluation episodes apart. `groups_of` environments in a row
    share each episode's reset, and with `own_noise` only that: what they draw afterwards is each one's own (both the
    synchronous back-end's only). `first_env`: how many of each seed's are another process's, and come before (not of
    native back-ends). `own`: what each seed's are, where they differ in `kwargs` that leave the spaces alone (the
    synchronous back-end's only).

    Raises ConfigError for everything that can't be built or acted in.
    """
    if cfg.wrappers and cfg.backend in ("native", "envpool"):
        raise ConfigError(
            f"env.wrappers: env.backend={cfg.backend} steps all environments as one, and nothing can be put around "
            "each: use env.backend=sync or env.backend=async"
        )
    if cfg.channels != "auto" and cfg.backend in ("native", "envpool"):
        raise ConfigError(
            f"env.channels={cfg.channels}: env.backend={cfg.backend} says by itself where images have their channels: "
            "leave it out, or use env.backend=sync or env.backend=async"
        )
    if cfg.backend == "native":
        from deeprl_cli.envs.native import NativeVectorEnv

        return NativeVectorEnv(cfg, seeds, num_envs, training=training)
    if cfg.backend == "envpool":
        from deeprl_cli.envs.envpool_backend import EnvPoolVectorEnv

        return EnvPoolVectorEnv(cfg, seeds, num_envs, training=training)
    make_env = [partial(build_env, one, training=training) for one in own or [cfg] * len(seeds)]
    clip = training and cfg.atari.enabled and cfg.atari.clip_reward
    if cfg.backend == "async":
        from deeprl_cli.envs.asynchronous import AsynchronousVectorEnv

        return AsynchronousVectorEnv(
            cfg, make_env[0], seeds, num_envs, training=training, clip_reward=clip, first_env=first_env
        )
    from deeprl_cli.envs.sync import SyncVectorEnv

    return SyncVectorEnv(
        cfg,
        make_env,
        seeds,
        num_envs,
        training=training,
        clip_reward=clip,
        groups_of=groups_of,
        own_noise=own_noise,
        first_env=first_env,
    )


def env_spec(cfg: EnvConfig) -> EnvSpec:
    """The spaces as an algorithm sees them: builds one environment, reads them, closes it. Raises ConfigError."""
    if cfg.backend in ("native", "envpool"):
        vector = make_vector_env(cfg, [0], 1, training=True)
        vector.close()
        return vector.spec
    with closing(build_env(cfg, training=True), cfg.id) as env:
        return AlgorithmView(cfg, env).as_seen


def make_single_env(cfg: EnvConfig, *, training: bool, render_mode: str | None = None) -> Env:
    """One environment taking and giving what an algorithm does (spaces of `env_spec`), for example to record a video.

    Always gymnasium's, whatever cfg.backend says. Raises ConfigError where it can't render in `render_mode`.
    """
    return AlgorithmView(cfg, build_env(cfg, training=training, render_mode=render_mode))


class AlgorithmView(gym.Wrapper[Any, Any, Any, Any]):
    """Observations and actions of one environment as in EnvSpec. What it returns is checked: BadAnswer."""

    def __init__(self, cfg: EnvConfig, env: Env) -> None:
        super().__init__(checked(env))
        self.observations = ObservationView(cfg.id, env.observation_space, origin_given(cfg.origin))
        self.actions = ActionView(cfg.id, env.action_space)
        self.observation_space, self.action_space = self.observations.space, self.actions.space
        self.as_seen = EnvSpec(cfg.id, self.observations.space, self.actions.space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = of_reset(self.env.reset(seed=seed, options=options))
        return self.see(observation), dict(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        decoded = self.actions.decode([action])
        row = decoded.tolist()[0] if self.actions.scalar else decoded[0]
        observation, reward, terminated, truncated, info = of_step(self.env.step(row))
        return self.see(observation), reward, terminated, truncated, dict(info)

    def see(self, observation: Any) -> Array:
        return self.observations.row(observation)


def build_env(cfg: EnvConfig, *, training: bool, render_mode: str | None = None) -> Env:
    """One gymnasium environment with its time limit, Atari preprocessing, frame stack and flattening, its spaces and
    dtypes still its own. Raises ConfigError.
    """
    env = stacked(cfg, framed(cfg, bare_env(cfg, render_mode=render_mode), training=training))
    return OwnGenerators(env) if cfg.generators == "own" else env


def framed(cfg: EnvConfig, env: Env, *, training: bool) -> Env:
    """A `bare_env` with what makes single frames of its observations: Atari preprocessing and flattening."""
    nested = isinstance(env.observation_space, gym.spaces.Dict)
    if nested and env.spec is not None and env.spec.id.startswith(("MiniGrid-", "BabyAI-")):
        env = _flat_minigrid(env)
    if cfg.atari.enabled:
        env = preprocess(cfg.id, env, cfg.atari, cfg.max_episode_steps, training=training)
    if cfg.channels != "auto":
        env = Layout(env, last=cfg.channels == "last")
    return flatten_nested(cfg.id, env)


def bare_env(cfg: EnvConfig, *, render_mode: str | None = None) -> Env:
    """The environment as gymnasium makes it, in its own wrappers (`env.wrappers`); of an Atari game to be preprocessed,
    every single screen in grey."""
    registered = resolve(cfg.id)
    mujoco.prepare(registered.entry_point)
    if "ale_py" in str(registered.entry_point):
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else a banner for every game loaded
    kwargs = copy.deepcopy(cfg.kwargs)
    arguments: dict[str, Any] = dict(kwargs)
    limit = cfg.max_episode_steps
    if cfg.atari.enabled:
        if kwargs.get("frameskip", 1) != 1:
            raise ConfigError("env.kwargs.frameskip: leave it out, env.atari.frame_skip does the skipping")
        if "ale_py" in str(registered.entry_point):
            # the preprocessing skips frames and reads the screen in grey itself
            arguments = {"obs_type": "grayscale", **arguments, "frameskip": 1}
        limit = -1  # counted in agent steps, outside the frame skip
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    apart = seeded_apart(0) if cfg.generators == "own" else nullcontext()
    with construction_errors(registered, kwargs), apart:
        env: Env = gym.make(registered, max_episode_steps=limit, disable_env_checker=True, **arguments)
    if render_mode is not None and render_mode not in env.metadata.get("render_modes", []):
        env.close()
        raise ConfigError(f"env.id={cfg.id} can't render as {render_mode}: no video of it can be made")
    return wrapped(cfg, env)


def wrapped(cfg: EnvConfig, env: Env) -> Env:
    """In the wrappers that the configuration names, the first innermost. Raises ConfigError where one can't be had."""
    for number, entry in enumerate(cfg.wrappers):
        (name, kwargs), key = class_of(entry), f"env.wrappers[{number}]"
        wrapper = load_named(name, key)
        check_arguments(wrapper, key, kwargs, env)
        try:
            outer: Any = wrapper(env, **copy.deepcopy(kwargs))
        except Exception as error:
            raise ConfigError(f"{key}={name}: can't be put around {cfg.id}: {where_raised(error)}") from error
        if not isinstance(outer, gym.Env):
            env.close()
            raise ConfigError(f"{key}={name}: gives a {type(outer).__name__} instead of an environment of gymnasium's")
        env = outer
    return env


def stacked(cfg: EnvConfig, env: Env) -> Env:
    """The last `frame_stack` observations as one. Atari frames are always (stack, H, W), also for a stack of one."""
    if cfg.frame_stack == 1 and not cfg.atari.enabled:
        return env
    frame = env.observation_space
    limit = env if type(env) is TimeLimit else None
    if limit is not None:
        # the time limit outermost, where the synchronous back-end counts it for all environments at once
        env = limit.env
    env = FrameStackObservation(Frames(cfg.id, env), cfg.frame_stack)
    if is_image(frame) and len(frame.shape) <= 3:
        env = StackedChannels(env, frame)
    elif isinstance(frame, Parts):
        env = StackedParts(env, frame)
    elif isinstance(frame, gym.spaces.Box) and frame.dtype == np.uint8:
        env = FlattenObservation(env)  # bytes in two axes would be taken for a picture
    return env if limit is None else TimeLimit(env, limit._max_episode_steps)


def _flat_minigrid(env: Env) -> Env:
    """MiniGrid's own flat form of its Dict: the partial view and the mission's characters in one vector."""
    from minigrid.wrappers import FlatObsWrapper

    flat: Env = FlatObsWrapper(env)
    return flat
