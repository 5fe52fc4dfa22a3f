"""Returns at the end as pictures: over one or two keys of a sweep (a line, a heat map), and as performance profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeprl_cli.reports.cells import number
from deeprl_cli.reports.comparison import performance_profile
from deeprl_cli.reports.picture import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL = "IQM of the last return"


class Point(NamedTuple):
    """A setting: its environment ("" where that doesn't vary), the values of all keys that vary, and the estimates of
    its return (`reports.intervals.estimates`)."""

    env: str
    values: Mapping[str, str]
    told: Mapping[str, Any]


def draw_returns(points: Sequence[Point], keys: Sequence[str], title: str | None = None) -> Figure:
    """A panel for each environment. Where further keys vary, each place shows the best of their values."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: it would look for a screen

    envs = list(dict.fromkeys(point.env for point in points))
    with mpl.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(5.6 * len(envs), 4.2), layout="constrained")
        panels = figure.subplots(1, len(envs), squeeze=False)[0]
        for panel, env in zip(panels, envs, strict=True):
            shown = best_at([point for point in points if point.env == env], keys)
            (_line if len(keys) == 1 else _heat_map)(panel, shown, keys)
            panel.set_title(env, fontsize=11)
        others = [key for key in points[0].values if key not in (*keys, "env")]
        note = f"the best over {', '.join(others)} at each place" if others else None
        figure.suptitle("\n".join(text for text in (title, note) if text), fontsize=11)
    return figure


def best_at(points: Sequence[Point], keys: Sequence[str]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """For each combination of the keys' values the highest estimate, in the values' natural order."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for point in points:
        place = tuple(point.values[key] for key in keys)
        if place not in found or point.told["iqm"] > found[place]["iqm"]:
            found[place] = point.told
    return dict(sorted(found.items(), key=lambda item: [_natural(value) for value in item[0]]))


def _natural(value: str) -> tuple[bool, float, str]:
    """Numbers by their size, before words."""
    try:
        return False, float(value), ""
    except ValueError:
        return True, 0.0, value


def _line(panel: Axes, shown: Mapping[tuple[str, ...], Mapping[str, Any]], keys: Sequence[str]) -> None:
    names = [place[0] for place in shown]
    numeric = not any(_natural(name)[0] for name in names)
    x = [float(name) for name in names] if numeric else list(range(len(names)))
    y = np.array([told["iqm"] for told in shown.values()])
    ends = np.array([[told["iqm"] if end is None else end for end in told["iqm_ci95"]] for told in shown.values()])
    errors = np.abs(ends - y[:, None]).T
    style = "o-" if numeric else "o"
    panel.errorbar(x, y, errors, fmt=style, color=COLOURS[0], capsize=3, linewidth=1.8)
    if numeric and min(x) > 0 and max(x) / min(x) >= 10:
        panel.set_xscale("log")
    elif not numeric:
        panel.set_xticks(x, names)
    panel.set_xlabel(keys[0])
    panel.set_ylabel(f"{LABEL}, 95% interval")
    panel.grid(alpha=0.25, linewidth=0.6)


def _heat_map(panel: Axes, shown: Mapping[tuple[str, ...], Mapping[str, Any]], keys: Sequence[str]) -> None:
    rows, columns = (sorted({place[axis] for place in shown}, key=_natural) for axis in (0, 1))
    grid = np.full((len(rows), len(columns)), np.nan)
    for place, told in shown.items():
        grid[rows.index(place[0]), columns.index(place[1])] = told["iqm"]
    image = panel.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for row, column in np.argwhere(~np.isnan(grid)):
        colour = "white" if grid[row, column] < middle else "black"
        panel.text(column, row, number(grid[row, column]), ha="center", va="center", color=colour, fontsize=9)
    panel.set_yticks(range(len(rows)), rows)
    panel.set_xticks(range(len(columns)), columns)
    panel.set_ylabel(keys[0])
    panel.set_xlabel(keys[1])
    figure = panel.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=panel, label=LABEL)


def draw_profiles(names: Sequence[str], returns: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Performance profiles (Agarwal et al., 2021), a panel for each environment: the share of seeds that earn more than
    a return, with its 95% interval, of each side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.6 * len(returns), 4.2), layout="constrained")
        panels = figure.subplots(1, len(returns), squeeze=False)[0]
        for panel, (env, sides) in zip(panels, returns.items(), strict=True):
            every = [value for side in sides for value in side]
            margin = 0.05 * (max(every) - min(every)) or 1.0
            thresholds = np.linspace(min(every) - margin, max(every) + margin, 201)
            for name, side, colour in zip(names, sides, COLOURS, strict=False):
                share, low, high = performance_profile(side, thresholds)
                panel.plot(thresholds, share, color=colour, linewidth=1.8, label=f"{name[-40:]} ({len(side)})")
                panel.fill_between(thresholds, low, high, color=colour, alpha=0.18, linewidth=0)
            panel.set_title(env, fontsize=11)
            panel.set_xlabel("return")
            panel.set_ylabel("share of seeds that earn more")
            panel.grid(alpha=0.25, linewidth=0.6)
            panel.legend(frameon=False, fontsize=8)
    return figure
