"""The curves of runs, read from their folders and put into groups. Only text is read; nothing in a run is executed.

Shapes of a group: N seeds, P points. Steps are environment steps of one seed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprl_cli.config.messages import dotted_keys, some
from deeprl_cli.errors import UserError, did_you_mean, warn
from deeprl_cli.runs.catalogue import find_any
from deeprl_cli.runs.folder import CONFIG_NAME, find_run, read_config
from deeprl_cli.runs.sweep_folder import SWEEP_NAME, label, read_sweep, run_of, settings

Array = NDArray[np.float64]

SHORT = {"algo": "algo.name", "env": "env.id", "network": "network.name", "hardware": "hardware.name"}
RUN, SEED, SETTING = "run", "seed", "setting"  # as keys: every run, every seed, every setting of a sweep by itself
POINTS = 400  # of a grid, where seeds were not logged at the same steps
# two runs that differ in nothing else are the same experiment
INCIDENTAL = ("seed", "seeds", "run_dir", "name", "tags", "typed", "resolved", "hardware", "log", "checkpoint")


@dataclass
class SeedCurve:
    """One metric of one seed."""

    steps: Array
    values: Array


@dataclass
class Run:
    folder: Path
    config: dict[str, Any]
    seeds: list[Path]  # the seeds' folders
    name: str = ""  # its path below the folder that holds all runs found with it
    setting: str = ""  # what it has of the keys that vary over its sweep, other than environment and seed

    @property
    def env(self) -> str:
        return str(value_at(self.config, "env.id"))

    def told(self, key: str) -> str:
        """`ppo`, `lr=0.001`: names stand alone, other values behind the last part of their key."""
        value = value_at(self.config, key)
        text = value if isinstance(value, str) else json.dumps(value)
        return text if key in SHORT.values() else f"{key.rpartition('.')[2]}={text}"


@dataclass
class Group:
    """The seeds that make one line: those of all runs in `env` that share a `label`."""

    env: str
    label: str
    runs: list[Run] = field(default_factory=list)
    curves: list[SeedCurve] = field(default_factory=list)
    seeds: int = 0  # those without a point included

    @property
    def name(self) -> str:
        return self.label if self.env in ("", self.label) else f"{self.label} on {self.env}"

    def on_a_grid(self, smooth: int) -> tuple[Array, Array]:
        """Steps `(P,)` and values `(N, P)`: each curve smoothed over its last points, then read at common steps.

        The grid is where all seeds have been: a seed that stops early would change who is averaged half-way.
        """
        first = max(curve.steps[0] for curve in self.curves)
        last = min(curve.steps[-1] for curve in self.curves)
        if first > last:
            raise UserError(f"{self.name}: its seeds have no steps in common: plot them separately, with --group")
        steps = np.unique(np.concatenate([curve.steps for curve in self.curves]))
        steps = steps[(steps >= first) & (steps <= last)]
        if len(steps) > POINTS and any(len(curve.steps) != len(self.curves[0].steps) for curve in self.curves):
            steps = np.linspace(first, last, POINTS)
        return steps, np.stack([np.interp(steps, c.steps, moving_mean(c.values, smooth)) for c in self.curves])

    def longest(self) -> float:
        return float(max(curve.steps[-1] for curve in self.curves))


def moving_mean(values: Array, window: int) -> Array:
    """The mean of the last `window` values at each place; of as many as there are before that."""
    sums = np.cumsum(values)
    sums[window:] -= np.cumsum(values)[:-window]
    return sums / np.minimum(np.arange(1, len(values) + 1), window)


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs that the paths are or hold, each once. Raises UserError where a path holds none."""
    runs: dict[Path, Run] = {}
    for path in paths:
        found = _runs_at(find_any(path))
        if not found:
            raise UserError(
                f"{path}: no runs there (no folder below it has a {CONFIG_NAME}): name one, or a folder of them"
            )
        for run in found:
            known = runs.setdefault(run.folder.resolve(), run)
            known.seeds += [seed for seed in run.seeds if seed.resolve() not in {one.resolve() for one in known.seeds}]
    _name(runs)
    return list(runs.values())


