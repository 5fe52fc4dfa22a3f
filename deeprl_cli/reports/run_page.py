"""The report of a run, from its folder alone: what it earned, its curves, its values and where each comes from, the
machine, its videos, and what to type to have it again. Nothing of the run is executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from deeprl_cli.config.explain import Origin
from deeprl_cli.config.recorded import Recorded, is_own, recorded, shown
from deeprl_cli.errors import UserError
from deeprl_cli.reports import chart
from deeprl_cli.reports.cells import clock, interval, number
from deeprl_cli.reports.curves import Array, Group, SeedCurve, read_table
from deeprl_cli.reports.intervals import bootstrap_interval, estimates, iqm
from deeprl_cli.reports.page import Block, Commands, Facts, Figure, Figures, Page, Table, Text, films
from deeprl_cli.reports.picture import NAMES
from deeprl_cli.runs.catalogue import last_used
from deeprl_cli.runs.folder import NUMERICS, read_config, read_summary
from deeprl_cli.runs.overview import overview
from deeprl_cli.runs.reading import code_named

RETURNS = ("eval/return_mean", "rollout/return_mean")
FAILED = "failed"
_ENDED = {
    FAILED: "The run failed: its numbers are those until then.",
    "killed": "The run has left no last words (it was killed): its numbers are those until then.",
    "interrupted": "The run was stopped before its end: its numbers are those until then.",
    "running": "The run is still under way: its numbers are those so far.",
}


def run_page(folder: Path) -> Page:
    """Raises UserError where `folder` holds no run, or a file of it is damaged."""
    config, told = read_config(folder), overview(folder)
    summary: Mapping[str, Any] = {}
    with suppress(UserError):
        summary = read_summary(folder)
    origins, tables = recorded(config), seed_tables(folder)
    seeds = summary.get("seeds") or list(tables) or [config.get("seed", 0)]
    when = datetime.fromtimestamp(last_used(folder)).astimezone()
    title = told["name"] or f"{told['algo']} on {told['env']}"
    about = [f"{told['algo']} on {told['env']}"] * bool(told["name"])
    about += [_seeds(seeds), f"{told['steps'] or 0:,} of {told['total_steps']:,} steps", f"{when:%Y-%m-%d %H:%M}"]
    about += [", ".join(told["tags"])] * bool(told["tags"])
    page = Page(title, told["status"], " · ".join(about))
    videos, left_out = _films(folder)
    page.warnings = _warnings(folder, config, told, summary, tables, origins)
    if left_out:
        page.warnings.append(f"Too large for this page, but in the run's folder: {', '.join(left_out)}.")
    page.add("Returns", _facts(summary, tables), _returns(summary, tables))
    page.add("Curves", *_curves(tables))
    page.add("Video", videos)
    page.add("What was run", *_values(origins))
    page.add("Machine and versions", _machine(config))
    page.add("Commands", Commands(_commands(folder, config, origins)))
    return page


def seed_tables(folder: Path) -> dict[int, dict[str, Array]]:
    """The columns of each seed's metrics, in the order of the seeds; empty ones left out. Raises UserError."""
    found = {}
    for place in folder.glob("seed_*"):
        if re.fullmatch(r"seed_\d+", place.name):
            table = read_table(place / "metrics.csv")
            found[int(place.name[5:])] = table if len(table.get("step", [])) else {}
    return dict(sorted(found.items()))


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"


