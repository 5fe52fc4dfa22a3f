"""Stopping cleanly on signals, and the time when this process began."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_processes_first_run = True


_open: list[Signals] = []  # from the outermost to the innermost


class Signals:
    """Whether SIGINT or SIGTERM came. A second one is no longer held back."""

    def __init__(self, told: Callable[[], object] = lambda: None) -> None:
        self.received: int | None = None
        self.told = told
        self.previous: dict[int, Any] = {}  # handlers

    def requested(self) -> bool:
        return self.received is not None


@contextmanager
def stop_on_signals(
    told: Callable[[], object] = lambda: None,
    shown: Callable[[], bool] = lambda: False,
    word: str = "writing the last checkpoint",
) -> Iterator[Signals]:
    """Turn the first SIGINT or SIGTERM into a request to stop, `told` there and then; the next one acts as usual.
    `shown`: whether the user gets to see that by itself; where not, a line on standard error says `word`. One inside
    another asks both to stop, and one that begins after the request has it already: work that trains again and again
    loses no signal that comes between two trainings."""
    signals = Signals(told)

    def handle(number: int, frame: FrameType | None) -> None:
        for one in reversed(_open):
            one.received = number
            one.told()
        for other, handler in _open[0].previous.items():
            signal.signal(other, handler)
        if not shown():
            os.write(2, f"\nstopping: {word} (once more to quit at once)\n".encode())

    _open.append(signals)  # from here on, it is told of what comes
    if asked := [one.received for one in _open if one.requested()]:
        signals.received = asked[0]  # before it began
        told()
    try:
        for number in (signal.SIGINT, signal.SIGTERM) if not signals.requested() else ():
            signals.previous[number] = signal.signal(number, handle)
    except ValueError:
        _open.remove(signals)  # not the main thread: a launcher that runs jobs in threads keeps its own handling
    try:
        yield signals
    finally:
        if signals in _open:
            former = _open[0] if signals.requested() else signals
            for restored, handler in former.previous.items():
                signal.signal(restored, handler)
            _open.remove(signals)


def began() -> float:
    """When this run's process started, or now for a later run of one process, by a clock that no one sets."""
    global _processes_first_run
    now = time.monotonic()
    if not _processes_first_run:
        return now
    _processes_first_run = False
    return _process_start() or now


def _process_start() -> float | None:
    """From Linux's process table; None elsewhere."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return time.monotonic() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))
