"""`deeprl report RUN|SWEEP|SUITE`: one HTML file that shows everything, to send to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.errors import UserError

if TYPE_CHECKING:
    from deeprl_cli.reports.page import Page

PAGE, CARD = "report.html", "README.md"


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl report",
        description="Write one HTML file with everything in it: returns and curves with their intervals, every value "
        "and where it comes from, machine and versions, videos, warnings, and the commands to repeat it.",
        allow_abbrev=False,
    )
    what = "a run or a sweep: its folder, its name, a part of either that no other has, or latest; or a suite's folder"
    parser.add_argument("folder", type=Path, metavar="RUN|SWEEP|SUITE", help=f"{what} (runs/bench/<suite>)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the file to write ({PAGE} in that folder)")
    parser.add_argument(
        "--card", action="store_true", help=f"write the Markdown that model hubs expect instead ({CARD} in that folder)"
    )
    flags = parser.parse_args(arguments)
    print(report(flags.folder, out=flags.out, as_card=flags.card))
    return 0


def report(path: Path, *, out: Path | None, as_card: bool) -> Path:
    """Write the report of `path`; returns the file. Raises UserError."""
    from deeprl_cli.runs.catalogue import find_any
    from deeprl_cli.runs.folder import CONFIG_NAME, find_run

    folder = find_any(path)
    kind = _kind(folder)
    if kind == "run" and not (folder / CONFIG_NAME).is_file():
        folder = find_run(folder)
    name = CARD if as_card else PAGE
    file = folder / name if out is None else out.expanduser()
    if file.is_dir():
        file = file / name
    wanted = (".md",) if as_card else (".html", ".htm")
    if file.suffix.lower() not in wanted:
        raise UserError(f"--out {out}: must end in {wanted[0]}: for example {file.with_suffix(wanted[0])}")
    if as_card:
        from deeprl_cli.reports.card import card
        from deeprl_cli.reports.page import save

        if kind != "run":
            raise UserError(f"--card: {folder} is a {kind}, and a model card describes one run: name a run")
        save(card(folder), file)
        return file
    from deeprl_cli.reports.page import write

    write(_page(folder, kind), file)
    return file


def _kind(folder: Path) -> str:
    from deeprl_cli.bench.page import RESULTS
    from deeprl_cli.runs.sweep_folder import SWEEP_NAME

    if (folder / SWEEP_NAME).is_file():
        return "sweep"
    return "suite" if (folder / RESULTS).is_file() else "run"


def _page(folder: Path, kind: str) -> Page:
    if kind == "sweep":
        from deeprl_cli.sweeps.page import sweep_page

        return sweep_page(folder)
    if kind == "suite":
        from deeprl_cli.bench.page import suite_page

        return suite_page(folder)
    from deeprl_cli.reports.run_page import run_page

    return run_page(folder)
