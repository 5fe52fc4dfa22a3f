"""Stays where the program was started: in its directory, and with its output, whatever an environment makes of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staying() -> Iterator[Path]:
    """Come back in the end to the working directory there is now, which is handed over, and to sys.stdout and
    sys.stderr."""
    here, streams = Path.cwd(), (sys.stdout, sys.stderr)
    try:
        yield here
    finally:
        os.chdir(here)
        sys.stdout, sys.stderr = streams
