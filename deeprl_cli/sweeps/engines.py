"""What runs the jobs of a sweep side by side: joblib, submitit (this machine or Slurm) and Ray.

An engine calls `work(number)` in another process for each job. That process writes down what became of the job
(`job.py`). Only if it couldn't, the engine says why the process ended. Options: `configs/hydra/launcher/<name>.yaml`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.processes.cores import available_cores
from deeprl_cli.schema.typed import NonNegativeFloat, PositiveFloat, PositiveInt, build

POLL = 0.2  # seconds between checks of what is running
OBJECT_STORE = 100_000_000  # bytes that Ray reserves for objects; jobs share none
YEAR = 525_600  # minutes; submitit needs some limit


@dataclass(frozen=True)
class Jobs:
    """What an engine is given: the work, as a function and as a command, which jobs have not begun (asked anew each
    time), whether to begin no more, and a folder for the engine's own files."""

    work: Callable[[int], None]
    command: Callable[[int], list[str]]
    waiting: Callable[[], list[int]]
    stopping: Callable[[], bool]
    folder: Path


Ended = tuple[int, str]  # the job's number, and why its process ended if it couldn't write that itself


class Engine(ABC):
    @abstractmethod
    def cores(self, count: int) -> int | None:
        """The cores of each of `count` jobs; None if the machine that runs it decides."""

    @abstractmethod
    def run(self, jobs: Jobs) -> Iterator[Ended]:
        """Run all waiting jobs; returns when all have ended. Raises UserError if the engine can't be used."""

    def hides_gpus(self) -> str:
        """The option that gives jobs a GPU, if they see none without it."""
        return ""


