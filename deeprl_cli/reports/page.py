"""A page that holds all it shows: blocks of plain values, written as one HTML file without a script or a link outside.

Whatever a block holds is text, escaped when the page is written; only `Markup` (the pictures of chart.py) is taken as
it is. The page's shape and colours are in page.html.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deeprl_cli import __version__
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import atomic_write

TEMPLATE = "page.html"
LARGEST_VIDEOS = 24 << 20  # bytes of films inside a page; beyond it, they are named instead


@dataclass(frozen=True)
class Facts:
    """A few numbers, large; of each what it is, the number, and what is to be said of it."""

    items: Sequence[tuple[str, str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Text:
    """A sentence."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """`right`: the columns that hold numbers; `folded`: its heading, where it is shown only when that is clicked."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    folded: str = ""
    marked: Sequence[int] = ()  # rows that stand out
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A picture, its title, and the names of its lines."""

    title: str
    picture: Markup
    names: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Figures:
    figures: Sequence[Figure]
    folded: str = ""
    kind: str = "figures"


@dataclass(frozen=True)
class Commands:
    """What can be typed, and what it does."""

    lines: Sequence[tuple[str, str]]
    kind: str = "commands"


@dataclass(frozen=True)
class Films:
    """Title and the file of each, the file's bytes inside the page."""

    films: Sequence[tuple[str, str]]
    kind: str = "films"


Block = Facts | Text | Table | Figures | Commands | Films


@dataclass
class Section:
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Page:
    title: str
    status: str  # finished, failed, … a word beside the title
    about: str
    warnings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def add(self, title: str, *blocks: Block | None) -> None:
        """A section of those blocks that there are; none without any."""
        kept = [block for block in blocks if block is not None]
        if kept:
            self.sections.append(Section(title, kept))


def write(page: Page, file: Path) -> None:
    """The page as `file`, whole or not at all. Raises UserError where it can't be written."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = f"deeprl {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M}"
    text = environment.get_template(TEMPLATE).render(page=page, made=made)
    save(text, file)


def save(text: str, file: Path) -> None:
    """`text` as `file`, whole or not at all. Raises UserError where it can't be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, text.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}): give another --out") from error


def films(files: Sequence[Path], titles: Sequence[str]) -> tuple[Films | None, list[str]]:
    """The MP4 files as a block, the first ones first; those that would make the page too large, by name."""
    held, left_out, total = [], [], 0
    for file, title in zip(files, titles, strict=True):
        try:
            size = file.stat().st_size
            if total + size > LARGEST_VIDEOS:
                left_out.append(file.name)
                continue
            data = base64.b64encode(file.read_bytes()).decode()
        except OSError:
            left_out.append(file.name)
            continue
        total += size
        held.append((title, f"data:video/mp4;base64,{data}"))
    return (Films(held) if held else None), left_out
