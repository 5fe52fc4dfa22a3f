"""The end of the program, which what an environment has left behind can't take away or hold up."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import ModuleType

PATIENCE = 10.0  # seconds that threads, processes and what was left to be done at the exit have


def outlast_closing() -> None:
    """An environment that closes the standard streams, as some do to be quiet, doesn't silence what comes after it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.close = stream.flush  # type: ignore[method-assign]


def end_in_time(code: int) -> None:
    """The program is done, but for Python's own end, which waits for every thread and process that something started:
    one that is still there after `PATIENCE` is told, and left."""
    threading.Thread(target=_leave, args=(code,), daemon=True).start()


def _leave(code: int) -> None:
    time.sleep(PATIENCE)
    multiprocessing: ModuleType | None = sys.modules.get("multiprocessing")
    children = [] if multiprocessing is None else multiprocessing.active_children()
    threads = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"]
    names = [*threads, *(child.name for child in children)]
    what = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    print(
        f"deeprl: done, but something that was started here doesn't end{what}: it isn't waited for any longer",
        file=sys.stderr,
        flush=True,
    )
    for child in children:
        child.kill()
    os._exit(code)