def _warnings(
    folder: Path,
    config: Mapping[str, Any],
    told: Mapping[str, Any],
    summary: Mapping[str, Any],
    tables: Mapping[int, Mapping[str, Array]],
    origins: Recorded,
) -> list[str]:
    """What a reader of the numbers has to know."""
    found = [_ENDED[told["status"]]] if told["status"] in _ENDED else []
    if told["status"] == FAILED and summary.get("error"):
        found.append(f"Why: {summary['error']}")
    seeds, skipped = summary.get("seeds") or list(tables), summary.get("skipped_updates") or []
    lost = [f"{count} of seed {seed}" for seed, count in zip(seeds, skipped, strict=False) if count]
    if lost:
        found.append(f"Updates were left out, for their gradient was not finite: {', '.join(lost)}.")
    if not any(RETURNS[0] in table for table in tables.values()):
        found.append("Nothing was evaluated: the only returns are those of training episodes, which explore.")
    elif len(tables) == 1:
        found.append("One seed says nothing about another: seeds=5 trains five in one process.")
    empty = [str(seed) for seed, table in tables.items() if not table]
    if empty:
        found.append(f"Nothing was logged of seed {', '.join(empty)}.")
    resolved = config["resolved"]
    if resolved.get("numerics") not in (None, NUMERICS):
        found.append("Another version of deeprl trained it, whose numbers differ from this one's by rounding.")
    if origins.unknown:
        found.append(f"Where its values come from can't be told here: {origins.unknown}.")
    if config.get("init_from"):
        found.append(f"It began with the weights of another run: {config['init_from']}.")
    if not tables:
        found.append(f"It ended before anything was logged ({folder} holds no metrics).")
    return found


def _facts(summary: Mapping[str, Any], tables: Mapping[int, Mapping[str, Array]]) -> Facts:
    told = summary.get("eval") or {}
    items = []
    for key, name in (("return_mean", "last policy"), ("best_return_mean", "best policy")):
        values = told.get(key)
        if values:
            items.append((f"return, {name}", *_estimate(values, told, key == "return_mean")))
    if not items:
        for metric in RETURNS:
            last = [table[metric][~np.isnan(table[metric])][-1:] for table in tables.values() if metric in table]
            if values := [float(value[0]) for value in last if len(value)]:
                items.append((f"last {NAMES[metric]}", *_estimate(values, {}, False)))
                break
    if "wall_seconds" in summary:
        items.append(("wall time", clock(summary["wall_seconds"]), "start and evaluations included"))
        items.append(("speed", f"{summary['steps_per_second']:,.0f} steps/s", "of all seeds, while training"))
    return Facts(items or [("return", "–", "nothing was logged")])


def _estimate(values: Sequence[float | None], told: Mapping[str, Any], spread: bool) -> tuple[str, str]:
    """The number, and what is to be said of it."""
    if len(values) == 1:
        std = (told.get("return_std") or [None])[0] if spread else None
        over = f", {told['episodes']} episodes" if told.get("episodes") else ""
        return number(values[0]), ("one seed" if std is None else f"± {number(std)} over episodes, one seed") + over
    found = estimates(values)
    return number(found["iqm"]), f"IQM of {len(values)} seeds, 95% interval {interval(found['iqm_ci95'])}"


def _returns(summary: Mapping[str, Any], tables: Mapping[int, Mapping[str, Array]]) -> Block | None:
    """A row for each seed."""
    told = summary.get("eval") or {}
    if not told.get("return_mean"):
        return None
    rows = []
    nothing = [None] * len(told["return_mean"])
    columns = [told.get(key) or nothing for key in ("return_mean", "return_std", "best_return_mean")]
    for seed, last, std, best in zip(summary["seeds"], *columns, strict=False):
        highest = "–"
        if RETURNS[0] in tables.get(seed, {}):
            values, steps = tables[seed][RETURNS[0]], tables[seed]["step"]
            place = int(np.nanargmax(values)) if not np.isnan(values).all() else None
            highest = "–" if place is None else f"{number(float(values[place]))} at step {steps[place]:,.0f}"
        rows.append([str(seed), number(last), number(std), number(best), highest])
    head = ["seed", "last policy", "std of episodes", "best policy", "highest on its curve"]
    note = f"{told['episodes']} fresh episodes for each seed" if told.get("episodes") else "for each seed"
    return Table(head, rows, right=(1, 2, 3, 4), folded=f"Returns, {note}" if len(rows) > 12 else "")


