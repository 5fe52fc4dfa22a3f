"""What a trainer is lent: where its results go, who is told how far it is, and who may stop it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.weights_chain import WeightsChain
from deeprl_cli.training.progress import Progress


class Services:
    """Where a trainer's results go, and who may stop it."""

    def __init__(
        self,
        run_dir: Path,
        logger: RunLogger,
        progress: Progress,
        stopping: Callable[[], bool],
        chain: WeightsChain,
        name: Path | None = None,
    ) -> None:
        self.run_dir, self.logger, self.progress, self.stopping = run_dir, logger, progress, stopping
        self.chain = chain
        self.name = name or run_dir  # of the run, in words: as the user typed it