def _name(runs: Mapping[Path, Run]) -> None:
    """`ppo-cartpole` and `a2c-cartpole` for those rows' folders `run` in runs/bench/classic."""
    folders = [folder.parent if folder.name == "run" else folder for folder in runs]
    above = os.path.commonpath([folder.parent for folder in folders])
    for run, folder in zip(runs.values(), folders, strict=True):
        run.name = folder.relative_to(above).as_posix()


def _runs_at(path: Path) -> list[Run]:
    if re.fullmatch(r"seed_\d+", path.name) and (path.parent / CONFIG_NAME).is_file():
        return [Run(path.parent, read_config(path.parent), [path])]
    if not path.is_dir() or (path / CONFIG_NAME).is_file():
        return [_run(find_run(path))]
    if (path / SWEEP_NAME).is_file():
        return _runs_of_sweep(path)
    found, damaged = [], False
    for folder, below, files in os.walk(path):
        below.sort()
        if CONFIG_NAME in files:
            below.clear()
            try:
                found.append(_run(Path(folder)))
            except UserError as error:  # one damaged run doesn't keep the others from being seen
                warn(f"left out: {error}")
                damaged = True
    if found or damaged:
        return found
    with contextlib.suppress(UserError):
        return [_run(find_run(path))]  # a folder inside a run
    return []


def _runs_of_sweep(folder: Path) -> list[Run]:
    """Those that have begun, wherever they are, each with its setting."""
    found = []
    for setting in settings(read_sweep(folder).jobs):
        named = label({key: value for key, value in setting.values.items() if key != "env"})
        for job in setting.jobs:
            place = run_of(folder, job)
            if place is not None and (place / CONFIG_NAME).is_file():
                run = _run(place)
                run.setting = named
                found.append(run)
    return found


def by_default(runs: Sequence[Run]) -> str:
    """The key that groups runs unless one is named: what a sweep varies, or else the algorithm."""
    return SETTING if all(run.setting for run in runs) else "algo"


def _run(folder: Path) -> Run:
    seeds = [seed for seed in folder.glob("seed_*") if re.fullmatch(r"seed_\d+", seed.name)]
    return Run(folder, read_config(folder), sorted(seeds, key=lambda seed: int(seed.name[5:])))


def read_groups(runs: Sequence[Run], metric: str, keys: Sequence[str]) -> list[Group]:
    """The runs' curves of `metric`, grouped by the values of the configuration's `keys`, in the order of the labels;
    `run` among them is no key: it puts each run by itself, under its folder's name; nor is `seed`, which parts seeds.

    Each environment has groups of its own, unless it is one of the keys. Raises UserError where nothing can be drawn.
    """
    keys = [SHORT.get(key, key) for key in keys]
    _check_keys(keys, runs)
    groups: dict[tuple[str, str], Group] = {}
    known: set[str] = set()
    for run in runs:
        env = "" if SHORT["env"] in keys else run.env
        for seed in run.seeds:
            label = _label(run, keys, seed)
            group = groups.setdefault((env, label), Group(env, label))
            if run not in group.runs:
                group.runs.append(run)
            group.seeds += 1
            columns, curve = read_metric(seed / "metrics.csv", metric)
            known.update(columns)
            if len(curve.steps):
                group.curves.append(curve)
    if not any(group.curves for group in groups.values()):
        raise _nothing(runs, metric, sorted(known))
    for group in groups.values():
        _tell(group, metric)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], _natural(item[0][1])))
    return [group for _, group in ordered if group.curves]


def read_metric(path: Path, metric: str) -> tuple[list[str], SeedCurve]:
    """The table's metrics, and the points that `metric` has. A half-written last line is left out."""
    columns, lines = _lines(path)
    points: dict[float, float] = {}
    if metric in columns[1:]:
        column = columns.index(metric)
        for number, line in enumerate(lines, 2):
            cells = line.split(",")
            if len(cells) <= column or not cells[column]:
                continue
            step, value = _numbers((cells[0], cells[column]), path, number)
            if math.isfinite(value):
                points[step] = value
    steps = sorted(points)
    return columns[1:], SeedCurve(np.array(steps), np.array([points[step] for step in steps]))


