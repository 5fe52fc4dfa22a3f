"""A stopwatch that can be paused."""

from __future__ import annotations

import time


class Stopwatch:
    """Adds up the time between start() and stop()."""

    def __init__(self) -> None:
        self._seconds, self._since = 0.0, None  # type: tuple[float, float | None]

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    @property
    def seconds(self) -> float:
        since = self._since  # once: another thread may look while this one stops it
        return self._seconds + (0.0 if since is None else time.perf_counter() - since)

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._seconds = value
