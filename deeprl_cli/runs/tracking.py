"""What a run logs, handed on to experiment trackers without waiting for them: a thread for each, and a line where one
fails. No tracker ends a training, or holds it up.
"""

from __future__ import annotations

import importlib.util
import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.installed import load, names
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.runs.trackers import TRACKERS, About, Table, Tracker
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain

NAME = "trackers.json"  # what each tracker called the seeds' runs
WAITING = 20_000  # messages that may wait for a tracker, before it is given up
END = 60.0  # seconds that trackers may take, in the end, to keep what is left
_ID = re.compile(r"[^\x00-\x1f]{1,300}")


def check_trackers(cfg: RunConfig) -> None:
    """Raise ConfigError where a tracker's library isn't here, or a plug-in's tracker can't be imported."""
    for name in cfg.log.trackers:
        if name not in TRACKERS:
            load("trackers", name)
        elif importlib.util.find_spec(name) is None:
            raise ConfigError(f"log.to=[{name}] needs {name}: pip install 'deeprl-cli[{name}]'")


def track(
    cfg: RunConfig, folder: Path, name: str, tell: Callable[[str], None], goes_on: bool = False
) -> Tracking | None:
    """Begin to track a run, which may go on from before; None where `log.to` names no tracker."""
    if not cfg.log.trackers:
        return None
    before = _ids(folder) if goes_on else {}
    about: dict[str, About] = {
        kind: About(
            cfg.name or name, folder, cfg.log.project, cfg.tags, to_plain(cfg), cfg.seed_list, before.get(kind, {})
        )
        for kind in cfg.log.trackers
    }
    return Tracking(about, tell)


class Tracking:
    """The trackers of one run. Its methods never raise, and all but `close` return at once."""

    def __init__(self, about: Mapping[str, About], tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.seeds = next(iter(about.values())).seeds
        lock = threading.Lock()  # of trackers.json
        self._workers = [
            _Worker(kind, TRACKERS.get(kind) or load("trackers", kind), one, lock) for kind, one in about.items()
        ]

    def log(self, index: int, step: int, row: Mapping[str, float]) -> None:
        """A row of the metrics of the seed at this place."""
        self._send("log", index, step, dict(row))

    def video(self, index: int, step: int, file: Path) -> None:
        self._send("video", index, step, file)

    def end(self, status: str, step: int, summary: Mapping[str, Any]) -> None:
        """The run is over: its summary.json as a table, and as numbers of each seed."""
        self._send("end", status, step, *_results(summary, self.seeds))

    def close(self) -> None:
        """Wait, but not for ever, until the trackers have kept what they were told."""
        for worker in self._workers:
            worker.put(None)
        until = time.monotonic() + END
        for worker in self._workers:
            worker.thread.join(max(0.0, until - time.monotonic()))
            if worker.thread.is_alive():
                worker.give_up(f"hasn't kept everything within {END:.0f} s")
        self._look()
        self._workers = []

    def _send(self, what: str, *values: Any) -> None:
        for worker in self._workers:
            worker.put((what, values))
        self._look()

    def _look(self) -> None:
        """Say a line of each tracker that has failed, once."""
        for worker in [worker for worker in self._workers if worker.failure is not None]:
            self.tell(f"log.to={worker.kind}: {worker.failure}; training goes on without it")
            self._workers.remove(worker)


class _Worker:
    """A tracker in a thread of its own, where it begins, too: what it is told meanwhile waits."""

    def __init__(self, kind: str, make: type[Tracker], about: About, lock: threading.Lock) -> None:
        self.kind, self.lock = kind, lock
        self.failure: str | None = None
        self._messages: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(WAITING)
        self.thread = threading.Thread(target=self._work, args=(make, about), name=f"deeprl {kind}", daemon=True)
        self.thread.start()

    def put(self, message: tuple[str, tuple[Any, ...]] | None) -> None:
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self.give_up(f"is behind by {WAITING:,} messages")

    def give_up(self, reason: str) -> None:
        self.failure = self.failure or reason

    def _work(self, make: type[Tracker], about: About) -> None:
        try:
            tracker = make(about)
            self._keep(about.folder, tracker.ids)
            while self.failure is None and (message := self._messages.get()) is not None:
                what, values = message
                getattr(tracker, what)(*values)
        except (Exception, SystemExit) as error:  # whatever a library raises, or a network
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            self.give_up(f"{type(error).__name__}: {said[:300]}".rstrip(": "))

    def _keep(self, folder: Path, ids: Mapping[int, str]) -> None:
        """What the tracker calls the seeds' runs, beside what others do."""
        with self.lock, suppress(OSError):  # a full disk: resumed, the tracker begins a new run
            told = {**_ids(folder), self.kind: ids}
            text = json.dumps({kind: {str(k): v for k, v in own.items()} for kind, own in told.items()}, indent=1)
            atomic_write(folder / NAME, f"{text}\n".encode())


def _results(summary: Mapping[str, Any], seeds: Sequence[int]) -> tuple[list[dict[str, float]], Table | None]:
    """What each seed came to, as numbers, and all of them as a table; no table without an evaluation."""
    told = summary.get("eval") or {}
    names = {"return_mean": "return", "return_std": "return_std", "best_return_mean": "best_return"}
    columns = {name: told[key] for key, name in names.items() if told.get(key)}
    final = [
        {f"final/{name}": values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(len(seeds))
    ]
    if not columns:
        return final, None
    rows = [[seed, *(values[i] for values in columns.values())] for i, seed in enumerate(seeds)]
    return final, (["seed", *columns], [[None if _is_nan(cell) else cell for cell in row] for row in rows])


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _ids(folder: Path) -> dict[str, dict[int, str]]:
    """What the trackers called this run's seeds; nothing of a file that is damaged."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
        kinds = [kind for kind in (*TRACKERS, *names("trackers")) if kind in told]
        found = {kind: {int(seed): str(name) for seed, name in told[kind].items()} for kind in kinds}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
    return {kind: ids for kind, ids in found.items() if all(_ID.fullmatch(name) for name in ids.values())}
