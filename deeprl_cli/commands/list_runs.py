"""`deeprl list runs`: the runs below a folder, with their status, steps and return."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprl_cli.errors import UserError, warn

SORTS = ("age", "return", "name", "algo", "env", "status", "steps")
_STYLES = {"running": "cyan", "finished": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}
_PIPED_WIDTH = 160  # columns where there is no terminal to ask
_COLUMNS = ("status", "name", "algo", "env", "seeds", "steps", "return", "age", "run")
_SPARED = ("seeds", "age", "algo", "name", "env", "steps")  # left out, one by one, where a terminal is too narrow


def list_runs(filter_text: str, *, sort: str = "age", as_json: bool = False, root: Path = Path("runs")) -> None:
    """Print the runs below `root` that have `filter_text` in their name, tags, algorithm, environment, status or path,
    the newest first, or sorted by another column. Raises UserError if there is none."""
    from deeprl_cli.runs.catalogue import runs_below
    from deeprl_cli.runs.overview import overview

    found = []
    for run in runs_below(root):
        try:
            found.append(overview(run))
        except UserError as error:  # the other runs are shown even if one is damaged
            warn(f"left out: {error}")
    wanted = [one for one in found if filter_text.lower() in _words(one)]
    if not wanted and not as_json:
        raise UserError(
            f"no run below {root}/ here: deeprl train … begins one" if not found else f"no run contains '{filter_text}'"
        )
    wanted.sort(key=lambda one: _place(one, sort))
    if as_json:
        print(json.dumps(wanted))
    else:
        _show(wanted, root)


def _words(one: Mapping[str, Any]) -> str:
    return " ".join(str(one[key]) for key in ("name", "tags", "algo", "env", "status", "run")).lower()


def _place(one: Mapping[str, Any], sort: str) -> tuple[bool, Any]:
    """The highest return or the most steps first; other columns from small to large. Unknown values are last."""
    value = one[sort]
    if value is None:
        return True, 0
    return False, -value if sort in ("return", "steps") else value


def _show(runs: Sequence[Mapping[str, Any]], root: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from deeprl_cli.reports.cells import number

    stream = sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _PIPED_WIDTH)
    columns: dict[str, list[Text]] = {title: [] for title in _COLUMNS}
    for one in runs:
        name = " ".join([one["name"] or "", *(f"#{tag}" for tag in one["tags"])]).strip()
        numbers = [str(one["seeds"]), _steps(one), number(one["return"]), age(one["age"])]
        row = [name, str(one["algo"]), str(one["env"]), *numbers, str(Path(one["run"]).relative_to(root))]
        for title, cell in zip(
            _COLUMNS, [Text(_status(one), _STYLES.get(one["status"], "")), *map(Text, row)], strict=True
        ):
            columns[title].append(cell)
    for title in _SPARED:
        if sum(max(len(title), *map(len, cells)) + 2 for title, cells in columns.items()) <= console.width + 2:
            break
        del columns[title]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in columns:
        right = title in ("seeds", "steps", "return", "age")
        table.add_column(title, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    console.print(table)


def _status(one: Mapping[str, Any]) -> str:
    """The status, and what ended the run before its `total_steps`: `finished (stop.return=475)`."""
    return f"{one['status']} ({str(one['reason']).partition(':')[0]})" if one["reason"] else str(one["status"])


def _steps(one: Mapping[str, Any]) -> str:
    """Steps done; also of how many, if the run isn't done."""
    if one["steps"] is None:
        return "–"
    whole = one["total_steps"]
    return (
        f"{one['steps']:,}"
        if (one["status"] == "finished" and not one["reason"]) or not whole
        else f"{one['steps']:,} of {whole:,}"
    )


def age(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
