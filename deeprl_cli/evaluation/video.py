"""Videos of a trained policy: deterministic episodes of each chosen seed, as an MP4.

Shapes: S seeds of the policy; a frame is (height, width, 3) bytes.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from deeprl_cli.envs.closing import closing
from deeprl_cli.envs.make import make_single_env
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluation.episodes import EVAL_ENVS, FRESH
from deeprl_cli.policy import Policy
from deeprl_cli.schema.run import EnvConfig, RunConfig

Frame = npt.NDArray[np.uint8]

MAX_STEPS = 27_000  # of one episode, an Atari game's own limit; an environment without any must not fill the disk
DEFAULT_FPS = 30.0  # for an environment that doesn't say how fast it is to be seen


def check(cfg: RunConfig) -> None:
    """Raise UserError where no video could be made, before anything long has been done for one."""
    if importlib.util.find_spec("moviepy") is None:
        raise UserError("a video needs moviepy: pip install 'deeprl-cli[video]'")
    with staying(), closing(make_rendered(cfg.env), cfg.env.id):
        pass


def record(policy: Policy, cfg: RunConfig, seed_indices: Sequence[int], folder: Path, episodes: int = 1) -> list[Path]:
    """Write `folder`/seed_<k>.mp4 for each of the run's seeds chosen by index; the files, in that order.

    The episodes are the first that `deeprl eval` plays with that seed, each cut at MAX_STEPS. A file of that name is
    replaced. Raises UserError where moviepy is missing, the environment can't render, or the folder can't be written.
    """
    check(cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't write videos there ({error.strerror})") from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one observation at a time: a second thread would only fight the encoder for the cores
    try:
        files = [folder / f"seed_{cfg.seed_list[index]}.mp4" for index in seed_indices]
        for index, file in zip(seed_indices, files, strict=True):
            film(policy, cfg, index, file, episodes)
        return files
    finally:
        torch.set_num_threads(threads)


def film(
    policy: Policy,
    cfg: RunConfig,
    index: int,
    file: Path,
    episodes: int = 1,
    seen: Callable[[Frame, float], object] = lambda frame, fps: None,
) -> None:
    """Write one of the seeds, by its index, as `file`; `seen` is shown every frame, and the frames a second. What it
    raises ends the film, and nothing is left of it. Raises UserError as `record` does."""
    env_cfg = cfg.member_envs[index]
    with staying() as here, closing(make_rendered(env_cfg), env_cfg.id) as env:
        fps = fps_of(env)
        played = (_play(policy, env, index, cfg.seed_list[index] + FRESH, number) for number in range(episodes))

        def shown() -> Iterator[Frame]:
            for frame in chain.from_iterable(played):
                seen(frame, fps)
                yield frame

        _write(here / file, shown(), fps)


def fps_of(env: gym.Env[Any, Any]) -> float:
    """How many frames of it are a second."""
    return float(env.metadata.get("render_fps") or DEFAULT_FPS)


def make_rendered(cfg: EnvConfig, mode: str = "rgb_array") -> gym.Env[Any, Any]:
    """The environment as an algorithm sees it, drawn as `mode` says. Raises UserError where it can't be."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it would be printed into the output of --json
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # SIGTERM would be an event of pygame's window
    if sys.platform == "linux" and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # some environments open pygame's display even for arrays
    try:
        return make_single_env(cfg, training=False, render_mode=mode)
    except ConfigError as error:
        if cfg.backend == "envpool":
            raise UserError(f"pictures are gymnasium's, not EnvPool's: {error}") from error
        raise


def _play(policy: Policy, env: gym.Env[Any, Any], seed_index: int, run_seed: int, number: int) -> Iterator[Frame]:
    """The frames of one episode, the first and the final state included, acted by the policy's seed `seed_index`."""
    episode, place = divmod(number, EVAL_ENVS)  # side by side, as an evaluation plays them
    obs, _ = env.reset(seed=episode_seed(run_seed, place, episode, training=False))
    space = policy.algorithm.spec.observation_space
    if np.shape(obs) != (space.shape or ()):
        raise UserError(f"{_name(env)}: observations are {np.shape(obs)}, the policy was trained on {space.shape}")
    yield render(env)
    for _ in range(MAX_STEPS):
        # all S act, being one stack; they all see what the chosen one sees
        actions = policy.act(np.repeat(np.asarray(obs)[None], policy.num_seeds, axis=0), None, evaluating=True)
        obs, _, terminated, truncated, _ = env.step(actions[seed_index])
        yield render(env)
        if terminated or truncated:
            return


def render(env: gym.Env[Any, Any]) -> Frame:
    """One frame, its sides even, as H.264 with halved colour resolution needs them."""
    try:
        picture: Any = env.render()
    except Exception as error:  # whatever pygame, OpenGL or the simulator raises where it can't draw
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{_name(env)} can't be rendered here ({reason}): no video of it can be made") from error
    frame = np.asarray(picture)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"{_name(env)} doesn't render pictures (height, width, 3) of bytes: no video of it can be made")
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _name(env: gym.Env[Any, Any]) -> str:
    spec = env.unwrapped.spec
    return "this environment" if spec is None else f"env.id={spec.id}"


def _write(file: Path, frames: Iterator[Frame], fps: float) -> None:
    """Encode frames as they come: an episode of an Atari game would not fit into memory. Whole or not at all."""
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

    partial = file.with_name(f".{file.stem}.partial{file.suffix}")
    first = next(frames)
    height, width, _ = first.shape
    try:
        with FFMPEG_VideoWriter(str(partial), (width, height), fps) as writer:
            writer.write_frame(first)
            for frame in frames:
                writer.write_frame(frame)
        os.replace(partial, file)  # fails where ffmpeg wrote nothing
    except OSError as error:
        reason = [line for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{file}: can't write the video ({reason[-1].strip() if reason else error.strerror})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
