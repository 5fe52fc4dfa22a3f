"""`deeprl bench SUITE`: train the rows of a suite, and compare their returns with its bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deeprl_cli.commands.arguments import Parser, positive
from deeprl_cli.config.files import suite_names
from deeprl_cli.errors import UserError

PIPED_WIDTH = 160  # columns where there is no terminal to ask


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl bench",
        description="Train the rows of a suite, several seeds each, and compare their returns with bars. "
        "Rows that are done are not run again.",
        allow_abbrev=False,
    )
    parser.add_argument("suite", metavar="SUITE", help=f"{', '.join(suite_names())}, or a YAML file of your own")
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="PATTERN", help="only rows like dqn-*"
    )
    parser.add_argument("--seeds", type=positive, metavar="N", help="seeds of each row (default: the row's own)")
    parser.add_argument(
        "--env-version", metavar="vN", help="this version of every environment (v5: HalfCheetah-v5), without bars"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where runs and results go (runs/bench/SUITE, or SUITE-vN)"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="how many rows to run at a time (1)")
    parser.add_argument("--fresh", action="store_true", help="run all rows again, even those that are done")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    flags = parser.parse_args(arguments)
    return run_bench(
        flags.suite,
        only=flags.only,
        seeds=flags.seeds,
        env_version=flags.env_version,
        out=flags.out,
        jobs=flags.jobs,
        fresh=flags.fresh,
        as_json=flags.json,
    )


def run_bench(
    name: str,
    *,
    only: Sequence[str] = (),
    seeds: int | None = None,
    env_version: str | None = None,
    out: Path | None = None,
    jobs: int = 1,
    fresh: bool = False,
    as_json: bool = False,
) -> int:
    """`deeprl bench`: the exit code, 0 when every chosen row passes, 1 when one doesn't, 130 or 143 when stopped.

    Raises UserError where the suite can't be read or the folder can't be used.
    """
    from rich.console import Console

    from deeprl_cli.bench import report
    from deeprl_cli.bench.runner import Bench, alone_in, stop_on_signals
    from deeprl_cli.bench.suite import choose, load_suite

    suite = load_suite(name, seeds, env_version)
    chosen = {row.name for row in choose(suite, only)}
    out = Path("runs", "bench", suite.name) if out is None else out.expanduser()
    stream = sys.stderr if as_json else sys.stdout
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else PIPED_WIDTH)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone_in(out), stop_on_signals() as signals:
            bench = Bench(suite, chosen, out.resolve(), jobs, fresh, console)
            bench.run(signals)
            results = report.write(out, suite, bench.records())
    except OSError as error:
        where = error.filename or out
        raise UserError(f"{where}: can't be written ({error.strerror}): give another --out") from error
    records = [record for record in results["rows"] if record["name"] in chosen]
    report.show(console, records)
    console.print(f"{out / 'results.md'}, {out / 'results.json'}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    if signals.received is not None:
        return 128 + signals.received
    return 0 if all(record["status"] in report.GOOD for record in records) else 1