@dataclass(kw_only=True, slots=True)
class Joblib(Engine):
    n_jobs: int

    def cores(self, count: int) -> int:
        return max(1, available_cores() // min(self.places(), count))

    def places(self) -> int:
        return self.n_jobs if self.n_jobs > 0 else max(1, available_cores() + 1 + self.n_jobs)

    def run(self, jobs: Jobs) -> Iterator[Ended]:
        from joblib import Parallel, delayed

        def job(number: int) -> Ended:
            if jobs.stopping():
                return number, ""
            ended = subprocess.run(jobs.command(number), stdin=subprocess.DEVNULL, check=False).returncode
            return number, _how(ended)

        # joblib's threads, each waiting for a process: a process of joblib's own that died would take all others along
        pool = Parallel(n_jobs=self.places(), backend="threading", return_as="generator_unordered")
        yield from pool(delayed(job)(number) for number in jobs.waiting())

    def __post_init__(self) -> None:
        if self.n_jobs == 0:
            raise ConfigError("hydra.launcher.n_jobs=0: must be a number of processes, or -1 for as many as cores")


def _how(code: int) -> str:
    """Why a process with this exit code ended; "" for an ordinary end."""
    if code >= 0:
        return "" if code == 0 else f"its process ended with exit code {code}"
    memory = ": out of memory is the usual cause" if code == -signal.SIGKILL else ""
    return f"its process was killed by signal {-code}{memory}"


@dataclass(kw_only=True, slots=True)
class SubmititLocal(Engine):
    cpus_per_task: PositiveInt | None
    gpus_per_node: PositiveInt | None
    timeout_min: PositiveInt | None

    def cores(self, count: int) -> int:
        return min(self.cpus_per_task or max(1, available_cores() // count), available_cores())

    def hides_gpus(self) -> str:
        return "" if self.gpus_per_node else "hydra.launcher.gpus_per_node=1"

    def run(self, jobs: Jobs) -> Iterator[Ended]:
        import submitit

        executor = submitit.AutoExecutor(folder=str(jobs.folder / "%j"), cluster="local")
        executor.update_parameters(timeout_min=self.timeout_min or YEAR, gpus_per_node=self.gpus_per_node or 0)
        queue = jobs.waiting()
        places = max(1, available_cores() // self.cores(len(queue)))
        running: dict[int, Any] = {}
        while running or (queue and not jobs.stopping()):
            while queue and len(running) < places and not jobs.stopping():
                number = queue.pop(0)
                running[number] = executor.submit(jobs.work, number)
            time.sleep(POLL)
            for number in [number for number, job in running.items() if job.done()]:
                yield number, _submitit_cause(running.pop(number))


@dataclass(kw_only=True, slots=True)
class SubmititSlurm(Engine):
    timeout_min: PositiveInt
    cpus_per_task: PositiveInt | None
    gpus_per_node: PositiveInt | None
    mem_gb: PositiveFloat | None
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    gres: str | None
    array_parallelism: PositiveInt
    setup: list[str] | None
    additional_parameters: dict[str, Any]

    def __post_init__(self) -> None:
        if shutil.which("srun") is None or shutil.which("sbatch") is None:
            raise ConfigError(
                "hydra/launcher=submitit_slurm: no sbatch and srun here: start the sweep on a machine with them"
            )

    def cores(self, count: int) -> int | None:
        return self.cpus_per_task

    def run(self, jobs: Jobs) -> Iterator[Ended]:
        import submitit

        executor = submitit.AutoExecutor(folder=str(jobs.folder / "%j"), cluster="slurm")
        general = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        executor.update_parameters(
            name="deeprl",
            slurm_signal_delay_s=120,
            **{k if k in general else f"slurm_{k}": v for k, v in given.items() if v is not None and v != {}},
        )
        numbers = jobs.waiting()
        running = dict(zip(numbers, executor.map_array(jobs.work, numbers), strict=True))
        cancelled = False
        while running:
            if jobs.stopping() and not cancelled:
                cancelled = True
                for job in running.values():
                    job.cancel(check=False)
            time.sleep(10 * POLL)
            for number in [number for number, job in running.items() if job.done()]:
                yield number, _submitit_cause(running.pop(number))


def _submitit_cause(job: Any) -> str:
    """Why a job ended without a result, as far as known; "" if it has one."""
    with contextlib.suppress(Exception):  # a log or a pickle that was never written
        if job.exception() is None:
            return ""
    lines: list[str] = []
    with contextlib.suppress(Exception):
        lines = (job.stderr() or "").strip().splitlines()
    return f"its process ended without saying why ({job.state})" if not lines else lines[-1].strip()


@dataclass(kw_only=True, slots=True)
class RayInit:
    address: str | None
    num_cpus: PositiveInt | None
    num_gpus: NonNegativeFloat | None
    object_store_memory: PositiveInt | None


@dataclass(kw_only=True, slots=True)
class RayRemote:
    num_cpus: PositiveFloat
    num_gpus: NonNegativeFloat


@dataclass(kw_only=True, slots=True)
class RayOptions:
    init: RayInit
    remote: RayRemote


@dataclass(kw_only=True, slots=True)
class Ray(Engine):
    ray: RayOptions

    def cores(self, count: int) -> int:
        return max(1, int(self.ray.remote.num_cpus))

    def hides_gpus(self) -> str:
        return "" if self.ray.remote.num_gpus else "hydra.launcher.ray.remote.num_gpus=1"

    def run(self, jobs: Jobs) -> Iterator[Ended]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # switch off Ray's usage statistics
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        init, remote, work = self.ray.init, self.ray.remote, jobs.work
        options = {field.name: getattr(init, field.name) for field in fields(init)}
        if init.address is None:
            options["object_store_memory"] = init.object_store_memory or OBJECT_STORE
            options["include_dashboard"] = False
        given = {name: value for name, value in options.items() if value is not None}
        try:
            ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"hydra/launcher=ray: {str(error).splitlines()[0]}") from error
        try:
            # one call to a process: what a run leaves in it (threads, compiled graphs) is not the next one's
            task: Any = ray.remote(num_cpus=remote.num_cpus, num_gpus=remote.num_gpus, max_retries=0, max_calls=1)(
                lambda number: work(number)
            )
            running = {task.remote(number): number for number in jobs.waiting()}
            while running:
                for ended in ray.wait(list(running), timeout=POLL)[0]:
                    number, cause = running.pop(ended), ""
                    try:
                        ray.get(ended)
                    except Exception as error:  # RayError, or what unpickling raised over there
                        cause = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                    yield number, cause
        finally:
            ray.shutdown()


ENGINES: dict[str, tuple[type[Engine], str, str]] = {  # by launcher: options, package, extra
    "joblib": (Joblib, "joblib", "joblib"),
    "submitit_local": (SubmititLocal, "submitit", "submitit"),
    "submitit_slurm": (SubmititSlurm, "submitit", "submitit"),
    "ray": (Ray, "ray", "ray"),
}


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def make_engine(name: str, options: Mapping[str, Any]) -> Engine:
    """The engine of `hydra/launcher=<name>`. Raises ConfigError if its package is missing, or an option is wrong."""
    kind, package, extra = ENGINES[name]
    if not installed(package):
        raise ConfigError(f"hydra/launcher={name} needs {package}: pip install 'deeprl-cli[{extra}]'")
    return build(kind, options, "hydra.launcher")
