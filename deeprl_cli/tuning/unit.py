"""Training runs together, from wherever each stands to where it is to come."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deeprl_cli.envs.look import Look
from deeprl_cli.errors import UserError
from deeprl_cli.runs.checkpoint import Checkpoint
from deeprl_cli.runs.folder import CONFIG_NAME, read_summary
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain
from deeprl_cli.sweeps.groups import grouped
from deeprl_cli.sweeps.job import Outcome, failure, outcome_of
from deeprl_cli.training.group import join, resume_together, train_together
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.run import train


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Asked to stop by a signal; what was under way has written its checkpoints."""

    def __init__(self, code: int) -> None:
        self.code = code


class Job(NamedTuple):
    """A run, its place among those that were handed in, and what was seen of its environment."""

    place: int
    cfg: RunConfig
    look: Look

    @property
    def run(self) -> Path:
        return Path(str(self.cfg.run_dir))


def looked_at(configs: Sequence[RunConfig]) -> list[Job]:
    """Raises UserError for one that can't train."""
    looks: dict[str, Look] = {}
    jobs = []
    for place, cfg in enumerate(configs):
        env = str(to_plain(cfg.env))
        looks[env] = preflight(cfg, seen=looks.get(env))
        jobs.append(Job(place, cfg, looks[env]))
    return jobs


def stacks(configs: Sequence[RunConfig]) -> list[list[Job]]:
    """Those that train as one, as many together as there is memory for."""
    jobs = looked_at(configs)
    return [[jobs[place] for place in group] for group in grouped([(job.cfg, job.look) for job in jobs])]


def train_stack(
    stack: Sequence[Job],
    label: str,
    starts: Sequence[int] | None = None,
    change: Callable[[list[Checkpoint]], list[Checkpoint]] = lambda points: points,
) -> dict[int, Outcome]:
    """What became of each, by its place: `status` done, or failed (`error`). `label` goes before the line that shows
    how far it is. `starts`: they have trained apart so far, and join at these steps of theirs, from what `change` makes
    of their checkpoints. Raises Stopped."""
    ends = [how_it_stands(job) for job in stack]
    if all(end["status"] == "failed" for end in ends):  # all at once: the machine's fault, not theirs
        ends = [{"status": "begun"}] * len(stack)
    found = {job.place: end for job, end in zip(stack, ends, strict=True) if end["status"] in ("done", "failed")}
    if len(found) == len(stack):
        return found
    shown = partial(Progress, label=label)

    def left(number: int, error: Exception | None) -> None:
        assert error is not None, "trials have no goal to reach"
        found[stack[number].place] = failure(error)

    def work() -> None:
        if starts is not None:
            join([job.run for job in stack], [job.cfg for job in stack], starts, left, shown, change)
            return
        if any(end["status"] == "fresh" for end in ends):  # where some have begun, they had no time to train
            for job in stack:
                shutil.rmtree(job.run, ignore_errors=True)
            found.clear()
            if len(stack) == 1:
                train(stack[0].cfg, stack[0].look, shown)
            else:
                train_together([job.cfg for job in stack], [job.look for job in stack], left, shown)
            return
        before = {number for number, end in enumerate(ends) if end["status"] == "failed"}
        resume_together([job.run for job in stack], [job.cfg for job in stack], before, left, shown)

    outcome = outcome_of(work)
    if outcome["status"] == "stopped":
        raise Stopped(int(outcome["code"]))
    return {job.place: outcome for job in stack} | found


def how_it_stands(job: Job) -> Outcome:
    """`status` fresh, begun, done or failed."""
    if not (job.run / CONFIG_NAME).is_file():
        return {"status": "fresh"}
    try:
        summary: dict[str, Any] = read_summary(job.run)
    except UserError:
        return {"status": "begun"}  # killed
    if summary["status"] == "failed":
        return {"status": "failed", "error": "ended before the others of its stack"}
    done = summary["status"] == "finished" and summary["total_steps"] >= job.cfg.total_steps
    return {"status": "done" if done else "begun"}
