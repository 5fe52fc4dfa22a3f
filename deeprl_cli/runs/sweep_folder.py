"""What a sweep leaves on the disk, read back: its jobs, what they vary, and what each seed of theirs came to.

`sweep.json` holds a list of jobs, each with `overrides` and `status`; `docs/sweeps.md` describes the files.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeprl_cli.config.files import GROUPS
from deeprl_cli.errors import UserError
from deeprl_cli.plugins.files import short
from deeprl_cli.runs.folder import read_summary, slug
from deeprl_cli.runs.group_record import in_its_process
from deeprl_cli.runs.lock import held

SWEEP_NAME = "sweep.json"
LONGEST = 150  # characters of a run folder's name
SEED = "seed"  # the key that makes no setting of its own
UNDER_WAY = ("waiting", "running")
OVER = {"running": "killed", "waiting": "never begun"}  # what these come to when their sweep is no more

Job = Mapping[str, Any]  # of sweep.json


@dataclass
class Setting:
    """The jobs that differ in their seed alone; `values` are those of the keys that vary over the sweep."""

    values: dict[str, str]
    jobs: list[Job] = field(default_factory=list)

    @property
    def env(self) -> str | None:
        return self.values.get("env")

    @property
    def label(self) -> str:
        return label(self.values)

    @property
    def done(self) -> list[Job]:
        return [job for job in self.jobs if job["status"] == "done"]

    def returns(self, policy: str) -> dict[int, float]:
        """Of each seed that is done, its mean return with the `policy` last or best. A seed trained twice with the same
        values is one seed: the same numbers, or numbers that say nothing about another."""
        found: dict[int, float] = {}
        for job in self.done:
            for seed, value in zip(job.get("seeds") or [], job.get(f"{policy}_returns") or [], strict=False):
                if value is not None:
                    found.setdefault(seed, float(value))
        return found

    @property
    def seconds(self) -> float | None:
        """Of all its jobs together."""
        known = [job["seconds"] for job in self.jobs if job.get("seconds") is not None]
        return sum(known) if known else None


@dataclass
class SweepRecord:
    """What `sweep.json` says; `alive`: its program still runs; `began`: when it did, in seconds since the epoch, if
    that was written down."""

    folder: Path
    jobs: Sequence[Job]
    alive: bool
    began: float | None

    def seconds_left(self) -> float | None:
        """At the pace so far; None where nothing is left, or nothing has ended yet."""
        left = sum(job["status"] in UNDER_WAY for job in self.jobs)
        ended = len(self.jobs) - left
        if not self.alive or not left or not ended or self.began is None:
            return None
        return max(0.0, time.time() - self.began) / ended * left


def read_sweep(folder: Path) -> SweepRecord:
    """The sweep in `folder`. What a run's own summary says counts for more than what was written down: a job that was
    stopped may have been resumed since. Raises UserError where it is none, or is damaged."""
    path = folder / SWEEP_NAME
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        jobs = [dict(job) for job in told["jobs"]]
        assert all(isinstance(job["status"], str) and isinstance(job["overrides"], list) for job in jobs)
        assert all(isinstance(text, str) for job in jobs for text in job["overrides"])
    except FileNotFoundError as error:
        raise UserError(f"{folder}: not a sweep (no {SWEEP_NAME} there): name one of runs/sweeps/<time>") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not the record of a sweep") from error
    alive, began = held(folder), told.get("began")
    jobs = [{**job, **results(run_of(folder, job))} for job in jobs]
    if not alive:
        jobs = [{**job, "status": OVER.get(job["status"], job["status"])} for job in jobs]
    return SweepRecord(folder, jobs, alive, began if isinstance(began, float) else None)


def run_of(folder: Path, job: Job) -> Path | None:
    """The run folder of a job; a sweep that was moved has taken along those inside it."""
    if not job.get("run"):
        return None
    run = Path(str(job["run"]))
    inside = folder / run.name
    return inside if inside.is_dir() and not run.is_dir() else run


def results(run: Path | None) -> dict[str, Any]:
    """What the summary of a run says, as a job holds it: `seeds`, `last_returns` and `best_returns` (a number for each
    seed, null where there is none), their means `return` and `best_return`, `seconds` (of a group's, its share);
    `status` done where the run has finished. Nothing where there is no summary."""
    if run is None:
        return {}
    try:
        summary = read_summary(run)
        told = summary["eval"] or {}
        seeds = list(summary.get("seeds") or range(len(told.get("return_mean") or [])))
        found: dict[str, Any] = {"seeds": seeds, "seconds": round(summary["wall_seconds"] / in_its_process(run), 1)}
    except (UserError, LookupError, TypeError):
        return {}
    for policy, mean, key in (("last", "return", "return_mean"), ("best", "best_return", "best_return_mean")):
        values = told.get(key)
        if isinstance(values, list) and values:
            found[f"{policy}_returns"] = values
            if None not in values:
                found[mean] = sum(values) / len(values)
    return found | ({"status": "done"} if summary.get("status") == "finished" else {})


def pairs(job: Job) -> dict[str, str]:
    """A job's overrides, key by key."""
    split = [text.lstrip("+~").partition("=") for text in job["overrides"]]
    return {key: value for key, _, value in split}


def varying(jobs: Sequence[Job]) -> list[str]:
    """The keys that the jobs' overrides differ in, in the order typed."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for key, value in pairs(job).items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def settings(jobs: Sequence[Job]) -> list[Setting]:
    """The jobs by what varies other than the seed, in the order typed."""
    keys = [key for key in varying(jobs) if key != SEED]
    found: dict[tuple[str, ...], Setting] = {}
    for job in jobs:
        values = {key: pairs(job).get(key, "") for key in keys}
        found.setdefault(tuple(values.values()), Setting(values)).jobs.append(job)
    return list(found.values())


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key by its last part, where no other ends the same: `algo.lr` is `lr`."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def shown(key: str, text: str) -> str:
    """A value in a table: of an algorithm's file, its name without its folder."""
    return short(text) if key == "algo" else text


def label(values: Mapping[str, str]) -> str:
    """`ppo lr=0.003 seed=1`: options of groups stand alone, other values behind the last part of their key."""
    names = short_names(list(values))
    return " ".join(
        shown(key, text) if key in GROUPS else f"{names[key]}={text}"
        for key, text in ((key, value.strip("'\"")) for key, value in values.items())
    )


def folder_name(told: str) -> str:
    """What `label` tells, as the name of a folder: `lr=0.003_seed=1`; nothing for nothing."""
    plain = re.sub(r"[][(){}'\"]", "", told).replace(" ", "_")
    return slug(plain)[:LONGEST] if plain else ""
