"""Trains several runs together. Each leaves its own folder, as if it had trained alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from deeprl_cli.envs.look import Look
from deeprl_cli.errors import UserError
from deeprl_cli.processes import hardware as hw
from deeprl_cli.processes.signals import began
from deeprl_cli.runs.checkpoint import Checkpoint, intact_checkpoints, newest_checkpoint
from deeprl_cli.runs.folder import create_run_folder, read_config, rewrite_config
from deeprl_cli.runs.group_record import write_group
from deeprl_cli.runs.lock import locked
from deeprl_cli.schema.group import as_one
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.assemble import resolved_hardware
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.run import carry_out
from deeprl_cli.training.share import Share
from deeprl_cli.training.stack import TOGETHER

FILES_A_MEMBER = 2  # held open: a table, and TensorBoard's events
OTHER_FILES = 200


def train_together(
    jobs: Sequence[RunConfig],
    looks: Sequence[Look],
    left: Callable[[int, Exception | None], None],
    shown: Callable[..., Progress] = Progress,
) -> list[Path]:
    """Train these runs, preflighted, as one; their folders. `left` is told of one that ends before the others, with its
    goal reached or for an error.

    Raises what `train` does, for what ends them all.
    """
    start = began()
    jobs = [dataclasses.replace(job, env=look.env) for job, look in zip(jobs, looks, strict=True)]
    cfg = as_one(jobs)
    make_room(cfg.seeds)

    def folders(stack: ExitStack, hardware: hw.Hardware) -> list[Path]:
        runs = []
        for job in jobs:
            runs.append(create_run_folder(job, hardware.resolved()))
            stack.enter_context(locked(runs[-1]))
        write_group(runs, jobs)
        return runs

    return carry_out(cfg, looks[0], start, folders, left=by_number(jobs, left), shown=shown)


def by_number(jobs: Sequence[RunConfig], left: Callable[[int, Exception | None], None]) -> Callable[[Share], None]:
    """Called with a run's place among `jobs`."""

    def told(share: Share) -> None:
        left(next(number for number, job in enumerate(jobs) if job is share.job), share.failed)

    return told


def make_room(members: int) -> None:
    """Allow this process as many open files as the members need, as far as the system permits."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES_A_MEMBER * members + OTHER_FILES
        if soft < wanted:
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def resume_together(
    runs: Sequence[Path],
    jobs: Sequence[RunConfig],
    ended: Collection[int],
    left: Callable[[int, Exception | None], None],
    shown: Callable[..., Progress] = Progress,
) -> list[Path]:
    """Go on with a group from the newest step of which all its runs have a checkpoint; those that had `ended` before
    the others (their numbers) stay as they are. From the first step, where none has a checkpoint.

    Raises UserError where the checkpoints of the runs don't fit together, and what `train` does.
    """
    start = began()
    cfg = as_one(jobs)
    seen = preflight(cfg, fresh=False)
    make_room(cfg.seeds)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(locked(run))
        saved = common_checkpoints(runs, ended)
        if not saved:
            print("no checkpoint yet: it starts again from the first step", flush=True)
        hardware = hw.recorded(read_config(runs[0])["resolved"])
        told = by_number(jobs, left)
        return carry_out(cfg, seen, start, lambda _stack, _hardware: runs, hardware, saved, told, shown)


def join(
    runs: Sequence[Path],
    jobs: Sequence[RunConfig],
    starts: Sequence[int],
    left: Callable[[int, Exception | None], None],
    shown: Callable[..., Progress] = Progress,
    change: Callable[[list[Checkpoint]], list[Checkpoint]] = lambda found: found,
) -> list[Path]:
    """Go on as one with runs of one age that have trained apart so far, to the steps that `jobs` have now. `starts`:
    the step of each one's checkpoint from which it joins (`newest_step`); what `change` makes of these is gone on from.
    Called again, where this was cut short, it goes on from the newest step that all have left since.

    Raises what `resume_together` does.
    """
    start = began()
    cfg = as_one(jobs)
    seen = preflight(cfg, fresh=False)
    make_room(cfg.seeds)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(locked(run))
        if any(read_config(run)["total_steps"] != cfg.total_steps for run in runs):
            hardware = resolved_hardware(cfg, seen.spec)
            for run, job in zip(runs, jobs, strict=True):
                rewrite_config(run, job, {**read_config(run)["resolved"], **hardware.resolved()})
        write_group(runs, jobs)
        found = [checkpoints_of(run) for run in runs]
        since = [{step for step in steps if step > first} for steps, first in zip(found, starts, strict=True)]
        common = set.intersection(*since)
        wanted = [max(common)] * len(runs) if common else starts
        points = [checkpoints[step] for checkpoints, step in zip(found, wanted, strict=True)]
        saved = points if common else change(points)
        hardware = hw.recorded(read_config(runs[0])["resolved"])
        told = by_number(jobs, left)
        return carry_out(cfg, seen, start, lambda _stack, _hardware: runs, hardware, saved, told, shown)


def checkpoints_of(run: Path) -> dict[int, Checkpoint]:
    """By the step that the group had, or the run if it is alone."""
    return intact_checkpoints(run / "checkpoints" / "last", TOGETHER, "steps")


def newest_step(run: Path) -> int:
    """Of its checkpoints, for `join`. Raises UserError where it has none."""
    steps = checkpoints_of(run)
    if not steps:
        raise UserError(f"{run}: has no checkpoint from which it could go on")
    return max(steps)


def common_checkpoints(runs: Sequence[Path], ended: Collection[int]) -> list[Checkpoint | None]:
    """The checkpoints of the newest step that all runs have one of, but for those that have `ended`; [] where no run
    has any. Raises UserError where they have none in common."""
    if len(runs) == 1:
        alone = newest_checkpoint(runs[0] / "checkpoints" / "last")
        return [] if alone is None else [alone]
    found = [
        None if number in ended else intact_checkpoints(run / "checkpoints" / "last", TOGETHER)
        for number, run in enumerate(runs)
    ]
    going = [checkpoints for checkpoints in found if checkpoints is not None]
    if not any(going):
        return []
    common = set.intersection(*(set(checkpoints) for checkpoints in going))
    if not common:
        steps = {str(run): sorted(steps) for run, steps in zip(runs, found, strict=True) if steps is not None}
        raise UserError(
            f"these runs have no checkpoint of one step in common, so they go on alone: deeprl resume RUN ({steps})"
        )
    newest = max(common)
    return [None if checkpoints is None else checkpoints[newest] for checkpoints in found]
