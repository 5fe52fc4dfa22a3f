"""The folder that keeps compiled graphs, shared by all runs: repairs what a killed run left half written.

Inductor lets the C++ compiler write a library straight to its place, and takes whatever stands there for whole: killed
in between, a run would leave a library that no later one could load. While it builds `X.so` it keeps a folder
`X_CxxBuild` beside it, under a lock; one that is there without anybody holding the lock tells of such a build.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUILDING = "_CxxBuild"
LARGE = 2 * 2**30  # bytes of inductor's files that are worth a word
MADE = (".so", ".o", ".gch")  # what compilers write: libraries, objects, precompiled headers


def cache_folder() -> Path:
    """Where compiled code is kept, of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeprl"


def find_compiler() -> str | None:
    """The C++ compiler inductor would use, or None."""
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("clang++")


def size(folder: Path) -> int:
    """Bytes of all files below it; files that go meanwhile are none."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, file)).st_size
    return total


def half_made(cache: Path) -> list[Path]:
    """The folders of builds in inductor's `cache` that were cut short; nothing is removed."""
    found = []
    for building in cache.glob(f"*/*{BUILDING}"):
        with suppress(OSError), _locked(cache / "locks" / f"{building.name.partition('.')[0]}.lock"):
            found.append(building)
    return found


def remove_half_made(cache: Path) -> list[Path]:
    """Delete what builds that were cut short have left in inductor's `cache`, and where it keeps headers; the files."""
    removed = []
    headers = _headers()
    places = [(building, cache / "locks") for building in cache.glob(f"*/*{BUILDING}")]
    if headers is not None:
        places += [(building, headers / "locks") for building in headers.glob(f"*{BUILDING}")]
    for building, locks in places:
        name = building.name.removesuffix(BUILDING)
        with suppress(OSError):  # BlockingIOError, too: another process is at it now
            locks.mkdir(parents=True, exist_ok=True)
            with _locked(locks / f"{name.partition('.')[0]}.lock"):
                made = [path for path in building.parent.iterdir() if _made_as(path.name, name)]
                for path in made:
                    path.unlink()
                shutil.rmtree(building)  # last: killed here, the next one finds it again
                removed += made
    return removed


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that inductor builds under. Raises OSError where it is taken, or files can't be locked."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError("no file can be locked here") from error
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _made_as(file: str, name: str) -> bool:
    return file.startswith(f"{name}.") and file.endswith(MADE)


def _headers() -> Path | None:
    """Where inductor keeps precompiled headers, which isn't in its cache; None where it hides that."""
    try:
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    except ImportError:
        return None
    return Path(default_cache_dir()) / "precompiled_headers"
