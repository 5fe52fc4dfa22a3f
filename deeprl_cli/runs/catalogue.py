"""Runs and sweeps by their name, a part of it, or `latest`, instead of by their folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from deeprl_cli.errors import UserError, did_you_mean
from deeprl_cli.runs.folder import CONFIG_NAME
from deeprl_cli.runs.lock import LOCK_NAME
from deeprl_cli.runs.sweep_folder import SWEEP_NAME

RUNS = Path("runs")  # below the working directory
LATEST = "latest"
_SEED = re.compile(r"seed_\d+")
_NAMED = 4  # runs that fit, named before the rest is counted


def runs_below(root: Path) -> Iterator[Path]:
    """The run folders below `root`, in the order of their paths."""
    return _holding(root, CONFIG_NAME)


def sweeps_below(root: Path) -> Iterator[Path]:
    """The folders of sweeps below `root`, in the order of their paths."""
    return _holding(root, SWEEP_NAME)


def _holding(root: Path, file: str) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        if CONFIG_NAME in files:
            below.clear()  # a run holds no other
        below.sort()
        if file in files:
            yield Path(folder)


def last_used(folder: Path) -> float:
    """When a run or a sweep began, or last went on: seconds since the epoch, 0 where that can't be told."""
    times = []
    for name in (LOCK_NAME, CONFIG_NAME, SWEEP_NAME):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def name_of(run: Path) -> str:
    """The run's `name`; "" where it has none. Only this one line of its config.yaml is read."""
    try:
        found = re.search(r"^name: (.+)$", (run / CONFIG_NAME).read_text(encoding="utf-8"), re.MULTILINE)
        value = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""
    return value if isinstance(value, str) else ""


def find(text: str | Path, kind: str = "run", root: Path = RUNS) -> Path:
    """The folder that `text` means: a path that exists, the `latest` of its kind (run or sweep) below `root`, or the
    only one whose name or path holds it; with /seed_K behind it, that seed's folder in it. Raises UserError where there
    is none, or more than one."""
    path, text = Path(text).expanduser(), str(text)
    if path.exists():
        return path
    if _SEED.fullmatch(path.name) and path.parent != Path():
        return find(path.parent, kind, root) / path.name
    found = list((sweeps_below if kind == "sweep" else runs_below)(root))
    if not found:
        begin = "deeprl train … begins one" if kind == "run" else "deeprl train -m … begins one"
        raise UserError(f"{text}: no such folder, and there is no {kind} below {root}/ here: {begin}")
    if text == LATEST:
        return max(found, key=last_used)
    names = {folder: (folder.relative_to(root).as_posix(), folder.name, name_of(folder)) for folder in found}
    fitting = [folder for folder in found if text in names[folder]]
    fitting = fitting or [folder for folder in found if any(text.lower() in name.lower() for name in names[folder])]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        known = list(dict.fromkeys(name for given in names.values() for name in given[1:] if name))
        raise UserError(
            f"{text}: no such folder, and no {kind} below {root}/ is called so{did_you_mean(text, known)}; "
            f"`deeprl list {kind}s` shows what there is"
        )
    newest = sorted(fitting, key=last_used, reverse=True)
    rest = f" and {len(fitting) - _NAMED} more" if len(fitting) > _NAMED else ""
    shown = ", ".join(map(str, newest[:_NAMED]))
    raise UserError(f"{text}: fits {len(fitting)} {kind}s, {shown}{rest}: name one, with more of its path")


def find_any(text: str | Path, root: Path = RUNS) -> Path:
    """`find` for what takes both: the run that is called so; where none or more than one is, the sweep. `latest` is a
    run. Raises UserError as for a run."""
    try:
        return find(text, root=root)
    except UserError:
        if str(text) != LATEST:
            with suppress(UserError):
                return find(text, "sweep", root)
        raise
