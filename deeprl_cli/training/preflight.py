"""Finds everything that would fail before a run is built, and returns what it saw of the environment."""

from __future__ import annotations

from deeprl_cli.algos.registry import check_algorithm, get_algorithm
from deeprl_cli.data.memory import check_memory
from deeprl_cli.envs.look import Look, look
from deeprl_cli.errors import ConfigError
from deeprl_cli.processes.hardware import check_device
from deeprl_cli.runs.tracking import check_trackers
from deeprl_cli.runs.warm_start import find_source
from deeprl_cli.schema.run import EpisodeConfig, ReplayConfig, RunConfig
from deeprl_cli.training.asynchronous import check_workers
from deeprl_cli.training.callbacks import check_callbacks
from deeprl_cli.training.demonstrations import check_demonstrations
from deeprl_cli.training.filming import check_filming
from deeprl_cli.training.launch import check_ranks
from deeprl_cli.training.stopping import check_stop


def preflight(cfg: RunConfig, *, fresh: bool = True, seen: Look | None = None) -> Look:
    """Check the run, its environment included; what was seen of that, to be handed on. Raises UserError, one line.

    A run that goes on (not `fresh`) has its weights, and needs those of `init_from` no more. `seen` saves another look
    at an environment that was looked at before.
    """
    check_device(cfg.hardware)
    check_workers(cfg)
    check_ranks(cfg)
    check_stop(cfg)
    check_callbacks(cfg.callbacks)
    seen = seen or look(cfg.env)
    check_algorithm(cfg.algo, cfg.network, seen.spec)
    check_memory(cfg, seen.spec)
    loop = get_algorithm(cfg.algo.name).loop_for(cfg.algo)
    if loop == "episodes":
        check_episodes(cfg, seen)
    if loop == "demonstrations":
        check_demonstrations(cfg.env, seen.spec)
    if fresh:
        find_source(cfg)
    check_filming(cfg)
    check_trackers(cfg)
    if isinstance(cfg.algo, ReplayConfig) and cfg.algo.learning_starts >= cfg.total_steps:
        raise ConfigError(
            f"algo.learning_starts={cfg.algo.learning_starts} leaves nothing of total_steps={cfg.total_steps} to learn "
            f"in: give a larger total_steps, or fewer random steps first"
        )
    return seen


def check_episodes(cfg: RunConfig, seen: Look) -> None:
    """Raise ConfigError if the environments can't wait for each other's episodes to end."""
    if cfg.env.backend != "sync":
        raise ConfigError(
            f"algo={cfg.algo.called} waits for whole episodes, and env.backend={cfg.env.backend} steps every "
            "environment at once: use env.backend=sync"
        )
    if cfg.env.atari.enabled and cfg.env.atari.terminal_on_life_loss:
        raise ConfigError(
            f"algo={cfg.algo.called} waits for whole episodes, and a lost life is only a part of one: give "
            "env.atari.terminal_on_life_loss=false"
        )
    if own_noise(cfg) and not seen.reseedable:
        raise ConfigError(
            f"algo.group_noise=independent: {cfg.env.id} doesn't draw from gymnasium's generator (np_random), so that "
            "it can't be reseeded: give algo.group_noise=common"
        )


def own_noise(cfg: RunConfig) -> bool:
    """Whether environments that start an episode from the same reset then draw different random numbers."""
    return isinstance(cfg.algo, EpisodeConfig) and cfg.algo.group_noise == "independent"