def read_table(path: Path) -> dict[str, Array]:
    """Every column of a seed's `metrics.csv`, `step` first, in its rows' order; NaN where a cell is empty."""
    columns, lines = _lines(path)
    width = len(columns)
    rows = []
    for number, line in enumerate(lines, 2):
        cells = [*line.split(","), *[""] * width][:width]
        rows.append(_numbers([cell or "nan" for cell in cells], path, number))
    values = np.array(rows).reshape(len(rows), width)
    return dict(zip(columns or ["step"], values.T if width else [np.empty(0)], strict=True))


def _lines(path: Path) -> tuple[list[str], list[str]]:
    """The table's columns and its whole lines; none where there is no table yet."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    columns = lines[0].split(",") if lines else []
    if lines and columns[0] != "step":
        raise UserError(f"{path}: damaged: not the metrics of a run")
    return columns, lines[1:]


def _numbers(cells: Sequence[str], path: Path, number: int) -> list[float]:
    try:
        return [float(cell) for cell in cells]
    except ValueError as error:
        raise UserError(f"{path}: damaged: line {number} holds something that is not a number") from error


def _tell(group: Group, metric: str) -> None:
    """What a picture wouldn't show: seeds without points, runs that differ, curves cut short."""
    if (missing := group.seeds - len(group.curves)) > 0:
        warn(f"{group.name}: {missing} of {group.seeds} seeds have no points of {metric}, and are left out")
    differing = differences(group.runs)
    if differing:
        what, mend = some(differing[:5]), f"--group …,{differing[0]}"
        warn(f"{group.name}: {len(group.runs)} runs that differ in {what} make one line; {mend} separates them")
    last = min((curve.steps[-1] for curve in group.curves), default=0)
    if group.curves and last < group.longest():
        cut = f"up to step {last:.0f}, where its shortest seed ends; the longest ends at {group.longest():.0f}"
        warn(f"{group.name}: drawn {cut}")


def differences(runs: Sequence[Run]) -> list[str]:
    """The keys in which the runs' configurations differ, incidental ones aside."""
    leaves = [_leaves(run.config) for run in runs]
    keys = {key: None for one in leaves for key in one if key.split(".")[0] not in INCIDENTAL}
    return [key for key in keys if any(one.get(key) != leaves[0].get(key) for one in leaves)]


def same_experiment(run: Run) -> str:
    """The same text for runs whose configurations differ in incidental keys alone."""
    return json.dumps({key: value for key, value in run.config.items() if key not in INCIDENTAL}, sort_keys=True)


def _leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key in dotted_keys(config) if not isinstance(value := value_at(config, key), Mapping)}


def _check_keys(keys: Sequence[str], runs: Sequence[Run]) -> None:
    known = list(dict.fromkeys(key for run in runs for key in dotted_keys(run.config)))
    for key in keys:
        if key in (RUN, SEED, SETTING):
            continue
        if key not in known:
            whole = [one for one in known if one.endswith(f".{key}")]
            meant = (
                f"; did you mean '{whole[0]}'?" if whole else did_you_mean(key, [*known, *SHORT, RUN, SEED, SETTING])
            )
            raise UserError(f"--group {key}: no run has this key{meant}")
        inside = [one for one in known if one.startswith(f"{key}.")]
        if inside:
            raise UserError(f"--group {key}: holds several values: choose one of {some(inside)}")


def _label(run: Run, keys: Sequence[str], seed: Path) -> str:
    """`ppo`, `ppo lr=0.001`, `seed 3`."""
    parts = []
    for key in keys:
        if key == RUN:
            parts.append(run.name)
            continue
        if key == SETTING:
            parts.append(run.setting or run.name)
            continue
        if key == SEED:
            parts.append(seed.name.replace("_", " "))
            continue
        parts.append(run.told(key))
    return " ".join(parts)


def _natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts 9 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


def value_at(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _nothing(runs: Sequence[Run], metric: str, known: Sequence[str]) -> UserError:
    where = str(runs[0].folder) if len(runs) == 1 else f"{len(runs)} runs"
    if metric in known or not known:
        return UserError(f"{where}: no points of {metric} yet: wait until the first are logged")
    names = ", ".join(known)
    return UserError(f"unknown metric '{metric}'{did_you_mean(metric, known)}; there are {names}")
