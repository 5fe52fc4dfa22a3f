"""One process on a run at a time. No torch here."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeprl_cli.errors import UserError

LOCK_NAME = ".lock"


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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise UserError(f"{run}: {holder} is training in it: wait for its end, or stop it") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)
