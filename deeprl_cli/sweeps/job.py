"""One job of a sweep: trains it whatever happens; if jobs run side by side, in a process of its own.

Such a process only knows the sweep's folder, on a disk that it shares with the program that started the sweep:

    jobs/plan.json   the configurations, checked; where the sweep was started
    jobs/<n>.json    what became of job n
    jobs/<n>.log     what it printed
    jobs/stop        if it exists, no further job begins, and running ones stop
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from deeprl_cli.algos.registry import run_config
from deeprl_cli.errors import UserError
from deeprl_cli.plugins.classes import said
from deeprl_cli.processes import cores
from deeprl_cli.processes.waiting import wait_politely
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.runs.sweep_folder import results
from deeprl_cli.schema.format import FORMAT, KEY, up_to_date
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain

if TYPE_CHECKING:
    from deeprl_cli.envs.look import Look

PLAN, STOP = "jobs/plan.json", "jobs/stop"
LOOK = 0.5  # seconds between looks for STOP
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)

Outcome = dict[str, Any]


def attempt(cfg: RunConfig, seen: Look | None = None) -> Outcome:
    """Train `cfg`. What became of it: `status` done, failed (`error`, and a `traceback` where it isn't the user's to
    mend) or stopped (`code`); `run`, `return`, `best_return` (means over seeds) and `seconds` as far as there are any.
    """
    from deeprl_cli.training.run import train

    began = time.monotonic()
    outcome = outcome_of(lambda: train(cfg, seen, advise=False))  # what to type next is the sweep's to say
    return {**left(str(cfg.run_dir), began), **outcome}


def attempt_together(
    jobs: Sequence[tuple[RunConfig, Look]], running: Callable[[int, str], None], ended: Callable[[int, Outcome], None]
) -> Outcome:
    """Train these jobs as one. `running` is told the folder of each, `ended` what became of it, by its place among
    them: of one that ends before the others, at once. What became of them all, as of one."""
    from deeprl_cli.training.group import train_together

    began, runs = time.monotonic(), [str(cfg.run_dir) for cfg, _ in jobs]
    over: set[int] = set()

    def early(number: int, error: Exception | None) -> None:
        over.add(number)
        outcome = {"status": "done"} if error is None else failure(error)
        ended(number, {**outcome, **left(runs[number], began)})

    def work() -> None:
        for number, run in enumerate(runs):
            running(number, run)
        train_together([cfg for cfg, _ in jobs], [seen for _, seen in jobs], early)

    return _told_of_all(outcome_of(work), runs, over, ended, began)


def continue_together(
    runs: Sequence[Path], configs: Sequence[RunConfig], before: Collection[int], ended: Callable[[int, Outcome], None]
) -> Outcome:
    """The same of a group that goes on, of which those in `before` had ended."""
    from deeprl_cli.training.group import resume_together

    began, over = time.monotonic(), set(before)

    def early(number: int, error: Exception | None) -> None:
        over.add(number)
        outcome = {"status": "done"} if error is None else failure(error)
        ended(number, {**outcome, **left(str(runs[number]), began)})

    outcome = outcome_of(lambda: resume_together(runs, configs, before, early))
    return _told_of_all(outcome, [str(run) for run in runs], over, ended, began)


def _told_of_all(
    outcome: Outcome, runs: Sequence[str], over: Collection[int], ended: Callable[[int, Outcome], None], began: float
) -> Outcome:
    for number, run in enumerate(runs):
        if number not in over:
            ended(number, {**left(run, began), **outcome})
            outcome.pop("traceback", None)  # once for all of them
    return outcome


def attempt_unit(
    numbers: Sequence[int],
    jobs: Sequence[tuple[RunConfig, Look | None]],
    running: Callable[[int, str], None],
    ended: Callable[[int, Outcome], None],
) -> Outcome:
    """`attempt` one job, or several together; `numbers` are theirs in the sweep."""
    if len(jobs) == 1:
        running(numbers[0], "")
        outcome = attempt(*jobs[0])
        ended(numbers[0], outcome)
        return outcome
    looked = [(cfg, seen) for cfg, seen in jobs if seen is not None]
    return attempt_together(
        looked, lambda place, run: running(numbers[place], run), lambda place, told: ended(numbers[place], told)
    )


def outcome_of(work: Callable[[], object]) -> Outcome:
    """`status` of a training, and what belongs to it."""
    try:
        work()
        return {"status": "done"}
    except Exception as error:
        return failure(error)
    except KeyboardInterrupt:
        return {"status": "stopped", "code": STOPPED[0]}
    except SystemExit as leave:
        if leave.code in STOPPED:
            return {"status": "stopped", "code": leave.code}
        return {"status": "failed", "error": f"ended with exit code {leave.code}"}


def failure(error: Exception) -> Outcome:
    if isinstance(error, UserError):
        return {"status": "failed", "error": str(error)}
    return {"status": "failed", "error": said(error), "traceback": "".join(traceback.format_exception(error))}


def left(run: str, began: float) -> Outcome:
    """The folder of a run that has ended, if it has left one, and what its summary says."""
    with contextlib.suppress(OSError):
        Path(run or ".").rmdir()  # still empty: it failed before it started
    if not run or not Path(run).is_dir():
        return {"run": "", "seconds": round(time.monotonic() - began, 1)}
    return {"run": run, "seconds": round(time.monotonic() - began, 1), **results(Path(run))}


# ---- in a process of its own --------------------------------------------------------------------------------------


def write_plan(
    folder: Path, configs: Sequence[RunConfig], share: int | None, units: Sequence[Sequence[int]] = ()
) -> None:
    """What jobs that run elsewhere go by; `share`: the cores of each; `units`: the numbers of those that train
    together."""
    (folder / "jobs").mkdir()
    plan = {
        "directory": os.getcwd(),
        "path": sys.path,
        "group": os.getpgrp() if hasattr(os, "getpgrp") else None,
        "host": socket.gethostname(),
        "cores": share,
        "openmp": "OMP_NUM_THREADS" not in os.environ,  # keep what the user has set
        "jobs": [{KEY: FORMAT, **to_plain(cfg)} for cfg in configs],
        "units": [list(unit) for unit in units],
    }
    atomic_write(folder / PLAN, json.dumps(plan).encode())


def run_job(folder: str, number: int) -> None:
    """Job `number` of the sweep in `folder`, here, with those that train with it; never raises."""
    place = Path(folder)
    if (place / STOP).exists():
        return
    unit, told = [number], set[int]()
    outcome: Outcome = {"status": "stopped"}  # by what isn't caught below: asked to stop before the run had begun

    def write(job: int, outcome: Outcome) -> None:
        _write(place / f"jobs/{job}.json", outcome)

    def ended(job: int, outcome: Outcome) -> None:
        told.add(job)
        if outcome["status"] == "failed":
            print(outcome.get("traceback") or f"deeprl: {outcome['error']}", file=sys.stderr)
        write(job, outcome)

    try:
        plan = json.loads((place / PLAN).read_text(encoding="utf-8"))
        unit = next((unit for unit in plan["units"] if number in unit), unit)
        process = {"pid": os.getpid(), "host": socket.gethostname(), "leads": _lead_a_group(plan)}
        for job in unit:
            write(job, {"status": "running", **process})
        with _output_to(place / f"jobs/{number}.log"), _asked_to_stop(place / STOP):
            _settle(plan)
            jobs = looked_at([run_config(up_to_date(plan["jobs"][job], Path(folder) / PLAN)) for job in unit])
            attempt_unit(unit, jobs, lambda job, run: write(job, {"status": "running", **process, "run": run}), ended)
    except Exception as error:  # the folder isn't here, or can't be written
        outcome = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    except SystemExit:
        pass
    for job in unit:
        if job not in told:
            write(job, outcome)


def looked_at(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, Look | None]]:
    """Jobs that train together are preflighted here, with one look at each environment. A job alone does so itself."""
    if len(configs) == 1:
        return [(configs[0], None)]
    from deeprl_cli.training.preflight import preflight

    looks: dict[str, Look] = {}
    jobs: list[tuple[RunConfig, Look | None]] = []
    for cfg in configs:
        env = str(to_plain(cfg.env))
        looks[env] = preflight(cfg, seen=looks.get(env))
        jobs.append((cfg, looks[env]))
    return jobs


def command(folder: str, number: int) -> list[str]:
    """`run_job` as a program."""
    return [sys.executable, "-m", "deeprl_cli.sweeps.job", folder, str(number)]


def _settle(plan: dict[str, Any]) -> None:
    """Take the sweep's working directory, import path, and a share of the cores, before torch is loaded."""
    os.chdir(plan["directory"])
    sys.path += [entry for entry in plan["path"] if entry not in sys.path]
    if plan["cores"] is not None:
        cores.take_share(plan["cores"], openmp=plan["openmp"])
    wait_politely()


