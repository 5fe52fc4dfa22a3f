"""`deeprl <verb> …`, dispatched by hand: Hydra, torch and the rest are imported by the verb that needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from deeprl_cli import __version__
from deeprl_cli.commands import VERBS
from deeprl_cli.errors import UserError, did_you_mean
from deeprl_cli.processes.ending import end_in_time, outlast_closing

HELP = """\
deeprl: deep reinforcement learning from the command line.

First steps:
  1. deeprl train algo=ppo env=CartPole-v1  train; this takes about a minute
  2. deeprl eval latest                     the return of the trained policy
  3. deeprl plot latest                     its learning curve as a picture
  (if something doesn't work: deeprl doctor)

Verbs:
  deeprl train algo=sac env=Pendulum-v1     train; any gymnasium id, any key
  deeprl train -m algo=ppo,dqn seed=0,1,2   train a run for each combination
  deeprl resume RUN                         continue a run, or train it further
  deeprl verify RUN                         train it again: the same numbers?
  deeprl eval RUN…                          play the policy; a table of several
  deeprl watch RUN                          see it play, in a window or browser
  deeprl export RUN --to onnx|torch         the policy as one file
  deeprl plot runs/ppo runs/a2c             learning curves, with intervals
  deeprl report RUN                         one HTML file to show to others
  deeprl list runs                          your runs: status, steps, return
  deeprl compare runs/a --against runs/b    do they differ? how sure is that?
  deeprl sweep runs/sweeps/<time>           the best setting; how sure is that?
  deeprl tune algo=ppo env=CartPole-v1      search hyper-parameters
  deeprl bench classic                      train a suite; compare it with bars
  deeprl list algos|envs|networks|hardware  what you can choose from
  deeprl new algorithm my_algo              files for an algorithm of your own
  deeprl check-algorithm ./my_algo.py       does it do what deeprl relies on?
  deeprl doctor                             what this machine has, and lacks
  tensorboard --logdir runs                 all curves in your browser

RUN is a run's folder (runs/<algo>/<env>/<time>), its name, a part of either, or
latest.
`deeprl <verb> --help` says more; `deeprl --version` prints the version.
Shell completion: eval "$(deeprl train -sc install=bash)"  (or zsh, fish)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The program. Exit code 0; 2 for what the user can mend, said in one line; 1 for anything else."""
    arguments, out = list(sys.argv[1:] if argv is None else argv), sys.stdout
    if argv is None:
        outlast_closing()
    code = 1
    try:
        code = run(arguments)
        out.flush()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"deeprl: {line}", file=sys.stderr)
        code = error.code
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else code
        raise
    except KeyboardInterrupt:
        print("deeprl: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `deeprl list envs | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        code = 141
    finally:
        if argv is None:
            end_in_time(code)
    if code:
        sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Dispatch on the verb, a module of `commands/`; the exit code. Raises UserError."""
    verb, *rest = arguments or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if verb in ("-V", "--version"):
        print(f"deeprl {__version__}")
        return 0
    if verb in ("-sc", "--shell-completion"):
        from deeprl_cli.commands.completion import complete

        return complete(rest)  # the installed scripts ask the program, not the verb
    if verb not in VERBS:
        raise _unknown_verb(verb)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the folder you are in is not there any more: change to another (cd)") from None
    code: int = import_module(f"deeprl_cli.commands.{verb.replace('-', '_')}").run(rest)
    return code


# what others call a verb
_OTHER_VERBS = {
    "train": "run fit learn start multirun",
    "tune": "optimize optimise hpo search",
    "eval": "evaluate test record video predict score",
    "watch": "enjoy play render view live",
    "export": "save onnx convert deploy",
    "resume": "continue restart load restore",
    "verify": "reproduce replicate",
    "list": "ls show algos envs environments networks hardware info",
    "bench": "benchmark suite",
    "plot": "curves graph draw figure",
    "report": "html card summary summarize share",
}


def _unknown_verb(verb: str) -> UserError:
    if "=" in verb or verb in ("-m", "--multirun", "-c", "--cfg", "--check", "--explain"):
        return UserError(f"'{verb}' needs a verb before it: deeprl train {verb} …")
    other = next((known for known, names in _OTHER_VERBS.items() if verb.lower() in names.split()), None)
    if other:
        return UserError(f"unknown verb '{verb}': here it is deeprl {other} …; `deeprl {other} --help` says more")
    if verb.lower() in ("-v", "version"):
        return UserError(f"'{verb}': write deeprl --version")
    from deeprl_cli.config.slips import option

    if (meant := option(verb)) is not None:
        return UserError(f"unknown verb '{verb}': write deeprl train {meant} …")
    return UserError(f"unknown verb '{verb}'{did_you_mean(verb, VERBS)}; there are {', '.join(VERBS)}")
