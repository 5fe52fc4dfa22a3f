"""Stays in the directory where the program was started, even if an environment changes the working directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staying() -> Iterator[Path]:
    """Come back in the end to the working directory there is now, which is handed over."""
    here = Path.cwd()
    try:
        yield here
    finally:
        os.chdir(here)
