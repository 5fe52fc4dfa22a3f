"""Shows on a terminal how far a command has come."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_AGAIN = 0.2  # seconds between two updates


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows `what …` on standard error while this lasts, if that is a terminal."""
    stream = sys.stderr
    shown = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if shown:
        stream.write(f"{what} …")
        stream.flush()
    try:
        yield
    finally:
        if shown:
            stream.write("\r\x1b[K")
            stream.flush()


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that takes (done, total) and shows `what: 40 of 100` on standard error, in a line that is erased at
    the end. If standard error is no terminal, it shows nothing."""
    stream = sys.stderr
    if not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield lambda done, total: None
        return
    drawn = 0.0

    def told(done: int, total: int) -> None:
        nonlocal drawn
        if (now := time.monotonic()) - drawn >= _AGAIN:
            drawn = now
            stream.write(f"\r\x1b[K{what}: {done:,} of {total:,}")
            stream.flush()

    try:
        yield told
    finally:
        if drawn:
            stream.write("\r\x1b[K")
            stream.flush()
