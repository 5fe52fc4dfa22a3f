"""Curves of runs as a picture: seeds of a group as one line with its bootstrap interval."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprl_cli.reports.curves import Group
from deeprl_cli.reports.intervals import STATISTICS, bootstrap_interval
from deeprl_cli.reports.legend import names as short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3  # panels side by side
# Okabe and Ito's colours, which people who see colours differently tell apart, darkest yellow left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)))
MANY = 8  # lines; with more, bands would cover each other, and the legend stands beside the panels
NAMES = {
    "eval/return_mean": "evaluation return",
    "rollout/return_mean": "training return",
    "eval/length_mean": "evaluation episode length",
    "rollout/length_mean": "training episode length",
}

SEED_NAMED = re.compile(r"\bseed \d+$")  # a label that says whose line it is


def draw(
    groups: Sequence[Group],
    metric: str,
    statistic: str,
    smooth: int,
    bars: dict[str, list[float]],
    title: str | None,
) -> Figure:
    """One panel for each environment; a group has the same colour in all of them."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # no pyplot: it would look for a screen
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    envs = list(dict.fromkeys(group.env for group in groups))
    labels = list(dict.fromkeys(group.label for group in groups))
    many = len(labels) > MANY
    columns = 2 if len(envs) == 4 else min(COLUMNS, len(envs))
    rows = math.ceil(len(envs) / columns)
    counts = {label: sorted({len(group.curves) for group in groups if group.label == label}) for label in labels}
    alike = many and len({tuple(count) for count in counts.values()}) == 1  # then it is said once, above the legend
    counted = {label: "" if alike or SEED_NAMED.search(label) else f" ({_seeds(counts[label])})" for label in labels}
    names = {label: f"{name}{counted[label]}" for label, name in short_names(groups).items()}
    width, height = (6.4 if columns == 1 else 4.2 * columns), (3.8 if columns == 1 else 3.1) * rows + 0.7
    entries, longest = len(labels) + bool(bars), max(map(len, names.values()))
    if many:
        beside = math.ceil(entries / max(18, int((height - 0.6) / 0.18)))  # columns of the legend
        width += (0.068 * longest + 0.6) * beside
        height = max(height, 0.18 * math.ceil(entries / beside) + 0.6)
    else:
        beside = max(1, int(width / (0.085 * longest + 0.55)))  # entries in a row
        height += 0.21 * math.ceil(entries / beside)
    # a name with two $ in it is a name, not mathematics
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        lines: dict[str, Any] = {}
        bar_line: Any = None
        for panel, env in zip(panels, envs, strict=False):
            for one in (one for one in groups if one.env == env):
                line = _line(panel, one, labels.index(one.label), statistic, smooth, band=not many)
                lines.setdefault(names[one.label], line)
            for bar in [*bars.get("", []), *(bars.get(env, []) if env else [])]:
                bar_line = panel.axhline(bar, color="#666666", linestyle=(0, (5, 3)), linewidth=1.1)
            _dress(panel, env)
        for panel in panels[len(envs) :]:
            panel.set_visible(False)
        for index, panel in enumerate(panels[: len(envs)]):
            if index + columns >= len(envs):  # nothing below it
                panel.set_xlabel("environment steps of one seed")
            if index % columns == 0:
                panel.set_ylabel(NAMES.get(metric, metric))
        if many and len(envs) == 1:  # from top to bottom, as the lines end
            lines = dict(sorted(lines.items(), key=lambda item: -float(item[1].get_ydata()[-1])))
        if bar_line is not None:
            lines["bar"] = bar_line
        figure.legend(
            lines.values(),
            list(lines),
            loc="outside right upper" if many else "outside lower center",
            ncols=min(len(lines), beside),
            frameon=False,
            fontsize=8 if many else None,
            title=_note(groups, statistic, smooth, many, _seeds(counts[labels[0]]) if alike else ""),
            title_fontsize=8,
        )
        if title:
            figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure


def _line(panel: Axes, group: Group, index: int, statistic: str, smooth: int, band: bool) -> Any:
    """The group's statistic over seeds, with its interval as a band where that is wanted."""
    steps, values = group.on_a_grid(smooth)
    colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
    marker = "o" if len(steps) == 1 else ""
    centre = STATISTICS[statistic](values, 0)
    (line,) = panel.plot(
        steps, centre, color=colour, linestyle=dash, marker=marker, linewidth=1.8 if band else 1.4, label=group.label
    )
    if not band:
        return line
    low, high = bootstrap_interval([values], STATISTICS[statistic])
    if len(values) > 1 and len(steps) == 1:
        panel.errorbar(steps, centre, [centre - low, high - centre], color=colour, capsize=3)
    elif len(values) > 1:
        panel.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    return line


def _dress(panel: Axes, env: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    panel.set_title(env, fontsize=11)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k, 1.5M
    panel.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    panel.margins(x=0.02)


def _seeds(counts: Sequence[int]) -> str:
    """How many seeds a line stands for, as the legend says it; `counts` in rising order, one for each panel."""
    return f"{'–'.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} seed{'s' if counts[-1] > 1 else ''}"


def _note(groups: Sequence[Group], statistic: str, smooth: int, many: bool, seeds: str) -> str:
    """What lines and bands are; lines of its own for each where the legend is narrow."""
    parts = []
    if any(len(group.curves) > 1 for group in groups):
        centre = f"{'interquartile mean' if statistic == 'iqm' else 'mean'} over seeds"
        parts = [centre, "no intervals: too many lines"] if many else [f"{centre}, shaded: 95% bootstrap interval"]
    parts += [f"each point the mean of the last {smooth}"] * (smooth > 1)
    return "\n".join([*parts, *[f"{seeds} each"] * bool(seeds)]) if many else "; ".join(parts)


def save(figure: Figure, file: Path) -> None:
    """Write the picture; the same figure always gives the same file. OSError where the disk refuses."""
    import matplotlib as mpl

    # without the date, and with ids from a constant, the same runs give the same file
    with mpl.rc_context({"svg.hashsalt": "deeprl"}):
        figure.savefig(file, dpi=160, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
