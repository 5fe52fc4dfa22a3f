"""Experiment trackers: Weights & Biases, MLflow and Trackio, each with one run of its own for every seed, in a group.

Each may raise whatever its library does: `tracking.py` calls them, and goes on without one that fails. Their libraries
are extras, imported when a tracker begins. What a tracker is called in its own store is kept in the run's
`trackers.json`, so that a run that goes on does so there, too.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROJECT = "deeprl"  # where neither log.project nor the tracker's own settings name one
TABLE = "returns"  # the final table
BATCH = 100  # parameters that MLflow takes at a time
LONGEST = 6000  # letters of an MLflow parameter

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # the columns' names, and the rows


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run: `name` is what it is called, `ids` what the tracker called each seed's run
    before (none of one that begins)."""

    name: str
    folder: Path
    project: str | None
    tags: Sequence[str]
    config: Mapping[str, Any]
    seeds: Sequence[int]
    ids: Mapping[int, str]

    def project_or(self, variable: str) -> str:
        """`log.project`, or what the tracker's own environment variable says."""
        return self.project or os.environ.get(variable) or PROJECT

    def flat(self) -> dict[str, Any]:
        """The configuration with dotted keys; lists as text."""
        return {key: value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
                for key, value in _leaves(self.config, "")}  # fmt: skip


class Tracker(Protocol):
    """A seed is given by its place among the run's. `ids`: what each one's run is called in the tracker's store."""

    ids: dict[int, str]

    def __init__(self, about: About) -> None: ...

    def log(self, index: int, step: int, row: Mapping[str, float]) -> None:
        """A row of the seed's metrics; steps never fall."""

    def video(self, index: int, step: int, file: Path) -> None: ...

    def end(self, status: str, step: int, final: Sequence[Mapping[str, float]], table: Table | None) -> None:
        """`status` is summary.json's; `final` what each seed came to. Returns when all of it is kept."""


