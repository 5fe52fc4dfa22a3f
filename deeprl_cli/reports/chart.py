"""Small SVG pictures for a page: their colours are the page's own, light or dark, and they need no library to be drawn.

Every text in them is escaped. Shapes: P points of a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deeprl_cli.reports.cells import number

Array = NDArray[np.float64]

WIDTH, HEIGHT = 480, 270  # of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40  # its margins
COLOURS = 7  # that the page has: .c0, .c1, …
DRAWN = 240  # points of a line: more than a picture of this size can show
ROW = 19  # height of an interval's row
_NOTHING = Markup("")
FARTHEST = 1e300  # beyond it, the arithmetic of an axis overflows


@dataclass
class Line:
    """What seeds come to together, `centre` `(P,)` between `low` and `high` (none of one seed), and each by itself."""

    name: str
    steps: Array
    centre: Array
    low: Array | None = None
    high: Array | None = None
    seeds: list[tuple[Array, Array]] = field(default_factory=list)


@dataclass(frozen=True)
class Interval:
    """A value and its interval, as a row; `low` and `high` None: it has none. `best` stands out, what is `alike` has
    its colour."""

    name: str
    value: float
    low: float | None
    high: float | None
    best: bool = False
    alike: bool = False


def curves(lines: Sequence[Line], label: str, x_label: str = "environment steps of one seed") -> Markup:
    """The lines over their steps, `label` for what they show; of what isn't finite, nothing."""
    x_ends = _ends([*(line.steps for line in lines), *(steps for line in lines for steps, _ in line.seeds)])
    shown = [values for line in lines for values in (line.centre, line.low, line.high) if values is not None]
    y_ends = _ends([*shown, *(values for line in lines for _, values in line.seeds)])
    x_ticks, y_ticks = _ticks(*x_ends, most=5), _ticks(*y_ends, most=5)
    low, high = min(y_ends[0], y_ticks[0]), max(y_ends[1], y_ticks[-1])

    def place(steps: Array, values: Array) -> Array:
        x = LEFT + (steps - x_ends[0]) / (x_ends[1] - x_ends[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (values - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return np.stack([x, y], 1)

    parts = []
    for tick in y_ticks:
        (_, y) = place(np.array([x_ends[0]]), np.array([tick]))[0]
        parts.append(_tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(LEFT - 6, y + 4, _short(tick), anchor="end"))
    for tick in x_ticks:
        (x, _) = place(np.array([tick]), np.array([low]))[0]
        parts.append(_text(x, HEIGHT - BOTTOM + 16, _short(tick), anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, anchor="middle"))
    for index, line in enumerate(lines):
        colour = f"c{index % COLOURS}"
        steps, centre = _thinned(line.steps, line.centre)
        if line.low is not None and line.high is not None:
            grid, bottom = _thinned(line.steps, line.low)
            _, top = _thinned(line.steps, line.high)
            outline = np.concatenate([place(grid, top), place(grid, bottom)[::-1]])
            if len(grid) > 1:
                parts.append(_tag("polygon", points=_points(outline), class_=f"band {colour}"))
        own = [_points(place(*_thinned(*seed))) for seed in line.seeds]
        parts += [_tag("polyline", points=points, class_=f"seed {colour}") for points in own]
        spots = place(steps, centre)
        if len(spots) > 1:
            title = Markup("<title>{}</title>").format(line.name)
            parts.append(_tag("polyline", title, points=_points(spots), class_=f"line {colour}"))
        elif len(spots):
            parts.append(_tag("circle", cx=spots[0][0], cy=spots[0][1], r=3.5, class_=f"dot {colour}"))
    return _svg(WIDTH, HEIGHT, f"{label} over {x_label}", parts)


def intervals(rows: Sequence[Interval], label: str) -> Markup:
    """A row for each value: a dot, its interval, and its name above the line that it stands on."""
    known = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    low, high = _ends([np.array(known)])
    ticks = _ticks(low, high, most=5)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    height = TOP + 2 * ROW * len(rows) + BOTTOM

    def x_of(value: float) -> float:
        return 12 + (value - low) / (high - low) * (WIDTH - 24)

    parts = []
    for tick in ticks:
        x = x_of(tick)
        parts.append(_tag("line", x1=x, x2=x, y1=TOP, y2=height - BOTTOM, class_="grid"))
        anchor = "start" if x < 24 else "end" if x > WIDTH - 24 else "middle"
        parts.append(_text(x, height - BOTTOM + 16, _short(tick), anchor=anchor))
    parts.append(_text(WIDTH / 2, height - 6, label, anchor="middle"))
    for index, row in enumerate(rows):
        y = TOP + 2 * ROW * index + 1.5 * ROW
        parts.append(_text(12, y - 9, row.name, anchor="start", strong=row.best))
        parts.append(_text(WIDTH - 12, y - 9, number(row.value), anchor="end", strong=row.best))
        colour = "c0" if row.best or row.alike else "c6"
        if row.low is not None and row.high is not None:
            parts.append(_tag("line", x1=x_of(row.low), x2=x_of(row.high), y1=y, y2=y, class_=f"line {colour}"))
        parts.append(_tag("circle", cx=x_of(row.value), cy=y, r=4, class_=f"dot {colour}"))
    return _svg(WIDTH, height, label, parts)


def _svg(width: int, height: int, label: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, Markup("").join(parts)
    )


def _tag(name: str, inside: Markup = _NOTHING, **values: object) -> Markup:
    told = Markup(" ").join(
        Markup('{}="{}"').format(key.rstrip("_"), f"{value:.1f}" if isinstance(value, float) else value)
        for key, value in values.items()
    )
    return Markup("<{} {}>{}</{}>").format(name, told, inside, name)


def _text(x: float, y: float, text: str, anchor: str, strong: bool = False) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
        x, y, anchor, Markup(' class="strong"') if strong else "", text
    )


def _points(spots: Array) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)


def _ends(values: Iterable[Array]) -> tuple[float, float]:
    """The lowest and highest finite number, apart from each other."""
    known = np.concatenate([np.ravel(value) for value in values] or [np.zeros(1)])
    known = known[np.isfinite(known) & (np.abs(known) < FARTHEST)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 1.0
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between the two, at most `most` + 1 of them."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)] or [low]


def _short(value: float) -> str:
    """`50k`, `1.5M`, `0.002`."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


def _thinned(steps: Array, values: Array) -> tuple[Array, Array]:
    """The finite points; of many, as many as can be seen, the first and the last among them."""
    kept = np.isfinite(values) & (np.abs(values) < FARTHEST)
    steps, values = steps[kept], values[kept]
    if len(steps) > DRAWN:
        chosen = np.unique(np.linspace(0, len(steps) - 1, DRAWN).round().astype(int))
        steps, values = steps[chosen], values[chosen]
    return steps, values