def line_of(name: str, curves: Sequence[SeedCurve], single: bool = True) -> chart.Line | None:
    """Seeds as one line, their IQM, and its interval; `single`: each by itself as well. None without a point."""
    kept = [curve for curve in curves if len(curve.steps)]
    if not kept:
        return None
    own = [(curve.steps, curve.values) for curve in kept] if single and len(kept) > 1 else []
    try:
        steps, values = Group("", name, [], kept).on_a_grid(1)
    except UserError:  # no steps in common
        return chart.Line(name, np.empty(0), np.empty(0), seeds=own)
    if len(kept) == 1:
        return chart.Line(name, steps, values[0])
    low, high = bootstrap_interval([values], iqm)
    return chart.Line(name, steps, iqm(values), low, high, own)


def _curves(tables: Mapping[int, Mapping[str, Array]]) -> list[Block]:
    metrics = dict.fromkeys(metric for table in tables.values() for metric in table if metric != "step")
    figures: dict[str, Figure] = {}
    for metric in metrics:
        curves = []
        for table in tables.values():
            if metric in table:
                there = np.isfinite(table[metric])
                curves.append(SeedCurve(table["step"][there], table[metric][there]))
        line = line_of(metric, curves)
        if line is not None:
            figures[metric] = Figure(NAMES.get(metric, metric), chart.curves([line], NAMES.get(metric, metric)))
    first = [figures.pop(metric) for metric in RETURNS if metric in figures]
    found: list[Block] = [Figures(first)] if first else []
    if first and len(tables) > 1:
        found.append(Text("Thick: interquartile mean over seeds, shaded its 95% bootstrap interval; thin: each seed."))
    if figures:
        found.append(Figures(list(figures.values()), folded=f"All other metrics ({len(figures)})"))
    return found


def _films(folder: Path) -> tuple[Block | None, list[str]]:
    """Of each seed the newest video first; then the older ones."""
    found = []
    for file in [*folder.glob("videos/*.mp4"), *folder.glob("seed_*/videos/*.mp4")]:
        seed = re.search(r"seed_(\d+)", file.relative_to(folder).as_posix())
        step = re.fullmatch(r"step_(\d+)", file.stem)
        title = f"seed {seed[1]}" if seed else file.stem
        title += f", step {int(step[1]):,}" if step else ", the trained policy"
        found.append((-int(step[1]) if step else -math.inf, int(seed[1]) if seed else 0, title, file))
    found.sort(key=lambda one: (one[0], one[1], one[2]))
    return films([one[3] for one in found], [one[2] for one in found])


def _values(origins: Recorded) -> list[Block]:
    given = [o for o in origins.origins if is_own(o)]
    head = ["key", "value", "from", ""]
    found: list[Block] = [Table(head, [_row(o) for o in given])] if given else []
    every = [_row(o) for o in origins.origins]
    return [*found, Table(head, every, folded=f"All values ({len(every)})")]


def _row(origin: Origin) -> list[str]:
    return [origin.key, shown(origin.value), origin.source, origin.comment]


def _machine(config: Mapping[str, Any]) -> Block:
    resolved = dict(config["resolved"])
    machine = resolved.pop("machine", None)
    rows = [[key, shown(value)] for key, value in resolved.items()]
    rows += [[key, _listed(value)] for key, value in machine.items()] if isinstance(machine, Mapping) else []
    if not isinstance(machine, Mapping):
        rows.append(["machine", "not recorded (an earlier deeprl trained it)"])
    return Table(["", ""], rows)


def _listed(value: Any) -> str:
    """A value; of plug-ins, their names and versions."""
    return (
        ", ".join(f"{key} {shown(one)}" for key, one in value.items()) if isinstance(value, Mapping) else shown(value)
    )


def _commands(folder: Path, config: Mapping[str, Any], origins: Recorded) -> list[tuple[str, str]]:
    name, trust = quote(str(folder)), " --trust" if code_named(config, training=False) else ""
    found = []
    if origins.overrides:
        settled = f" (auto came to {', '.join(origins.settled)})" if origins.settled else ""
        found.append((origins.command, f"Train it again, in a new run{settled}:"))
    found.append(
        (f"deeprl verify {name}{trust}", "Train it again from its folder, and check that the numbers are equal:")
    )
    found.append((f"deeprl eval {name}{trust} --episodes 100", "Play its policy in fresh episodes:"))
    found.append((f"tensorboard --logdir {name}", "Look at its curves:"))
    return found
