"""How good a trial is: one number of each seed, and their interquartile mean."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from deeprl_cli.reports.curves import read_table
from deeprl_cli.reports.intervals import iqm
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.schema.run import RunConfig

RETURN = "eval/return_mean"


def score(run: Path, cfg: RunConfig, by: Literal["auc", "last"]) -> tuple[float, list[float]]:
    """The IQM over seeds, and each seed's number. Raises UserError where the run has not left what it takes."""
    if by == "last":
        each = [float("nan") if value is None else float(value) for value in read_summary(run)["eval"]["return_mean"]]
    else:
        each = [area(run / f"seed_{seed}" / "metrics.csv") for seed in cfg.seed_list]
    return float(iqm(np.array(each))), each


def area(table: Path) -> float:
    """The mean of the evaluation curve over its steps, by trapezoids: the area below it, divided by its width."""
    columns = read_table(table)
    known = ~np.isnan(columns[RETURN]) if RETURN in columns else np.zeros(0, bool)
    if not known.any():
        return float("nan")
    steps, returns = columns["step"][known], columns[RETURN][known]
    if len(steps) == 1:
        return float(returns[0])
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))
