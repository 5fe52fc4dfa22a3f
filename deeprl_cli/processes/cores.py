"""How many cores this process may use. No torch here: OpenMP reads its count when torch is loaded, and never again."""

from __future__ import annotations

import os

SHARE = "DEEPRL_CORES"  # set for one of several jobs side by side: how many cores are its own


def available_cores() -> int:
    """The cores this process may run on: a container or job scheduler often grants fewer than the machine has, and of
    several jobs side by side each has its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(SHARE, "")
    return min(cores, int(share)) if share.isdecimal() and int(share) else cores


def take_share(cores: int, *, openmp: bool) -> None:
    """Have only so many cores from here on, in this process and those it starts; `openmp`: its threads as well."""
    os.environ[SHARE] = str(cores)
    if openmp:
        os.environ["OMP_NUM_THREADS"] = str(cores)
