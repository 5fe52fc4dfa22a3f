"""A run in a few words, for lists of them: its status, name, steps and return, from its folder alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deeprl_cli.errors import UserError
from deeprl_cli.plugins.files import short
from deeprl_cli.runs.catalogue import last_used
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.lock import held

RUNNING, KILLED = "running", "killed"  # beside those of summary.json: finished, interrupted, failed
_TAIL = 1 << 16  # bytes of metrics.csv that are read for its last rows


def overview(run: Path) -> dict[str, Any]:
    """`status`, `reason` (why it ended before its `total_steps`, by `stop`), `name`, `tags`, `algo`, `env`, `seeds`
    (how many), `steps` of one seed, `total_steps`, `return` (mean over seeds, of the last policy; null where there is
    none yet), `age` (seconds since it began or last went on) and `run`. `killed`: it has left no last words. Raises
    UserError where its config.yaml can't be read."""
    config = read_config(run)
    summary: Mapping[str, Any] = {}
    with suppress(UserError):
        summary = read_summary(run)
    alive = held(run)
    steps, value = summary.get("total_steps"), _mean((summary.get("eval") or {}).get("return_mean"))
    if alive or not summary:
        steps, value = _so_far(run)
    return {
        "status": RUNNING if alive else summary.get("status", KILLED),
        "reason": None if alive else summary.get("reason"),
        "name": config.get("name"),
        "tags": config.get("tags") or [],
        "algo": short(str(config["algo"].get("name"))),
        "env": (config.get("env") or {}).get("id"),
        "seeds": config.get("seeds"),
        "steps": steps,
        "total_steps": config.get("total_steps"),
        "return": value,
        "age": max(0.0, time.time() - last_used(run)),
        "run": str(run),
    }


def _so_far(run: Path) -> tuple[int | None, float | None]:
    """The last step that was logged, and the mean over seeds of their last evaluation."""
    steps, returns = [], []
    for table in sorted(run.glob("seed_*/metrics.csv")):
        with suppress(OSError, ValueError):
            with table.open("rb") as file:
                columns = file.readline().decode().rstrip().split(",")
                start = file.tell()
                file.seek(max(start, table.stat().st_size - _TAIL))
                rows = [line.split(",") for line in file.read().decode(errors="replace").split("\n")[:-1]]
            rows = [row for row in rows if len(row) == len(columns)]
            steps += [int(row[0]) for row in rows[-1:]]
            place = columns.index("eval/return_mean")
            returns += [float(row[place]) for row in rows if row[place]][-1:]
    return max(steps, default=None), _mean(returns)


def _mean(values: Any) -> float | None:
    known = [value for value in values or [] if value is not None]
    return sum(known) / len(known) if known else None
