"""`deeprl train [key=value …]`: a run, a sweep of runs (`-m`), or a look at one before it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.commands.counting import waiting
from deeprl_cli.config.slips import refuse_twice, without_dashes
from deeprl_cli.errors import UserError, nearest
from deeprl_cli.processes.waiting import wait_politely

if TYPE_CHECKING:
    from deeprl_cli.envs.look import Look
    from deeprl_cli.schema.run import RunConfig

HELP = """\
deeprl train [key=value …] [flags]

  deeprl train algo=ppo env=CartPole-v1             every key has a default
  deeprl train algo=sac env=HalfCheetah-v5 seeds=4  four seeds together, in one process
  deeprl train algo=ppo algo.lr=1e-3 'algo.hidden=[64,64]' total_steps=1e6
  deeprl train env=FrozenLake-v1 env.kwargs.map_name=8x8
  deeprl train env=CartPole-v1 stop.return=475 stop.evaluations=3
  deeprl train algo=./my_algo.py env=CartPole-v1    an algorithm of your own (deeprl new algorithm)
  deeprl train -m algo=ppo,dqn env=CartPole-v1,Acrobot-v1 seed=0,1,2

Groups, each group=option:
{groups}
Keys of the run: seed, seeds, total_steps, eval.*, stop.*, checkpoint.*, log.*, callbacks, init_from, run_dir; below the
groups: algo.*, env.*, network.*, hardware.*. Steps are environment steps of one seed.
If two give the same key, the later one wins: algo, env, network and hardware, tuned, experiment, command line.
Tuned values are used without being asked for; tuned=none switches them off.

Flags:
  -m, --multirun         train one run for each combination of values; all are checked before the first one starts
                         (as one where they can with hydra/launcher=stacked; several at a time with joblib,
                         submitit_local, submitit_slurm or ray)
  --check                build everything, do one update, say how much time and memory the run will take
  -cd, --config-dir DIR  take YAML files from this folder, too: algo/my_algo.yaml, env/My-v0.yaml, experiment/…
  --explain              print every value and where it comes from: a file, or the command line
  -c, --cfg job          print the configuration instead of running it (also: hydra, all)
  -p, --package PART     with --cfg: only this part, for example algo
  --resolve              with --cfg: resolve interpolations
  -sc install=SHELL      print the shell's completion script (bash, zsh, fish)
  -h, --help             this text
"""


def run(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl train", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", action="append", default=[])
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    flags, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        raise _unknown_flag(unknown[0], arguments, known)
    flags.overrides = [*_searching(flags.config_dir, flags.overrides), *flags.overrides]
    if flags.help:
        print(HELP.format(groups=_groups()), end="")
        return 0
    if flags.shell_completion:
        from deeprl_cli.commands.completion import complete

        return complete(flags.overrides)
    refuse_twice(flags.overrides)
    if (flags.package or flags.resolve) and not flags.cfg:
        raise UserError("--package and --resolve go with --cfg: deeprl train --cfg job …")
    if flags.cfg:
        if flags.multirun:
            raise UserError("--cfg shows one run: leave out -m, and give one value for each key")
        return _show_configuration(flags.overrides, flags.cfg, flags.package, flags.resolve)
    if flags.explain:
        if flags.multirun:
            raise UserError("--explain is about one run: leave out -m, and give one value for each key")
        return _explain(flags.overrides)
    if flags.multirun:
        if flags.check:
            raise UserError("--check looks at one run; a sweep checks all of its runs before the first starts")
        from deeprl_cli.sweeps.sweep import run_sweep

        return run_sweep(flags.overrides)
    return _check(flags.overrides) if flags.check else _train(flags.overrides)


def _searching(folders: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The override that puts these folders before deeprl's own. Raises UserError."""
    if not folders:
        return []
    if any(text.startswith("hydra.searchpath=") for text in overrides):
        raise UserError("--config-dir and hydra.searchpath=… are the same: give one of them")
    missing = next((folder for folder in folders if not Path(folder).expanduser().is_dir()), None)
    if missing is not None:
        raise UserError(f"--config-dir {missing}: no such folder")
    found = [json.dumps(f"file://{Path(folder).expanduser().absolute()}", ensure_ascii=False) for folder in folders]
    return [f"hydra.searchpath=[{','.join(found)}]"]


def _train(overrides: Sequence[str]) -> int:
    wait_politely()
    cfg, seen = _configuration(overrides)

    with waiting("loading torch"):
        from deeprl_cli.training.launch import run_before_restart
        from deeprl_cli.training.run import train

    interrupted = run_before_restart(cfg)
    if interrupted is None:
        train(cfg, seen=seen)  # it begins with the preflight
    else:
        from deeprl_cli.commands.resume import resume

        resume(interrupted, [], trust=True)
    return 0


def _configuration(overrides: Sequence[str]) -> tuple[RunConfig, Look]:
    """The configuration, and a look at its environment. What torch isn't needed for is checked before it is loaded."""
    from deeprl_cli.config.compose import build_run_config
    from deeprl_cli.config.early import early_look, early_values

    values = early_values(overrides)
    seen = early_look(values)
    with waiting("loading torch"):
        return build_run_config(values), seen


def _check(overrides: Sequence[str]) -> int:
    wait_politely()  # as the run will
    cfg, seen = _configuration(overrides)

    from deeprl_cli.commands.check import check

    print(check(cfg, seen))
    return 0


def _explain(overrides: Sequence[str]) -> int:
    from deeprl_cli.config.compose import load_config
    from deeprl_cli.config.explain import explain, table
    from deeprl_cli.config.tuned import tuned_note, tuned_path, tuned_summary
    from deeprl_cli.envs.ids import check_id

    cfg = load_config(overrides)
    check_id({"backend": cfg.env.backend, "id": cfg.env.id})
    print(tuned_note(cfg.tuned, cfg.env.id, cfg.total_steps))
    if cfg.tuned is not None and tuned_path(cfg.tuned).is_file():
        print(f"  {tuned_summary(cfg.tuned)[1]}")
    print(f"\n{table(explain(overrides))}")
    return 0


def _show_configuration(
    overrides: Sequence[str], which: Literal["job", "hydra", "all"], package: str | None, resolve: bool
) -> int:
    from deeprl_cli.config.compose import config_text, load_config

    if which == "job":
        load_config(overrides)  # refuse values that can't be
    print(config_text(overrides, which, package, resolve), end="")
    return 0


def _unknown_flag(flag: str, arguments: Sequence[str], known: Sequence[str]) -> UserError:
    near = nearest(flag, known, cutoff=0.8)
    if near:
        return UserError(f"unknown flag '{flag}'; did you mean '{near[0]}'?")
    typed, meant = without_dashes(arguments, known)
    if not typed:
        return UserError(f"unknown flag '{flag}'; `deeprl train --help` says what there is")
    return UserError(f"'{' '.join(typed)}': keys are written without dashes: {' '.join(meant)}")


def _groups() -> str:
    """One line for each group, with its options."""
    from deeprl_cli.config.files import GROUPS, group_options

    notes = {
        "env": "any gymnasium id: Pendulum-v1, ALE/Pong-v5, module:Name-v0",
        "tuned": "none: without; ppo/mujoco, …: another pair's or family's (deeprl list tuned)",
    }
    lines = [f"  {group:<11}{notes.get(group) or ', '.join(group_options(group)) or 'none yet'}" for group in GROUPS]
    return "\n".join(lines) + "\n"
