"""A study of hyper-parameters as a picture: its history, what mattered, and which values went with which score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeprl_cli.reports.cells import number
from deeprl_cli.reports.picture import COLOURS
from deeprl_cli.schema.domain import Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#999999"
LONGEST = 14  # characters of a choice beside its axis


class Tried(NamedTuple):
    """A trial: its values by key, and its score; `whole`: it was trained to the end (else, to a rung)."""

    number: int
    values: Mapping[str, Any]
    score: float
    whole: bool


class Line(NamedTuple):
    """A member of a population: its score after each generation, and its values in each, from `start` steps on."""

    scores: Mapping[int, float]
    values: Sequence[tuple[int, Mapping[str, Any]]]
    control: bool


def draw_study(
    trials: Sequence[Tried], domains: Sequence[Domain], importance: Mapping[str, float], scored_by: str, title: str
) -> Figure:
    """`importance`: of each key, shares of 1; none where too few trials say nothing of that."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: it would look for a screen

    with mpl.rc_context({"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(max(9.0, 1.35 * len(domains) + 2), 7.6), layout="constrained")
        grid = figure.add_gridspec(2, 2)
        _history(figure.add_subplot(grid[0, 0]), trials, scored_by)
        _importance(figure.add_subplot(grid[0, 1]), importance)
        _parallel(figure.add_subplot(grid[1, :]), trials, domains, scored_by)
        figure.suptitle(title, fontsize=11)
    return figure


def _history(panel: Axes, trials: Sequence[Tried], scored_by: str) -> None:
    whole = [trial for trial in trials if trial.whole]
    rest = [trial for trial in trials if not trial.whole]
    if rest:
        panel.plot([t.number for t in rest], [t.score for t in rest], "x", color=GREY, label="to a rung")
    panel.plot([t.number for t in whole], [t.score for t in whole], "o", color=COLOURS[0], label="trials")
    if whole:
        best = np.maximum.accumulate([trial.score for trial in whole])
        numbers = [trial.number for trial in whole]
        panel.step(numbers, best, where="post", color=COLOURS[1], linewidth=1.8, label="best so far")
    panel.set_xlabel("trial")
    panel.set_ylabel(scored_by)
    panel.set_title("history", fontsize=11)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.legend(frameon=False, fontsize=8)


def _importance(panel: Axes, importance: Mapping[str, float]) -> None:
    panel.set_title("what made a trial one of the best", fontsize=11)
    if not importance:
        panel.text(0.5, 0.5, "too few trials to tell", ha="center", va="center", transform=panel.transAxes)
        panel.set_axis_off()
        return
    ordered = sorted(importance.items(), key=lambda item: item[1])
    bars = panel.barh([key for key, _ in ordered], [share for _, share in ordered], color=COLOURS[0])
    panel.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=3, fontsize=8)
    panel.tick_params(axis="y", labelsize=8)
    panel.set_xlabel("importance (PED-ANOVA)")
    panel.margins(x=0.12)


def _parallel(panel: Axes, trials: Sequence[Tried], domains: Sequence[Domain], scored_by: str) -> None:
    """Each trial is a line through its values; the better, the brighter and the further in front."""
    from matplotlib import colormaps

    shown = sorted((trial for trial in trials if math.isfinite(trial.score)), key=lambda trial: trial.score)
    scores = [trial.score for trial in shown] or [0.0, 1.0]
    low, high = min(scores), max(scores)
    wide = (high - low) or 1.0
    for trial in shown:
        place = (trial.score - low) / wide
        heights = [one.unit(trial.values[one.key]) for one in domains] + [place]
        colour = colormaps["viridis"](place)
        panel.plot(range(len(heights)), heights, color=colour, alpha=0.25 + 0.7 * place, linewidth=0.8 + 1.4 * place)
    for x, one in enumerate(domains):
        panel.axvline(x, color="#444444", linewidth=0.8)
        for value in one.choices or (one.low, (one.value(one.drawn(0.5))), one.high):
            text = str(value)[:LONGEST] if one.choices else f"{value:.4g}"
            panel.text(x + 0.03, one.unit(value), text, fontsize=7, va="center", in_layout=False)
    panel.axvline(len(domains), color="#444444", linewidth=0.8)
    for value in (low, high):
        panel.text(len(domains) + 0.03, (value - low) / wide, number(value), fontsize=7, va="center", in_layout=False)
    names = [one.key.removeprefix("algo.") for one in domains]
    panel.set_xticks(range(len(domains) + 1), [*names, scored_by], fontsize=8, rotation=15)
    panel.set_yticks([])
    panel.set_xlim(-0.2, len(domains) + 0.5)
    panel.spines[:].set_visible(False)


def draw_population(
    lines: Sequence[Line], domains: Sequence[Domain], schedule: Sequence[tuple[int, Mapping[str, Any]]], title: str
) -> Figure:
    """Returns after each generation, and each key's values over the steps; the schedule that was found in front."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    columns = 3
    rows = -(-(len(domains) + 1) // columns)
    with mpl.rc_context({"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for line in lines:
            colour = GREY if line.control else COLOURS[0]
            panels[0].plot(list(line.scores), list(line.scores.values()), "o-", color=colour, markersize=3, alpha=0.6)
        for name, colour in (("population", COLOURS[0]), ("control", GREY)):
            panels[0].plot([], [], "o-", color=colour, label=name)
        panels[0].legend(frameon=False, fontsize=8)
        panels[0].set_title("return after each generation", fontsize=10)
        end = max((step for line in lines for step in line.scores), default=1)
        for panel, one in zip(panels[1:], domains, strict=False):
            for line in lines:
                if not line.control:
                    _steps(panel, line.values, one.key, end, color=COLOURS[0], alpha=0.25, linewidth=1)
            _steps(panel, schedule, one.key, end, color=COLOURS[1], linewidth=2)
            panel.set_title(one.key, fontsize=10)
            if one.scale == "log":
                panel.set_yscale("log")
        for panel in panels:
            panel.grid(alpha=0.25, linewidth=0.6)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        for panel in panels[len(domains) + 1 :]:
            panel.set_visible(False)
        figure.suptitle(title, fontsize=11)
    return figure


def _steps(panel: Axes, found: Sequence[tuple[int, Mapping[str, Any]]], key: str, end: int, **style: Any) -> None:
    steps = [step for step, _ in found]
    values = [values[key] for _, values in found]
    panel.step([*steps, end], [*values, values[-1]], where="post", **style)
