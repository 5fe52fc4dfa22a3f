"""Which memory a run needs, and whether it fits."""

from __future__ import annotations

import torch

from deeprl_cli.data.frames import FrameMemory
from deeprl_cli.data.replay import Replay
from deeprl_cli.envs.observations import is_image
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.processes import ranks
from deeprl_cli.schema.run import ReplayConfig, RunConfig, device_of


def make_memory(cfg: RunConfig, spec: EnvSpec, device: torch.device) -> Replay:
    """FrameMemory for images, stacked or not; Replay for everything else. A rank's is for its own environments.

    As large as the run can fill it: resumed with more steps, it is larger, and holds the same.
    """
    assert isinstance(cfg.algo, ReplayConfig)
    capacity, num_envs = ranks.share_size(_rows(cfg.algo, cfg.total_steps)), ranks.share_size(cfg.algo.num_envs)
    most = ranks.share_size(cfg.algo.buffer_capacity)
    if is_image(spec.observation_space):
        return FrameMemory(
            spec,
            cfg.seeds,
            capacity,
            device,
            num_envs=num_envs,
            stack=cfg.env.frame_stack,
            most=most,
        )
    return Replay(spec, cfg.seeds, capacity, device, most=most)


def check_memory(cfg: RunConfig, spec: EnvSpec) -> None:
    """Raise ConfigError when the replay memory that this run will fill is larger than what the machine has free."""
    if not isinstance(cfg.algo, ReplayConfig):
        return
    rows, needed = _rows(cfg.algo, cfg.total_steps), memory_bytes(cfg, spec)
    free = free_bytes(device_of(cfg.hardware))
    if free is not None and needed > 0.9 * free:
        fitting = int(0.8 * free / needed * rows)
        raise ConfigError(
            f"the replay memory needs {needed / 2**30:.1f} GiB for {cfg.seeds} x {rows} transitions, "
            f"{free / 2**30:.1f} GiB are free: give algo.buffer_capacity={fitting} or fewer seeds"
        )


def memory_bytes(cfg: RunConfig, spec: EnvSpec) -> int:
    """What the replay memory will have taken at the run's end; the same on the disk, in a checkpoint."""
    assert isinstance(cfg.algo, ReplayConfig)
    rows = _rows(cfg.algo, cfg.total_steps)
    if is_image(spec.observation_space):
        return FrameMemory.bytes_needed(spec, cfg.seeds, rows, cfg.algo.num_envs, cfg.env.frame_stack)
    return Replay.bytes_needed(spec, cfg.seeds, rows)


def _rows(algo: ReplayConfig, total_steps: int) -> int:
    """Transitions of a seed that the run can fill; the last step is one of every environment."""
    return min(algo.buffer_capacity, -(-total_steps // algo.num_envs) * algo.num_envs)


def free_bytes(device: str) -> int | None:
    """Memory a new allocation can take, or None where the system doesn't tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
