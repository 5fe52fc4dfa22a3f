"""`deeprl train -m`: every combination of the values listed, all checked before the first one runs.

A job that fails is reported at once and the others go on. `runs/sweeps/<time>/sweep.json` says what became of each.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeprl_cli import config, config_launch
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.run_folder import atomic_write
from deeprl_cli.schema import RunConfig

SHOWN = 10  # refused jobs named before the rest is counted


def run_sweep(overrides: Sequence[str]) -> int:
    """Check, then run all jobs of a sweep; the exit code: 0, or 1 when a job failed.

    Raises ConfigError, with nothing written, when any job can't run.
    """
    sweep = config.expand_sweep(overrides)
    configs = check(sweep.jobs)
    record = Record(_make_folder(config.sweep_folder(sweep)), sweep.jobs)
    print(f"sweep of {len(sweep.jobs)} runs, recorded in {record.path}", flush=True)
    if any(text.startswith("hydra/launcher=") for text in sweep.hydra):
        _run_through_launcher(sweep, record)
    else:
        for number, run_config in enumerate(configs):
            _run_here(number, run_config, record)
    return record.report()


def check(jobs: Sequence[Sequence[str]]) -> list[RunConfig]:
    """The jobs' configurations, preflighted. One ConfigError names every job that can't run, and why."""
    from deeprl_cli.train import preflight

    configs: list[RunConfig] = []
    refused: list[tuple[str, str]] = []
    for job in jobs:
        try:
            configs.append(config.load_config(job))
            preflight(configs[-1])
        except UserError as error:
            refused.append((" ".join(job), str(error)))
    reasons = {reason for _, reason in refused}
    if len(refused) == len(jobs) and len(reasons) == 1:
        raise ConfigError(reasons.pop())  # what is wrong with all of them needs saying once
    if refused:
        lines = [f"{job}: {reason}" for job, reason in refused[:SHOWN]]
        lines += [f"… and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        raise ConfigError("\n".join([*lines, f"{len(refused)} of {len(jobs)} runs can't start, so none was started"]))
    _check_folders(configs)
    return configs


def _check_folders(configs: Sequence[RunConfig]) -> None:
    folders = [run.run_dir for run in configs if run.run_dir is not None]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise ConfigError(f"run_dir={twice} is one folder for {folders.count(twice)} runs: leave it out of a sweep")


def _make_folder(wanted: Path) -> Path:
    """`wanted`, or with `_2`, `_3`, … behind its name where a sweep started in the same second has it."""
    attempt = 1
    while True:
        folder = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}_{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            attempt += 1
        except OSError as error:
            raise UserError(f"can't create {folder} ({error.strerror}): give another hydra.sweep.dir=…") from error


class Record:
    """What became of each job, kept in `sweep.json`: waiting, running, done or failed; its run folder or its error."""

    def __init__(self, folder: Path, jobs: Sequence[Sequence[str]]) -> None:
        self.path = folder / "sweep.json"
        self.jobs: list[dict[str, Any]] = [{"overrides": list(job), "status": "waiting"} for job in jobs]
        self.write()

    def label(self, number: int) -> str:
        return " ".join(self.jobs[number]["overrides"])

    def running(self, number: int) -> None:
        print(f"[{number + 1}/{len(self.jobs)}] {self.label(number)}", flush=True)
        self._set(number, status="running")

    def done(self, number: int, run: object) -> None:
        self._set(number, status="done", run=str(run))

    def failed(self, number: int, error: BaseException) -> None:
        self._set(number, status="failed", error=str(error) or type(error).__name__)

    def stopped(self, number: int) -> None:
        self._set(number, status="stopped")

    def _set(self, number: int, **what: str) -> None:
        self.jobs[number].update(what)
        self.write()

    def write(self) -> None:
        atomic_write(self.path, (json.dumps({"jobs": self.jobs}, indent=2, ensure_ascii=False) + "\n").encode())

    def report(self) -> int:
        """A line for each failed job on stderr, and the exit code."""
        failed = [number for number, job in enumerate(self.jobs) if job["status"] == "failed"]
        for number in failed:
            reason = self.jobs[number]["error"].splitlines()[0]
            print(f"deeprl: failed: {self.label(number)}: {reason}", file=sys.stderr)
        print(f"{len(self.jobs) - len(failed)} of {len(self.jobs)} runs done", flush=True)
        return 1 if failed else 0


def _run_here(number: int, run_config: RunConfig, record: Record) -> None:
    """One job in this process; what it raises is printed at once and stops no other, unless it's an interruption."""
    from deeprl_cli.train import train

    record.running(number)
    try:
        record.done(number, train(run_config))
    except Exception as error:
        _print_failure(error, record.label(number))
        record.failed(number, error)
    except BaseException:  # Ctrl-C or SIGTERM: the run has written its checkpoint, and the sweep ends here
        record.stopped(number)
        raise


def _run_through_launcher(sweep: config.Sweep, record: Record) -> None:
    for number, result in enumerate(config_launch.launch(sweep, record.path.parent, _launched_job)):
        if isinstance(result, BaseException):
            record.failed(number, result)
        else:
            record.done(number, result)


def _launched_job(run_config: RunConfig, label: str) -> str:
    """A job in a process of the launcher's. Returns the run's folder."""
    from deeprl_cli.train import train

    try:
        return str(train(run_config))
    except Exception as error:
        _print_failure(error, label)
        raise


def _print_failure(error: Exception, label: str) -> None:
    if isinstance(error, UserError):
        print(f"deeprl: {label}: {error}", file=sys.stderr, flush=True)
    else:
        print(f"deeprl: failed: {label}", file=sys.stderr)
        traceback.print_exception(error)
