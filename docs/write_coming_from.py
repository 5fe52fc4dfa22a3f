"""Writes the tables of `coming_from.md` from `deeprl_cli/config/elsewhere.py`: `python -m docs.write_coming_from`."""

from __future__ import annotations

from pathlib import Path

from deeprl_cli.config.elsewhere import LIBRARIES, TABLE, Name

PAGE = Path(__file__).parent / "coming_from.md"
BEGIN, END = "<!-- names: begin -->\n", "<!-- names: end -->\n"


def tables() -> str:
    parts = []
    for title, rows in TABLE.items():
        head = f"| {' | '.join(LIBRARIES.values())} | here |\n|---|---|---|---|\n"
        parts.append(f"### {title}\n\n{head}" + "".join(map(_line, rows)))
    return "\n" + "\n".join(parts) + "\n"


def _line(row: Name) -> str:
    theirs = [", ".join(f"`{name}`" for name in row.names(library)) for library in LIBRARIES]
    here = " or ".join(f"`{text.replace('{}', '…')}`" for text in row.here)
    here += f"; {row.note}" if here and row.note else row.note
    return f"| {' | '.join([*theirs, here])} |\n"


def written(page: str) -> str:
    """`page` with its tables written anew."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + tables() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
