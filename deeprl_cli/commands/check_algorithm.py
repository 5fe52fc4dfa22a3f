"""`deeprl check-algorithm NAME`: whether an algorithm does what the rest of deeprl relies on."""

from __future__ import annotations

from collections.abc import Sequence

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.config.slips import refuse_twice
from deeprl_cli.processes.waiting import wait_politely


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl check-algorithm",
        description="Train an algorithm a few hundred steps at a time, and check its contract: it repeats, goes on "
        "from a checkpoint, trains seeds together as alone, compiles, and acts from its saved weights. Exit code 0 if "
        "all holds, 1 if something doesn't.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="as in algo=NAME: ppo, ./my_algo.py, my_package.my_algo")
    parser.add_argument("--env", metavar="ID", help="where to train (an environment for each kind of its actions)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example algo.batch_size=16")
    flags = parser.parse_intermixed_args(arguments)
    refuse_twice(flags.overrides)
    wait_politely()
    from deeprl_cli.checks.algorithm import check_algorithm

    broken = 0
    for told, problem in check_algorithm(flags.name, flags.env, flags.overrides):
        print(f"{'FAILED' if problem else 'ok    '}  {told}", flush=True)
        if problem:
            print(f"        {problem}", flush=True)
            broken += 1
    return 1 if broken else 0
