"""`deeprl <verb> …`, dispatched by hand: Hydra, torch and the rest are imported by the verb that needs them."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from deeprl_cli import __version__
from deeprl_cli.errors import UserError, did_you_mean
from deeprl_cli.waiting import wait_politely

HELP = """\
deeprl: deep reinforcement learning from the command line.

  deeprl train algo=sac env=Pendulum-v1       train; any gymnasium id, any key=value
  deeprl train -m algo=ppo,dqn seed=0,1,2     one run for each combination
  deeprl resume runs/sac/Pendulum-v1/<time>   go on with a run that was stopped
  deeprl verify runs/sac/Pendulum-v1/<time>   train it again: are the numbers the same here?
  deeprl eval runs/sac/Pendulum-v1/<time>     returns of the trained policy
  deeprl list algos|envs|networks|hardware    what there is
  deeprl bench classic                        train a suite, hold its returns against bars
  deeprl plot runs/ppo runs/a2c               curves of runs as a picture, with intervals over seeds
  tensorboard --logdir runs                   curves

`deeprl <verb> --help` says more; `deeprl --version` prints the version.
Shell completion: eval "$(deeprl train -sc install=bash)"  (or zsh, fish)
"""

TRAIN_HELP = """\
deeprl train [key=value …] [flags]

  deeprl train algo=ppo env=CartPole-v1             every key has a default
  deeprl train algo=sac env=HalfCheetah-v5 seeds=4  four seeds together, in one process
  deeprl train algo=ppo algo.lr=1e-3 'algo.hidden=[64,64]' total_steps=1e6
  deeprl train env=FrozenLake-v1 env.kwargs.map_name=8x8
  deeprl train -m algo=ppo,dqn env=CartPole-v1,Acrobot-v1 seed=0,1,2

Groups, each group=option:
{groups}
Keys of the run: seed, seeds, total_steps, eval.*, checkpoint.*, log.*, init_from, run_dir; below the groups: algo.*,
env.*, network.*, hardware.*. Steps are environment steps of one seed.
Precedence, later wins: algo, env, network and hardware, tuned (found for the pair by itself), experiment, command line.

Flags:
  -m, --multirun         one run for each combination of comma-separated values; all are checked before the first starts
                         (side by side with hydra/launcher=joblib, submitit_local, submitit_slurm or ray)
  --check                build everything, do one update, and say what the run will take; nothing is left
  --explain              print every value and where it came from: which file, or the command line
  -c, --cfg job          print the configuration instead of running it (also: hydra, all)
  -p, --package PART     with --cfg: only this part, for example algo
  --resolve              with --cfg: interpolations resolved
  -sc install=SHELL      print the shell's completion script (bash, zsh, fish)
  -h, --help             this text
