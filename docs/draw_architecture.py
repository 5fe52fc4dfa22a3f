"""Draws `images/architecture.svg` from the floors in `tests/test_imports.py`: `python -m docs.draw_architecture`."""

from __future__ import annotations

from html import escape
from pathlib import Path

from tests.test_imports import FLOORS, MODULES

WIDTH, FLOOR_HEIGHT, GAP = 760, 34, 8
FILL = ("#eef4fb", "#dbe8f6")  # files and folders


def svg() -> str:
    floors = [[room for room in rooms if room] for rooms in reversed(FLOORS)]
    height = len(floors) * (FLOOR_HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="14" text-anchor="middle">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, rooms in enumerate(floors):
        top = GAP + index * (FLOOR_HEIGHT + GAP)
        width = (WIDTH - GAP) / len(rooms)
        for place, room in enumerate(rooms):
            folder = any(name.startswith(f"{room}.") for name in MODULES)
            label = f"{room}/" if folder else f"{room}.py"
            left = GAP + place * width
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width - GAP:.0f}" height="{FLOOR_HEIGHT}" rx="4" '
                f'fill="{FILL[folder]}" stroke="#7a93ad"/>'
                f'<text x="{left + (width - GAP) / 2:.0f}" y="{top + 22}">{escape(label)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "images" / "architecture.svg").write_text(svg(), encoding="utf-8")
