"""`log.video_every`: films the policy from time to time. It uses none of training's random generators, and keeps only
one frame at a time and a small preview in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluation import video
from deeprl_cli.evaluation.preview import Frame, Preview
from deeprl_cli.policy import Policy
from deeprl_cli.processes import ranks
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Share
from deeprl_cli.training.shares import Shares
from deeprl_cli.training.stopwatch import Stopwatch

VIDEOS = "videos"  # the folder, in a seed's


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop during filming."""


def check_filming(cfg: RunConfig) -> None:
    """Raise ConfigError if a run asks for videos and can't make any."""
    if not cfg.log.video_every:
        return
    try:
        video.check(cfg)
    except UserError as error:
        raise ConfigError(f"log.video_every={cfg.log.video_every}: {error}; or leave it out") from error


class Filming:
    """Films whenever the next multiple of `log.video_every` steps is reached. If a film can't be made, a line says so
    once, no more are tried, and training goes on."""

    def __init__(self, cfg: RunConfig, policy: Policy, shares: Shares, to: Services) -> None:
        self.cfg, self.policy, self.shares, self.to = cfg, policy, shares, to
        self.every, self.filmed = cfg.log.video_every, 0

    def begin(self, step: int) -> None:
        """Training begins, or goes on, at this step."""
        self.filmed = step

    def due(self, step: int) -> bool:
        return bool(self.every) and step // self.every > self.filmed // self.every

    def look(self, step: int, clock: Stopwatch) -> None:
        """Film each run if it is time; on rank 0."""
        if not self.due(step):
            return
        self.filmed = step
        if ranks.rank() > 0:
            return
        clock.stop()
        with self.to.progress.stage("filming"):
            try:
                for share in self.shares.going:
                    film(self.policy, self.cfg, share, step, self.to.stopping)
            except UserError as error:
                self.every = 0
                self.to.progress.message(f"no more videos: {error}")
        clock.start()


def film(policy: Policy, cfg: RunConfig, share: Share, step: int, stopping: Callable[[], bool]) -> None:
    """An episode of the first seed of `share`, as a file, and as a picture for TensorBoard. Nothing where the run is
    asked to stop before it ends. Raises UserError where it can't be rendered or written."""
    preview, seed = Preview(), share.job.seed_list[0]

    def seen(frame: Frame, fps: float) -> None:
        if stopping():
            raise Stopped
        preview(frame, fps)

    folder = share.outlet.run_dir / f"seed_{seed}" / VIDEOS
    file = folder / f"step_{step:09d}.mp4"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        video.film(policy, cfg, share.indices[0], file, seen=seen)
    except Stopped:
        return
    except OSError as error:
        raise UserError(f"{folder}: can't write videos there ({error.strerror})") from error
    share.outlet.logger.film(seed, step, file, *preview.gif())
