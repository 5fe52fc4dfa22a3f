"""Which setting of a sweep is best, and how sure that is: puts seeds together, compares settings, and says it in words.

A setting is what varies, other than the seed. Returns of different environments can't be compared, so each environment
has a best of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deeprl_cli.reports.cells import number
from deeprl_cli.reports.comparison import MOST_SEEDS, difference, holm, seeds_to_settle
from deeprl_cli.reports.intervals import estimates
from deeprl_cli.runs.sweep_folder import SEED, Job, Setting, pairs, settings, varying

BEST, HIGHEST, SAME, UNKNOWN, LESS, NOTHING = "best", "highest", "≈ best", "?", "less", ""
LEVEL = 0.05  # probability of error, over all comparisons with the best of an environment
NAMED = 4  # settings named in a sentence before the rest is counted


@dataclass
class Row:
    """A setting, what its seeds earn with the last and with the best policy (None where none is done), and whether it
    can be told apart from the best; `seeds_needed`: seeds of each that would, None where that can't be said."""

    setting: Setting
    last: dict[str, Any] | None
    best: dict[str, Any] | None
    verdict: str = NOTHING
    p: float = math.nan
    seeds_needed: int | None = None

    def by(self, policy: str) -> dict[str, Any] | None:
        return self.last if policy == "last" else self.best

    @property
    def name(self) -> str:
        return self.setting.label or "every run"


def ranked(jobs: Sequence[Job], policy: str = "last") -> list[Row]:
    """The settings, environment by environment in the order typed, the highest IQM of `policy` first; those without a
    result behind. The verdicts are of Yuen's test, corrected for how many are held against the best (Holm)."""
    rows = [Row(setting, _estimates(setting, "last"), _estimates(setting, "best")) for setting in settings(jobs)]
    ordered = []
    for env in dict.fromkeys(row.setting.env for row in rows):
        block = sorted((row for row in rows if row.setting.env == env), key=lambda row: _place(row, policy))
        _judge([row for row in block if _iqm(row, policy) is not None], policy)
        ordered += block
    return [row for row in ordered if row.verdict] + [row for row in ordered if not row.verdict]


def _estimates(setting: Setting, policy: str) -> dict[str, Any] | None:
    returns = list(setting.returns(policy).values())
    return estimates(returns) if returns else None


def _iqm(row: Row, policy: str) -> float | None:
    found = row.by(policy)
    return None if found is None else found["iqm"]


def _place(row: Row, policy: str) -> float:
    value = _iqm(row, policy)
    return math.inf if value is None else -value


def _judge(rows: Sequence[Row], policy: str) -> None:
    if not rows:
        return
    first, *others = rows
    values = [row.by(policy)["returns"] for row in rows]  # type: ignore[index]
    first.verdict = BEST if len(values[0]) > 1 else HIGHEST
    found = [difference(values[0], value).p for value in values[1:]]
    for row, value, p in zip(others, values[1:], holm(found), strict=True):
        row.p = p
        row.verdict = UNKNOWN if math.isnan(p) else SAME if p >= LEVEL else LESS
        row.seeds_needed = seeds_to_settle(values[0], value) if row.verdict == SAME else None


def answer(rows: Sequence[Row], policy: str = "last") -> list[str]:
    """What the sweep says, a line or two for each environment."""
    lines = []
    for env in dict.fromkeys(row.setting.env for row in rows):
        block = [row for row in rows if row.setting.env == env and row.verdict]
        if len(block) > 1:
            lines += _sentences(block, policy)
    if any(row.verdict in (HIGHEST, UNKNOWN) for row in rows) and len(rows) > 1:
        lines.append(
            "Each setting had one seed, so nobody knows whether the highest is better or only luckier. seeds=5 trains "
            "five seeds together in one process, which takes little longer (except with images)."
        )
    return lines


def _sentences(block: Sequence[Row], policy: str) -> list[str]:
    first, others = block[0], block[1:]
    told = first.by(policy)
    assert told is not None
    if first.verdict == HIGHEST:
        return [f"highest: {first.name} ({number(told['iqm'])}, one seed)"]
    same = [row for row in others if row.verdict == SAME]
    less = [row for row in others if row.verdict == LESS]
    lines = [f"best: {first.name} (IQM {number(told['iqm'])} of {len(told['returns'])} seeds)"]
    if same:
        names = ", ".join(_needing(row) for row in same[:NAMED])
        rest = f" and {len(same) - NAMED} more" if len(same) > NAMED else ""
        lines[0] += f"; can't be told apart from it: {names}{rest}"
        if any(row.seeds_needed for row in same):
            lines.append(
                "(in brackets: how many seeds of each would show a difference, if it is as large as it looks now)"
            )
        else:
            lines.append(f"they hardly differ: {MOST_SEEDS:,} seeds of each would not show it; take the cheapest")
    elif less and len(less) == len(others):
        lines[0] += f"; {'the other earns' if len(others) == 1 else 'all others earn'} less, and not by chance"
    return lines


def _needing(row: Row) -> str:
    return row.name if row.seeds_needed is None else f"{row.name} ({row.seeds_needed})"


def best_of(rows: Sequence[Row]) -> list[Row]:
    """The best setting of each environment."""
    return [row for row in rows if row.verdict in (BEST, HIGHEST)]


def keys_of(jobs: Sequence[Job]) -> tuple[list[str], bool]:
    """The keys that make settings, and whether the seed varies as well."""
    keys = varying(jobs)
    return [key for key in keys if key != SEED], SEED in keys


def seed_of(job: Job) -> str:
    return pairs(job).get(SEED, "")
