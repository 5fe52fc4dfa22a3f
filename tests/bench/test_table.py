"""The table of a bench in a terminal: a row is one line, and what doesn't fit is left out whole."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from deeprl_cli.bench.report import finished, show, unfinished
from deeprl_cli.bench.suite import load_suite

SUMMARY = {
    "eval": {"return_mean": [9079.5] * 5, "best_return_mean": [9342.25] * 5},
    "steps_per_second": 12345.0,
    "wall_seconds": 4719.0,
}


ALL = ["row", "result", "bar", "mean", "95% CI", "IQM", "95% CI", "near", "steps/s", "time"]


@pytest.mark.parametrize(
    ("width", "titles"),
    [(160, ALL), (100, [*ALL[:6], *ALL[7:]]), (80, [*ALL[:5], "near"])],
)
def test_columns_go_before_a_row_takes_two_lines(tmp_path, width, titles):
    rows = load_suite("classic").rows
    records = [finished(row, SUMMARY, tmp_path) for row in rows[:-1]] + [unfinished(rows[-1], "crashed")]
    out = io.StringIO()
    show(Console(file=out, width=width), records)
    head, *lines = out.getvalue().splitlines()
    assert re.split(r"  +", head.strip()) == titles
    assert [line.split()[0] for line in lines[: len(rows)]] == [row.name for row in rows]
    assert max(map(len, [head, *lines[: len(rows)]])) <= width
