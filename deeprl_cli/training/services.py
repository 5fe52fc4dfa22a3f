"""What a trainer is given: where its results go, who shows its progress, and who may stop it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from deeprl_cli.training.progress import Progress
from deeprl_cli.training.share import Outlet, Share


class Services:
    """Where the results of each run go that a trainer trains, and who may stop it. `left` is told of one that ends
    before the others, with its goal reached or because it failed."""

    def __init__(
        self,
        outlets: Sequence[Outlet],
        progress: Progress,
        stopping: Callable[[], bool],
        left: Callable[[Share], None] = lambda share: None,
    ) -> None:
        self.outlets, self.progress, self.stopping, self.left = list(outlets), progress, stopping, left

    @property
    def name(self) -> Path:
        """The run's name, as the user typed it."""
        return self.outlets[0].name
