"""One process on a run at a time. No torch here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deeprl_cli.errors import UserError

LOCK_NAME = ".lock"
TRIES, PAUSE = 3, 0.02  # one who only looks whether it is held holds it for a moment


def held(run: Path) -> bool:
    """Whether a process trains in the run (or has its sweep under way) now."""
    try:
        import fcntl

        descriptor = os.open(run / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock. Raises UserError, naming the process, where another has it.

    The operating system lets go of it when its process ends, in whatever way, so none is ever stale; the file stays,
    and says who had it last. Where files can't be locked (Windows), nothing is.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = run / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{run}: can't be written ({error.strerror}): a run goes on in a folder of its own") from error
    try:
        try:
            _take(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise UserError(f"{run}: {holder} is training in it: wait for its end, or stop it") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock of this name in the folder for a moment, as soon as whoever has it lets go."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _take(flock: Callable[[int, int], None], descriptor: int, how: int) -> None:
    for left in reversed(range(TRIES)):
        try:
            flock(descriptor, how)
            return
        except OSError:
            if not left:
                raise
            time.sleep(PAUSE)
