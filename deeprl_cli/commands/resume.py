"""`deeprl resume RUN`: continue a run from its last complete checkpoint, as if it had never stopped."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.commands.counting import waiting
from deeprl_cli.config.slips import refuse_twice
from deeprl_cli.errors import UserError
from deeprl_cli.processes.waiting import wait_politely
from deeprl_cli.runs.folder import find_run


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl resume",
        description="Continue a run from its last checkpoint, as if it had never stopped; or "
        "continue what is not done of a stacked sweep (give its folder, runs/sweeps/…).",
        epilog="You may change total_steps, eval.*, stop.*, checkpoint.*, log.*, callbacks and hardware.*. Schedules "
        "keep the horizon that the run started with, unless you give horizon=…",
        allow_abbrev=False,
    )
    parser.takes_run()
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example total_steps=1e6")
    runs = [word for word in arguments if not word.startswith("-") and ("=" not in word or Path(word).exists())]
    if not runs and not {"-h", "--help"} & set(arguments):
        raise UserError("which run? write deeprl resume RUN, a run's folder, for example runs/<algo>/<env>/<time>")
    flags = parser.parse_intermixed_args(arguments)
    refuse_twice(flags.overrides)
    wait_politely()
    from deeprl_cli.runs.catalogue import find_any
    from deeprl_cli.sweeps.again import is_sweep, resume_sweep

    found = find_any(flags.run)
    if is_sweep(found):
        if flags.overrides:
            raise UserError(f"{flags.run}: a sweep goes on unchanged: give {flags.overrides[0]} for one of its runs")
        return resume_sweep(found, lambda run: resume(run, [], trust=flags.trust), trust=flags.trust)
    resume(found, flags.overrides, trust=flags.trust)
    return 0


def resume(path: Path, overrides: Sequence[str], *, trust: bool = False) -> Path:
    """Continue the run at `path`; the run folder. `overrides` may change what `config.changes.FREE` names;
    `trust` allows it to name a module to import.

    Raises UserError where it isn't a run, is finished or in use, or no checkpoint of it can be read; SystemExit as
    `train` does.
    """
    from deeprl_cli.runs.catalogue import find

    path = find(path)
    find_run(path)  # a mistyped folder is refused before torch is loaded

    with waiting("loading torch"):
        from deeprl_cli.config.changes import changed
        from deeprl_cli.processes import ranks
        from deeprl_cli.processes.hardware import kept
        from deeprl_cli.processes.signals import began
        from deeprl_cli.runs.checkpoint import newest_checkpoint
        from deeprl_cli.runs.folder import of_other_numerics, read_config, rewrite_config
        from deeprl_cli.runs.group_record import goes_on_alone
        from deeprl_cli.runs.lock import locked
        from deeprl_cli.runs.machine import others_than
        from deeprl_cli.runs.reading import check_trust, read_run
        from deeprl_cli.training.assemble import resolved_hardware
        from deeprl_cli.training.launch import counted, in_rank, launch, launched, membership, parallel, restarts
        from deeprl_cli.training.preflight import preflight
        from deeprl_cli.training.run import carry_out
        from deeprl_cli.training.stopping import ended_by, release

    start = began()
    run, before = read_run(path, trust)
    resolved = read_config(run)["resolved"]
    cfg = changed(counted(before), overrides)
    check_trust(
        run, replace(before, callbacks=[c for c in before.callbacks if c in cfg.callbacks]), trust, training=True
    )
    if not launched() and not in_rank():
        for told in (*of_other_numerics(resolved), *others_than(resolved.get("machine"))):
            print(told, flush=True)
    seen = preflight(cfg, fresh=False)
    with membership(cfg), ExitStack() as stack:
        if not launched() and ranks.rank() == 0:
            stack.enter_context(locked(run))
        saved = ranks.told(newest_checkpoint(run / "checkpoints" / "last") if ranks.rank() == 0 else None)
        done = saved.state.get("steps") if saved is not None else 0
        if type(done) is not int:
            raise UserError(f"{run / 'checkpoints' / 'last'}: damaged: it doesn't say how many steps are done")
        if done >= cfg.total_steps and _finished(run):
            if launched():
                return run  # a rank died after all was done
            raise UserError(f"{run}: has done all of its {done:,} steps: to train further, give total_steps={2 * done}")
        if saved is not None and not launched() and (why := ended_by(cfg.stop, saved.state)) and _finished(run):
            raise UserError(
                f"{run}: ended at step {done:,} of {cfg.total_steps:,} ({why}): to train further, give {release(why)}"
            )
        if (others := goes_on_alone(run, done)) > 0:
            print(
                f"{run} trained side by side with {others} other runs: alone, it goes on equal to rounding; "
                "`deeprl resume` of its sweep's folder goes on with all of them, bit for bit",
                flush=True,
            )
        hardware = kept(before.hardware, cfg.hardware, resolved)
        launching = parallel(cfg) and not in_rank()
        if launching and hardware is None:
            hardware = resolved_hardware(cfg, seen.spec)
        if ranks.rank() == 0 and (cfg != before or hardware is None):
            rewrite_config(run, cfg, resolved if hardware is None else {**resolved, **hardware.resolved()})
        if saved is None and ranks.rank() == 0 and (restarts() or not launched()):
            print("no checkpoint yet: it starts again from the first step", flush=True)
        if launching:
            assert hardware is not None
            launch(run, cfg, hardware.threads)
            return run
        points = [] if saved is None else [saved]
        carry_out(cfg, seen, start, lambda _stack, _hardware: [run], hardware, points)
        return run


def _finished(run: Path) -> bool:
    from deeprl_cli.runs.folder import read_summary

    try:
        return bool(read_summary(run).get("status") == "finished")
    except UserError:
        return False  # killed before it could write its summary
