"""One job of a sweep: training it, whatever comes; and, where jobs run side by side, in a process of its own.

Such a process knows the sweep's folder alone, on a disk that it shares with the program that started the sweep:

    jobs/plan.json   the configurations, checked; where the sweep was started
    jobs/<n>.json    what has become of job n
    jobs/<n>.log     what it printed
    jobs/stop        no further job begins, and those that run come to an end
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from deeprl_cli.algos.registry import run_config
from deeprl_cli.errors import UserError
from deeprl_cli.processes import cores
from deeprl_cli.processes.waiting import wait_politely
from deeprl_cli.runs.folder import atomic_write, read_summary, reserve_folder
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

    began, run = time.monotonic(), ""
    outcome: Outcome
    try:
        if cfg.run_dir is None:  # named here, so that it is known however the run ends
            cfg = dataclasses.replace(cfg, run_dir=str(reserve_folder(cfg)))
        run = str(cfg.run_dir)
        run = str(train(cfg, seen))
        outcome = {"status": "done"}
    except UserError as error:
        outcome = {"status": "failed", "error": str(error)}
    except Exception as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        outcome = {"status": "failed", "error": said, "traceback": traceback.format_exc()}
    except KeyboardInterrupt:
        outcome = {"status": "stopped", "code": STOPPED[0]}
    except SystemExit as leave:
        if leave.code in STOPPED:
            outcome = {"status": "stopped", "code": leave.code}
        else:
            outcome = {"status": "failed", "error": f"ended with exit code {leave.code}"}
    with contextlib.suppress(OSError):
        Path(run or ".").rmdir()  # still empty: it failed before it began
        run = ""
    return {**outcome, "run": run, "seconds": round(time.monotonic() - began, 1), **returns_of(run)}


def returns_of(run: str) -> Outcome:
    """`return`, `best_return` and `seconds` from the summary of a run; nothing where it has none."""
    try:
        summary = read_summary(Path(run))
        told = summary["eval"] or {}
        means = {name: told.get(key) for name, key in (("return", "return_mean"), ("best_return", "best_return_mean"))}
        found = {name: sum(values) / len(values) for name, values in means.items() if values and None not in values}
        return {"seconds": round(summary["wall_seconds"], 1), **found}
    except (UserError, LookupError, TypeError):
        return {}


# ---- in a process of its own --------------------------------------------------------------------------------------


def write_plan(folder: Path, configs: list[RunConfig], share: int | None) -> None:
    """What jobs that run elsewhere go by; `share`: the cores of each."""
    (folder / "jobs").mkdir()
    plan = {
        "directory": os.getcwd(),
        "path": sys.path,
        "group": os.getpgrp() if hasattr(os, "getpgrp") else None,
        "host": socket.gethostname(),
        "cores": share,
        "openmp": "OMP_NUM_THREADS" not in os.environ,  # what the user has set stays
        "jobs": [to_plain(cfg) for cfg in configs],
    }
    atomic_write(folder / PLAN, json.dumps(plan).encode())


def run_job(folder: str, number: int) -> None:
    """Job `number` of the sweep in `folder`, here; never raises."""
    place = Path(folder)
    if (place / STOP).exists():
        return
    record, log = place / f"jobs/{number}.json", place / f"jobs/{number}.log"
    outcome: Outcome = {"status": "stopped"}  # by what isn't caught below: asked to stop before the run had begun
    try:
        plan = json.loads((place / PLAN).read_text(encoding="utf-8"))
        process = {"pid": os.getpid(), "host": socket.gethostname(), "leads": _lead_a_group(plan)}
        _write(record, {"status": "running", **process})
        with _output_to(log), _asked_to_stop(place / STOP):
            _settle(plan)
            outcome = attempt(run_config(plan["jobs"][number]))
            if outcome["status"] == "failed":
                print(outcome.get("traceback") or f"deeprl: {outcome['error']}", file=sys.stderr)
    except Exception as error:  # the folder isn't here, or can't be written
        outcome = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    except SystemExit:
        pass
    _write(record, outcome)


def command(folder: str, number: int) -> list[str]:
    """`run_job` as a program."""
    return [sys.executable, "-m", "deeprl_cli.sweeps.job", folder, str(number)]


def _settle(plan: dict[str, Any]) -> None:
    """Be where the sweep was started, see the modules it saw, and have a share of the cores; before torch is loaded."""
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
    """What is printed goes to the file, that of libraries and of processes started here included."""
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
    with contextlib.suppress(OSError):  # a full disk: the engine tells that it ended
        atomic_write(path, json.dumps(outcome).encode())


if __name__ == "__main__":
    run_job(sys.argv[1], int(sys.argv[2]))
