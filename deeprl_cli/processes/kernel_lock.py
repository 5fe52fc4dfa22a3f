"""A lock between processes that is released when its holder dies."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from types import TracebackType
from typing import Any

LOCK_POLL = 5e-5  # seconds


class KernelLock:
    """A lock between processes that the kernel takes back from one that dies with it; `multiprocessing.Lock` would be
    held for ever. Taken twice by one process, it is let go of twice. `while_waiting` is called over and over.
    """

    def __init__(self) -> None:
        # record locks belong to processes, not to open files: one will do for all
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the run
        self._number, self._depth = self._file.fileno(), 0
        self.while_waiting: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        import fcntl

        while self._depth == 0:
            try:
                fcntl.lockf(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:  # held by another
                self.while_waiting()
                time.sleep(LOCK_POLL)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import fcntl

        self._depth -= 1
        if self._depth == 0:
            fcntl.lockf(self._number, fcntl.LOCK_UN)

    def __getstate__(self) -> Any:
        return DupFd(self._number)

    def __setstate__(self, state: Any) -> None:
        self._number, self._depth = state.detach(), 0
        self.while_waiting = lambda: None
