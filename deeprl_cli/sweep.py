"""`deeprl train -m`: every combination of the values listed, all checked before the first one runs.

A job that fails is reported at once and the others go on. `runs/sweeps/<time>/` says what became of each: `sweep.json`
while they run, `sweep.csv` when none does any more.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeprl_cli import config, config_launch, sweep_job, sweep_table
from deeprl_cli.engines import Engine
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.run_folder import atomic_write
from deeprl_cli.schema import MultiprocessConfig, RunConfig, device_of
from deeprl_cli.waiting import wait_politely

SHOWN = 10  # refused jobs named before the rest is counted


def run_sweep(overrides: Sequence[str]) -> int:
    """Check, then run all jobs of a sweep; the exit code: 0, 1 when a job failed, 130 or 143 when it was stopped.

    Raises ConfigError, with nothing written, when any job can't run.
    """
    wait_politely()
    sweep = config.expand_sweep(overrides)
    wanted, engine = config_launch.settings(sweep)
    configs = check(sweep, engine)
    record = Record(_make_folder(wanted), sweep.jobs)
    print(f"sweep of {len(sweep.jobs)} runs, recorded in {record.path}", flush=True)
    try:
        if engine is not None:
            from deeprl_cli.sweep_parallel import run_side_by_side

            code = run_side_by_side(engine, configs, record)
        else:
            code = _run_here(configs, record)
    finally:
        record.close()
    return code or (1 if record.count("failed") else 0)


def check(sweep: config.Sweep, engine: Engine | None = None) -> list[RunConfig]:
    """The jobs' configurations, preflighted. One ConfigError names every job that can't run, and why."""
    from deeprl_cli.train import preflight

    configs: list[RunConfig] = []
    refused: list[tuple[str, str]] = []
    for job in sweep.jobs:
        try:
            cfg = config.load_config([*sweep.search, *job])
            preflight(cfg if engine is None else _on_any_machine(cfg))
            configs.append(cfg)
        except UserError as error:
            refused.append((" ".join(job), str(error)))
    reasons = {reason for _, reason in refused}
    if len(refused) == len(sweep.jobs) and len(reasons) == 1:
        raise ConfigError(reasons.pop())  # what is wrong with all of them needs saying once
    if refused:
        lines = [f"{job}: {reason}" for job, reason in refused[:SHOWN]]
        lines += [f"… and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        total = len(sweep.jobs)
        raise ConfigError("\n".join([*lines, f"{len(refused)} of {total} runs can't start, so none was started"]))
    _check_folders(configs)
    gpu_option = engine.hides_gpus() if engine is not None else ""
    if gpu_option and any(device_of(cfg.hardware) == "cuda" for cfg in configs):
        raise ConfigError(f"hardware=cuda: the launcher shows its jobs no GPU unless told to: give {gpu_option}")
    return configs


def _on_any_machine(cfg: RunConfig) -> RunConfig:
    """`cfg` without what only the machine that runs it can tell: whether there is a GPU."""
    if device_of(cfg.hardware) != "cuda":
        return cfg
    if isinstance(cfg.hardware, MultiprocessConfig):
        return dataclasses.replace(cfg, hardware=dataclasses.replace(cfg.hardware, device="cpu"))
    return dataclasses.replace(cfg, hardware=dataclasses.replace(cfg.hardware, name="cpu"))


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
    """What became of each job, kept in `sweep.json` and told as it happens: waiting, running, done, failed or stopped;
    its run folder, return and time, or its error. More than one thread may write."""

    def __init__(self, folder: Path, jobs: Sequence[Sequence[str]]) -> None:
        self.folder, self.path = folder, folder / "sweep.json"
        self.jobs: list[dict[str, Any]] = [{"overrides": list(job), "status": "waiting"} for job in jobs]
        self._lock = threading.RLock()
        self._write()

    def label(self, number: int) -> str:
        return " ".join(self.jobs[number]["overrides"])

    def count(self, status: str) -> int:
        return sum(job["status"] == status for job in self.jobs)

    def numbers(self, status: str) -> list[int]:
        return [number for number, job in enumerate(self.jobs) if job["status"] == status]

    def running(self, number: int) -> None:
        with self._lock:
            if self.jobs[number]["status"] == "waiting":
                self.jobs[number]["status"] = "running"
                self._write()
                print(f"[{number + 1}/{len(self.jobs)}] {self.label(number)}", flush=True)

    def ended(self, number: int, outcome: sweep_job.Outcome) -> None:
        """Take down what became of a job, once; a failure is told at once, and in full."""
        with self._lock:
            job = self.jobs[number]
            if job["status"] not in ("waiting", "running"):
                return
            trace = outcome.get("traceback")
            job.update({k: v for k, v in outcome.items() if k not in ("traceback", "code") and v != ""})
            self._write()
            if job["status"] == "failed":
                print(f"deeprl: failed: {self.label(number)}{'' if trace else ': ' + job['error']}", file=sys.stderr)
                print(trace or "", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write the table, and show it."""
        path = self.folder / "sweep.csv"
        with self._lock:
            atomic_write(path, sweep_table.as_csv(self.jobs).encode())
        sweep_table.show(self.jobs)
        print(f"{self.count('done')} of {len(self.jobs)} runs done; {path}", flush=True)

    def _write(self) -> None:
        atomic_write(self.path, (json.dumps({"jobs": self.jobs}, indent=2, ensure_ascii=False) + "\n").encode())


def _run_here(configs: Sequence[RunConfig], record: Record) -> int:
    """One job after the other, in this process; the exit code of an interruption, which ends the sweep, else 0."""
    for number, cfg in enumerate(configs):
        record.running(number)
        outcome = sweep_job.attempt(cfg)
        record.ended(number, outcome)
        if outcome["status"] == "stopped":  # the run has written its checkpoint
            return int(outcome["code"])
    return 0