class WandbTracker:
    """Offline where there is no API key: the run's folder `wandb` then holds what `wandb sync` sends."""

    def __init__(self, about: About) -> None:
        import wandb

        self.wandb, self.ids, self.runs = wandb, {}, []
        mode: Any = os.environ.get("WANDB_MODE") or (None if wandb.api.api_key else "offline")
        for seed in about.seeds:
            self.ids[seed] = about.ids.get(seed) or secrets.token_hex(6)
            run = wandb.init(
                project=about.project_or("WANDB_PROJECT"),
                name=f"{about.name} seed {seed}",
                group=about.name,
                id=self.ids[seed],
                resume="allow" if about.ids else None,
                tags=list(about.tags),
                config={**about.config, "seed": seed},
                dir=os.environ.get("WANDB_DIR") or str(about.folder),
                mode=mode,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", save_code=False),
            )
            self.runs.append(run)

    def log(self, index: int, step: int, row: Mapping[str, float]) -> None:
        self.runs[index].log(dict(row), step=step)

    def video(self, index: int, step: int, file: Path) -> None:
        self.runs[index].log({"video": self.wandb.Video(str(file), format="mp4")}, step=step)

    def end(self, status: str, step: int, final: Sequence[Mapping[str, float]], table: Table | None) -> None:
        for run, values in zip(self.runs, final, strict=True):
            if table is not None:
                columns, rows = table
                run.log({TABLE: self.wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)
            run.summary.update({"status": status, **values})
            run.finish(exit_code=status == "failed")


class MlflowTracker:
    """Where MLFLOW_TRACKING_URI says, else where MLflow keeps runs by itself. Several seeds have a parent run."""

    _ENDS = {"finished": "FINISHED", "failed": "FAILED"}  # noqa: RUF012

    def __init__(self, about: About) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)  # each step of making a new store
        from mlflow import MlflowClient

        self.client, self.ids, self.parent = MlflowClient(), {}, None
        project = about.project_or("MLFLOW_EXPERIMENT_NAME")
        found = self.client.get_experiment_by_name(project)
        self.experiment = found.experiment_id if found is not None else self.client.create_experiment(project)
        tags = {"deeprl.run": str(about.folder), "deeprl.tags": ",".join(about.tags)}
        self.known = dict.fromkeys(about.seeds, -1)  # the last step that is there of each
        if len(about.seeds) > 1:
            self.parent = about.ids.get(-1) or self._create(about.name, tags)
            self.ids[-1] = self.parent
            tags["mlflow.parentRunId"] = self.parent
        for seed in about.seeds:
            if (run := about.ids.get(seed)) is not None:
                self.client.update_run(run, status="RUNNING")
                self.known[seed] = self._last_step(run)
            else:
                run = self._create(f"{about.name} seed {seed}", {**tags, "deeprl.seed": str(seed)})
                self._parameters(run, {**about.flat(), "seed": seed})
            self.ids[seed] = run
        self.seeds = list(about.seeds)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run_id: str = self.client.create_run(self.experiment, run_name=name, tags=dict(tags)).info.run_id
        return run_id

    def _parameters(self, run: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:LONGEST]) for key, value in values.items()]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run, params=params[start : start + BATCH])

    def _last_step(self, run: str) -> int:
        names = self.client.get_run(run).data.metrics
        return max((point.step for name in names for point in self.client.get_metric_history(run, name)), default=-1)

    def log(self, index: int, step: int, row: Mapping[str, float]) -> None:
        seed = self.seeds[index]
        if step > self.known[seed]:  # else it is there already, the same number: a run that goes on repeats itself
            self._write(self.ids[seed], step, row)

    def _write(self, run: str, step: int, row: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run, metrics=[Metric(key, value, now, step) for key, value in row.items()])

    def video(self, index: int, step: int, file: Path) -> None:
        self.client.log_artifact(self.ids[self.seeds[index]], str(file), "videos")

    def end(self, status: str, step: int, final: Sequence[Mapping[str, float]], table: Table | None) -> None:
        runs = [self.ids[seed] for seed in self.seeds]
        for run, values in zip(runs, final, strict=True):
            self._write(run, step, values)
        for run in [*runs, *([self.parent] if self.parent else [])]:
            if table is not None:
                columns, rows = table
                self.client.log_table(
                    run, {name: [row[i] for row in rows] for i, name in enumerate(columns)}, f"{TABLE}.json"
                )
            self.client.set_tag(run, "deeprl.status", status)
            self.client.set_terminated(run, status=self._ENDS.get(status, "KILLED"))


class TrackioTracker:
    """Wherever Trackio keeps runs on this machine, or in the Space that TRACKIO_SPACE_ID names."""

    def __init__(self, about: About) -> None:
        import trackio

        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = (
                _nothing  # each run's beginning and end, in the midst of what is shown of the training
            )
        self.trackio, self.ids, self.runs = trackio, {}, []
        for seed in about.seeds:
            self.ids[seed] = about.ids.get(seed) or f"{about.name} seed {seed} {secrets.token_hex(3)}"
            run = trackio.init(
                project=about.project_or("TRACKIO_PROJECT"),
                name=self.ids[seed],
                group=about.name,
                config={**about.flat(), "seed": seed},
                resume="allow" if about.ids else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            self.runs.append(run)

    def log(self, index: int, step: int, row: Mapping[str, float]) -> None:
        self.runs[index].log(dict(row), step=step)

    def video(self, index: int, step: int, file: Path) -> None:
        self.runs[index].log({"video": self.trackio.Video(str(file), format="mp4")}, step=step)

    def end(self, status: str, step: int, final: Sequence[Mapping[str, float]], table: Table | None) -> None:
        for run, values in zip(self.runs, final, strict=True):
            told: dict[str, Any] = {"status": status, **values}
            if table is not None:
                columns, rows = table
                told[TABLE] = self.trackio.Table(columns=list(columns), data=[list(row) for row in rows])
            run.log(told, step=step)
            run.finish()  # type: ignore[no-untyped-call]


TRACKERS: dict[str, type[Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker, "trackio": TrackioTracker}


def _nothing(*_: object, **__: object) -> None:
    pass


def _leaves(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
