"""`deeprl sweep DIR`: shows the table of a sweep, also while it runs: which setting is best, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from shlex import quote

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.errors import UserError


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl sweep",
        description="Which setting of a sweep (`deeprl train -m`) is best, and how sure that is: one row for each "
        "setting, with its seeds together. For a sweep that is still running, it also shows what is left.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweep", nargs="?", default="latest", metavar="SWEEP", help="runs/sweeps/<time>, or a part of it (the latest)"
    )
    parser.add_argument("--by", choices=["last", "best"], default="last", help="which policy's return decides (last)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    flags = parser.parse_args(arguments)
    show_sweep(flags.sweep, policy=flags.by, as_json=flags.json)
    return 0


def show_sweep(name: str, *, policy: str, as_json: bool) -> None:
    """Print the table of the sweep called `name`, as it is now. Raises UserError where there is none."""
    from deeprl_cli.runs.catalogue import find
    from deeprl_cli.runs.folder import atomic_write
    from deeprl_cli.runs.sweep_folder import read_sweep
    from deeprl_cli.sweeps import table
    from deeprl_cli.sweeps.bands import write_bands

    folder = find(name, "sweep")
    sweep = read_sweep(folder)
    if as_json:
        print(json.dumps({"sweep": str(folder), "running": sweep.alive, **table.as_json(sweep.jobs, policy)}))
        return
    if not sweep.alive:  # runs were resumed since, or the files are missing; while a sweep runs, it writes them itself
        try:
            for name, text in table.files(sweep.jobs, folder.resolve().name).items():
                atomic_write(folder / name, text.encode())
            write_bands(folder, sweep.jobs)
        except OSError as error:
            raise UserError(
                f"{folder}: can't be written ({error.strerror}); --json prints the results instead"
            ) from error
    table.show(sweep.jobs, policy)
    print(table.progress(sweep) + ("" if sweep.alive else f"; {folder / 'sweep.csv'}"))
    if any(job["status"] == "done" for job in sweep.jobs):
        shown = quote(str(folder))
        print(f"its curves: deeprl plot {shown}; the best on fresh episodes: deeprl eval {shown}")