"""


TRUST = "import the module that the run's environment names (module:Id); it runs code"


class Parser(argparse.ArgumentParser):
    """argparse, its errors as ours: one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` says what there is")


def main(argv: Sequence[str] | None = None) -> None:
    """The program. Exit code 0; 2 for what the user can mend, said in one line; 1 for anything else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = run(arguments)
        sys.stdout.flush()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"deeprl: {line}", file=sys.stderr)
        code = error.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `deeprl list envs | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    if code:
        sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Dispatch on the verb; the exit code. Raises UserError."""
    verb, *rest = arguments or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if verb in ("-V", "--version"):
        print(f"deeprl {__version__}")
        return 0
    if verb in ("-sc", "--shell-completion"):
        return _complete(rest)  # the installed scripts ask the program, not the verb
    if verb not in VERBS:
        raise _unknown_verb(verb)
    return VERBS[verb](rest)


def _unknown_verb(verb: str) -> UserError:
    if "=" in verb or verb in ("-m", "--multirun", "-c", "--cfg"):
        return UserError(f"'{verb}' needs a verb before it: deeprl train {verb} …")
    return UserError(f"unknown verb '{verb}'{did_you_mean(verb, VERBS)}; there are {', '.join(VERBS)}")


def train_verb(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl train", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    flags, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise _unknown_flag(unknown[0], [name for action in parser._actions for name in action.option_strings])
    if flags.help:
        print(TRAIN_HELP.format(groups=_groups_help()), end="")
        return 0
    if flags.shell_completion:
        return _complete(flags.overrides)
    if (flags.package or flags.resolve) and not flags.cfg:
        raise UserError("--package and --resolve go with --cfg: deeprl train --cfg job …")

    from deeprl_cli import config

    if flags.cfg:
        if flags.multirun:
            raise UserError("--cfg shows one run: leave out -m, and give one value for each key")
        if flags.cfg == "job":
            config.load_config(flags.overrides)  # what wouldn't train isn't shown either
        print(config.config_text(flags.overrides, flags.cfg, flags.package, flags.resolve), end="")
        return 0
    if flags.explain:
        if flags.multirun:
            raise UserError("--explain is about one run: leave out -m, and give one value for each key")
        from deeprl_cli.config_explain import explain, table

        config.load_config(flags.overrides)  # what wouldn't train isn't explained either
        print(table(explain(flags.overrides)))
        return 0
    if flags.multirun:
        if flags.check:
            raise UserError("--check looks at one run; a sweep checks all of its runs before the first starts")
        from deeprl_cli.sweep import run_sweep

        return run_sweep(flags.overrides)
    if flags.check:
        from deeprl_cli.check import check

        print(check(config.load_config(flags.overrides)))
        return 0
    return _train_one(flags.overrides)


def _train_one(overrides: Sequence[str]) -> int:
    wait_politely()
    from deeprl_cli import config

    run_config = config.load_config(overrides)

    from deeprl_cli.train import train

    train(run_config)  # its first act is the preflight
    return 0


def _unknown_flag(flag: str, known: Sequence[str]) -> UserError:
    name, equals, value = flag.lstrip("-").partition("=")
    if equals:
        return UserError(f"'{flag}': keys are written without dashes: {name}={value}")
    return UserError(f"unknown flag '{flag}'{did_you_mean(flag, known)}; keys are written without dashes: {name}=…")


def _groups_help() -> str:
    """One line for each group and its options."""
    from deeprl_cli.config_files import GROUPS, group_options

    notes = {"env": "any gymnasium id: Pendulum-v1, ALE/Pong-v5, module:Name-v0", "tuned": "none refuses tuned values"}
    lines = [f"  {group:<11}{notes.get(group) or ', '.join(group_options(group)) or 'none yet'}" for group in GROUPS]
    return "\n".join(lines) + "\n"


def _complete(arguments: Sequence[str]) -> int:
    """Hydra completes the overrides of `train`; the verbs, and the words of the others, are completed here."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")[1:]
    if any(argument.startswith("query=") for argument in arguments) and (len(words) < 2 or words[0] != "train"):
        from deeprl_cli.config_files import suite_names

        follow = {"list": _words_of_list(), "bench": suite_names()}
        choices = follow.get(words[0], []) if len(words) > 1 else list(VERBS)
        print(" ".join(choice for choice in choices if choice.startswith(words[-1] if words else "")))
        return 0

    from deeprl_cli.config_launch import shell_completion

    with contextlib.redirect_stdout(io.StringIO()) as offered:
        shell_completion(arguments)
    # Hydra takes every folder of configurations for a group, the suites of `deeprl bench` too
    print(re.sub(r"(?<!\S)bench[=/]\S* ?", "", offered.getvalue()), end="")
    return 0


def _words_of_list() -> list[str]:
    return ["algos", "envs", "networks", "hardware"]


def eval_verb(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl eval", description="Returns of a trained policy.", allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder: runs/<algo>/<env>/<time>")
    parser.add_argument("--episodes", type=_positive, default=100, metavar="N", help="episodes of each seed (100)")
    parser.add_argument("--seed", type=_natural, metavar="K", help="only this one of the run's seeds (default: all)")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which weights (best)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the policy's mode")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--video", type=Path, metavar="DIR", help="write videos of episodes into this folder")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    flags = parser.parse_args(arguments)

    from deeprl_cli.evaluate import evaluate_run

    evaluate_run(
        flags.run,
        trust=flags.trust,
        episodes=flags.episodes,
        seed=flags.seed,
        checkpoint=flags.checkpoint,
        stochastic=flags.stochastic,
        as_json=flags.json,
        video=flags.video,
    )
    return 0


