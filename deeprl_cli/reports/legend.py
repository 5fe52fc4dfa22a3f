"""What the lines of a picture are called: short, and by what tells them apart."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from deeprl_cli.reports.curves import SHORT, Group, Run, differences, value_at

LONGEST = 60  # letters of a name
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)_(\d\d-\d\d-\d\d(?:_\d+)?)$")  # a run folder's own name
_MOST_KEYS = 4  # more of them say less than a time does


def names(groups: Sequence[Group]) -> dict[str, str]:
    """A short name for each label, no two alike.

    Runs that would be named by the time they started are named by their values, if these differ. Path parts that all
    names begin with are left out, as is a date that all share.
    """
    labels = list(dict.fromkeys(group.label for group in groups))
    if len(labels) == 1:
        return {labels[0]: _cut(labels[0])}
    short = _by_values(labels, groups) or dict(zip(labels, _without_shared(labels), strict=True))
    cut = {label: _cut(name) for label, name in short.items()}
    return cut if len(set(cut.values())) == len(cut) else short


def _by_values(labels: Sequence[str], groups: Sequence[Group]) -> dict[str, str] | None:
    """`ppo lr=0.001` in place of `ppo/CartPole-v1/2026-…`; None where labels are no times, or values don't tell them
    apart."""
    if not all(_STAMP.search(label) for label in labels):
        return None
    runs: dict[str, Run] = {group.label: group.runs[0] for group in groups}
    algorithms: dict[str, list[Run]] = {}
    for run in runs.values():
        algorithms.setdefault(run.told(SHORT["algo"]), []).append(run)
    keys = [SHORT["algo"]] if len(algorithms) > 1 else []
    for alike in algorithms.values():  # an algorithm's own keys don't tell it from another one
        keys += [key for key in differences(alike) if key not in keys]
    if len(keys) > _MOST_KEYS:
        return None
    named = {
        label: " ".join(run.told(key) for key in keys if value_at(run.config, key) is not None)
        for label, run in runs.items()
    }
    return named if len(set(named.values())) == len(labels) else None


def _without_shared(labels: Sequence[str]) -> list[str]:
    """`classic/ppo`, `classic/a2c` -> `ppo`, `a2c`; of times on one day, the time alone."""
    parts = [label.split("/") for label in labels]
    columns = list(zip(*parts, strict=False))
    if len({len(part) for part in parts}) == 1:  # paths of one depth: also what they share in the middle
        kept = [index for index, column in enumerate(columns) if len(set(column)) > 1]
        parts = [[part[index] for index in kept] for part in parts]
    stamps = [_STAMP.search(part[-1]) for part in parts]
    if all(stamps) and len({stamp[1] for stamp in stamps if stamp}) == 1:
        parts = [[*part[:-1], stamp[2]] for part, stamp in zip(parts, stamps, strict=True) if stamp]
    return ["/".join(part) for part in parts]


def _cut(name: str) -> str:
    return textwrap.shorten(name, LONGEST, placeholder="…")
