"""`group.json`: the runs that one has trained with, side by side on the seed axis. No torch here.

Each run of a group has one. It names all of them, so that one folder is enough to train the whole group again
(`deeprl verify`), whatever has become of the others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.schema.group import run_values
from deeprl_cli.schema.members import with_values
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import build, to_plain

GROUP_NAME = "group.json"
FORMAT = 1


def write_group(runs: Sequence[Path], jobs: Sequence[RunConfig]) -> None:
    """Leave the record in each of the folders."""
    values = [run_values(job) for job in jobs]
    differ = [key for key in values[0] if any(other[key] != values[0][key] for other in values)]
    told = [
        {"run": str(run), "seed": job.seed, "seeds": job.seeds, "values": {key: own[key] for key in differ}}
        for run, job, own in zip(runs, jobs, values, strict=True)
    ]
    for number, run in enumerate(runs):
        record = {"format": FORMAT, "number": number, "jobs": told}
        atomic_write(run / GROUP_NAME, (json.dumps(record, ensure_ascii=False) + "\n").encode())


def read_group(run: Path, cfg: RunConfig) -> tuple[int, list[RunConfig], list[Path]]:
    """Which of its group the run is, and the configuration and folder of each; alone, of itself.

    Raises UserError where the record can't be read.
    """
    path = run / GROUP_NAME
    if not path.is_file():
        return 0, [cfg], [run]
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(f"{path}: of format {record['format']}, this deeprl reads {FORMAT}: upgrade deeprl-cli")
        number, told = int(record["number"]), list(record["jobs"])
        jobs = [_of_group(cfg, job) for job in told]
        if dataclasses.replace(jobs[number], run_dir=cfg.run_dir) != cfg:
            raise UserError(f"{path}: its number {number} isn't this run")
        return number, jobs, [Path(job["run"]) for job in told]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise UserError(f"{path}: damaged: it doesn't name the runs of a group") from error


def goes_on_alone(run: Path, step: int) -> int:
    """Note that the run goes on from `step` without the others of its group; how many these are, 0 without a group."""
    try:
        record: dict[str, Any] = json.loads((run / GROUP_NAME).read_text(encoding="utf-8"))
        others = len(record["jobs"]) - 1
    except (OSError, ValueError, LookupError, TypeError):
        return 0
    atomic_write(run / GROUP_NAME, (json.dumps({"alone_from": step, **record}, ensure_ascii=False) + "\n").encode())
    return others


def in_its_process(run: Path) -> int:
    """How many runs its process trained, itself among them: what took an hour took each of them a share of it."""
    try:
        return max(1, len(json.loads((run / GROUP_NAME).read_text(encoding="utf-8"))["jobs"]))
    except (OSError, ValueError, LookupError, TypeError):
        return 1


def alone_from(run: Path) -> int | None:
    """The step from which the run has gone on without its group; None where it hasn't."""
    try:
        step = json.loads((run / GROUP_NAME).read_text(encoding="utf-8")).get("alone_from")
    except (OSError, ValueError, AttributeError):
        return None
    return step if type(step) is int else None


def _of_group(cfg: RunConfig, job: dict[str, Any]) -> RunConfig:
    own = {f"{key}": value for key, value in job["values"].items()}
    changed = with_values(cfg, {"seed": job["seed"], "seeds": job["seeds"], "run_dir": job["run"], **own})
    algo = build(type(cfg.algo), to_plain(changed.algo), "algo")
    return build(RunConfig, {**to_plain(changed), "algo": algo})
