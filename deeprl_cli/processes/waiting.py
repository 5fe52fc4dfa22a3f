"""How threads wait for one another, decided before torch is loaded: OpenMP reads it then, and never again."""

from __future__ import annotations

import os
import time
from pathlib import Path

SAMPLES, PAUSE = 5, 0.004  # looks at the run queue, seconds between them
_LOADAVG = Path("/proc/loadavg")


def wait_politely() -> None:
    """Let waiting threads sleep where another program is running now; where none is, let them spin.

    Spinning threads take the core from the one they wait for as soon as something else wants one, too: several times
    slower than sleeping ones on a busy machine, a fifth to a half faster on a quiet one. Numbers don't depend on it.
    What the user has set (OMP_WAIT_POLICY, GOMP_SPINCOUNT) stays.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} and others_running():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def others_running() -> bool:
    """Whether other processes want a core, at most looks, just now (not over the last minute). False off Linux."""
    counts = []
    for _ in range(SAMPLES):
        try:
            counts.append(int(_LOADAVG.read_text(encoding="ascii").split()[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return False
        time.sleep(PAUSE)
    return sorted(counts)[SAMPLES // 2] > 1  # this process is one of those that run