def resume_verb(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl resume",
        description="Go on with a run from its last checkpoint, as if it had never stopped.",
        epilog="total_steps=…, eval.*, checkpoint.*, log.* and hardware.* may be given anew; schedules keep the "
        "horizon that the run started with, unless horizon=… is given.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder: runs/<algo>/<env>/<time>")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example total_steps=1e6")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    flags = parser.parse_intermixed_args(arguments)

    wait_politely()

    from deeprl_cli.resume import resume

    resume(flags.run, flags.overrides, trust=flags.trust)
    return 0


def verify_verb(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl verify",
        description="Train a run again from its config.yaml and compare the weights, hash by hash. Exit code 0 where "
        "all agree, 1 where they part.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder: runs/<algo>/<env>/<time>")
    parser.add_argument("--steps", type=_positive, metavar="N", help="only the first N environment steps")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    flags = parser.parse_args(arguments)

    wait_politely()

    from deeprl_cli.verify import verify

    return verify(flags.run, steps=flags.steps, trust=flags.trust)


def list_verb(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl list", description="What there is to choose from.", allow_abbrev=False)
    parser.add_argument("what", choices=_words_of_list(), help="which kind of thing")
    parser.add_argument(
        "filter", nargs="?", default="", help="only names that hold this text; few enough are described"
    )
    flags = parser.parse_args(arguments)

    from deeprl_cli import listing

    listing.show(flags.what, flags.filter)
    return 0


def bench_verb(arguments: Sequence[str]) -> int:
    from deeprl_cli.config_files import suite_names

    parser = Parser(
        prog="deeprl bench",
        description="Train the rows of a suite, several seeds each, and hold their returns against bars. "
        "Rows that are done already are not run again.",
        allow_abbrev=False,
    )
    parser.add_argument("suite", metavar="SUITE", help=f"{', '.join(suite_names())}, or a YAML file of your own")
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="PATTERN", help="only rows like dqn-*"
    )
    parser.add_argument("--seeds", type=_positive, metavar="N", help="seeds of each row (default: the row's own)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where runs and results go (runs/bench/SUITE)")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="rows side by side (1)")
    parser.add_argument("--fresh", action="store_true", help="run again what is done, too")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    flags = parser.parse_args(arguments)

    from deeprl_cli.bench import run_bench

    return run_bench(
        flags.suite,
        only=flags.only,
        seeds=flags.seeds,
        out=flags.out,
        jobs=flags.jobs,
        fresh=flags.fresh,
        as_json=flags.json,
    )


def plot_verb(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl plot",
        description="Draw the curves of runs: one panel for each environment, seeds of a group as one line with its "
        "95% bootstrap interval.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run, or a folder of runs: all below it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .png or .svg (default: <metric>.png there)")
    parser.add_argument("--metric", default="eval/return_mean", help="a column of metrics.csv (eval/return_mean)")
    parser.add_argument(
        "--group", default="algo", metavar="KEY[,KEY…]", help="one line for each value of: env, algo.lr, run, … (algo)"
    )
    parser.add_argument("--statistic", choices=["iqm", "mean"], default="iqm", help="over seeds (iqm)")
    parser.add_argument("--smooth", type=_positive, default=1, metavar="N", help="mean of the last N points (1)")
    parser.add_argument(
        "--bar", action="append", default=[], metavar="[ENV=]VALUE", help="a dashed line, in ENV's panel only"
    )
    parser.add_argument("--title", help="above everything")
    flags = parser.parse_args(arguments)

    from deeprl_cli.plot import plot_runs

    plot_runs(
        flags.runs,
        out=flags.out,
        metric=flags.metric,
        group=flags.group,
        statistic=flags.statistic,
        smooth=flags.smooth,
        bars=flags.bar,
        title=flags.title,
    )
    return 0


def _positive(text: str) -> int:
    return _whole(text, 1)


def _natural(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
    return int(text)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_verb,
    "resume": resume_verb,
    "verify": verify_verb,
    "eval": eval_verb,
    "list": list_verb,
    "bench": bench_verb,
    "plot": plot_verb,
}