def _lead_a_group(plan: dict[str, Any]) -> bool:
    """Lead a process group, so that what is started here can be ended together; whether this process does.

    Only where it would else be in the group of the program that started the sweep: an engine that has made a group has
    its reasons.
    """
    if plan["host"] != socket.gethostname() or plan["group"] is None:
        return False
    if os.getpgrp() == plan["group"]:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
    return os.getpgrp() == os.getpid()


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Everything that is printed goes to the file, also from libraries and from processes started here."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with log.open("a", buffering=1, encoding="utf-8") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
    finally:
        for descriptor, former in zip((1, 2), kept, strict=True):
            os.dup2(former, descriptor)
            os.close(former)


@contextlib.contextmanager
def _asked_to_stop(marker: Path) -> Iterator[None]:
    """Once `marker` is there, this process is told by SIGTERM, which a run takes for a request to end cleanly. So is it
    by SIGUSR2, which submitit sends when a job's time is nearly up."""
    over = threading.Event()

    def leave(*_: object) -> NoReturn:
        raise SystemExit(STOPPED[1])

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def watch() -> None:
        while not over.wait(LOOK):
            if marker.exists():
                stop()
                return

    wanted = {signal.SIGTERM: leave, **({signal.SIGUSR2: stop} if hasattr(signal, "SIGUSR2") else {})}
    former = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        for number, handler in former.items():
            signal.signal(number, handler)


def _write(path: Path, outcome: Outcome) -> None:
    with contextlib.suppress(OSError):  # a full disk: the engine will say that the process ended
        atomic_write(path, json.dumps(outcome).encode())


if __name__ == "__main__":
    run_job(sys.argv[1], int(sys.argv[2]))
