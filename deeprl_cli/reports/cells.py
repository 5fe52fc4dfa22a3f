"""Numbers as the cells of a table show them, on a screen or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def clock(seconds: float | None) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`."""
    if seconds is None:
        return "–"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def number(value: float | None) -> str:
    """Four digits or so: `489.3`, `-12.99`, `0.745`; a dash for what isn't known."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"


def interval(ends: Sequence[float | None]) -> str:
    return "–" if None in ends else f"[{number(ends[0])}, {number(ends[1])}]"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
