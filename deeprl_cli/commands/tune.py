"""`deeprl tune`: search hyper-parameters, many trials in one process; then compare the best with the defaults."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.errors import UserError
from deeprl_cli.processes.waiting import wait_politely

HELP = """\
deeprl tune [key=value …] [key=RANGE …] [flags]
deeprl tune STUDY                                    continue a study (its folder)

  deeprl tune algo=ppo env=CartPole-v1               search PPO's space (configs/tune/ppo.yaml): 64 trials of 3 seeds
  deeprl tune algo=sac env=Pendulum-v1 trials=16 seeds=2 total_steps=5000
  deeprl tune algo=ppo env=CartPole-v1 'algo.lr=interval(1e-5,1e-2)' 'algo.gamma=choice(.95,.99,.999)'

Ranges, for keys of algo.…, network.…, env.…:
  interval(LOW,HIGH)     numbers between; on a logarithmic scale if HIGH is at least ten times LOW
  int(interval(…))       whole numbers
  tag(log,interval(…))   on a logarithmic scale; tag(linear,…): not; tag(one_minus,…): of 1 minus the number
  choice(A,B,…), A,B     one of these
  range(START,STOP,STEP) one of these numbers, without STOP
Every other key=value is as for `deeprl train`, and holds for all trials. total_steps is the length of one trial.

Keys of the study:
{keys}
Ctrl-C stops it; the same command (or deeprl tune STUDY) continues it. In several terminals, it shares the work.

Flags:
  --pbt                  population-based training: values change during training; it finds a schedule
  --trust                allow STUDY to run code that it names: an environment module:Id, wrappers, an algorithm's file
  -h, --help             this text
"""


def run(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl tune", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--pbt", action="store_true")
    parser.add_argument("--trust", action="store_true")
    flags = parser.parse_intermixed_args(arguments)
    if flags.help:
        print(HELP.format(keys=_keys()), end="")
        return 0
    if importlib.util.find_spec("optuna") is None:
        raise UserError("deeprl tune needs Optuna: pip install 'deeprl-cli[tune]'")
    return tune([*flags.words, *["method=pbt"] * flags.pbt], trust=flags.trust)


def tune(words: Sequence[str], *, trust: bool = False) -> int:
    """Begin a study, or continue one (`trust`: it may name code); returns the exit code. Raises UserError."""
    from deeprl_cli.config.slips import refuse_twice

    refuse_twice(words)
    wait_politely()
    if all("=" in word for word in words):  # a new study: its mistakes are told before torch is loaded
        from deeprl_cli.config.ranges import checked, settings, taken_apart

        found = taken_apart(words)
        settings(found.own)
        checked(found.overrides, found.domains)
    from deeprl_cli.tuning.start import opened

    plan = opened(words, trust)

    from deeprl_cli.tuning.work import work

    return work(plan)


def _keys() -> str:
    """The study's keys with the comments of their file."""
    from deeprl_cli.config.files import config_dir

    lines = (config_dir() / "tune.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(f"  {line.replace(': ', '=', 1)}" for line in lines if not line.startswith("#")) + "\n"
