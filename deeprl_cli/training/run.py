"""One run, from a checked configuration to its finished folder on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.tuned import tuned_note
from deeprl_cli.data.memory import memory_bytes
from deeprl_cli.envs.generators import digest, seeded_apart
from deeprl_cli.envs.look import Look
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation.episodes import cut_short
from deeprl_cli.evaluation.evaluate import Evaluation, EvaluationStopped, final_evaluation
from deeprl_cli.evaluation.transcripts import in_a_row, transcripts
from deeprl_cli.plugins.files import short
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.processes import hardware as hw
from deeprl_cli.processes import ranks
from deeprl_cli.processes.signals import began, stop_on_signals
from deeprl_cli.runs.checkpoint import Checkpoint
from deeprl_cli.runs.folder import create_run_folder, write_summary
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.tracking import track
from deeprl_cli.runs.weights import load_last
from deeprl_cli.runs.weights_chain import WeightsChain
from deeprl_cli.schema.run import EpisodeConfig, ReplayConfig, RunConfig
from deeprl_cli.training.assemble import assemble, make_trainer, resolved_hardware
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.callbacks import Callbacks, make_callbacks
from deeprl_cli.training.failures import explained, first_line, in_a_line
from deeprl_cli.training.farewell import farewell, schedule_notes, span
from deeprl_cli.training.launch import (
    asked_to_stop,
    counted,
    folder_of_rank,
    in_rank,
    launch,
    launched,
    membership,
    parallel,
    replay_notes,
)
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.rounding import planned_steps, rounding_note
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Outlet, Share
from deeprl_cli.training.stack import stacked
from deeprl_cli.training.summary import summarise

NOWHERE: Any = None  # for a run that has ended, in a group that goes on


def train(
    cfg: RunConfig, seen: Look | None = None, shown: Callable[..., Progress] = Progress, *, advise: bool = True
) -> Path:
    """Run `cfg` to its end; returns the run folder. `seen`: of its environment, by whoever has looked already. `shown`
    makes what a person sees of it, and `advise` says what to type next.

    Raises UserError for what can't be trained, SystemExit(130 or 143) after a clean stop by a signal.
    """
    start = began()
    seen = preflight(cfg, seen=seen)
    cfg = counted(replace(cfg, env=seen.env))
    if parallel(cfg) and not in_rank():
        return launch_fresh(cfg, seen.spec)

    def fresh_folder(stack: ExitStack, hardware: hw.Hardware) -> list[Path]:
        run_dir = create_run_folder(cfg, hardware.resolved())
        stack.enter_context(locked(run_dir))
        return [run_dir]

    with membership(cfg):
        return carry_out(cfg, seen, start, fresh_folder, shown=shown, advise=advise)[0]


def launch_fresh(cfg: RunConfig, spec: EnvSpec) -> Path:
    """Create the run's folder and have ranks train in it; the folder."""
    hardware = resolved_hardware(cfg, spec)
    run_dir = create_run_folder(cfg, hardware.resolved())
    with locked(run_dir):
        launch(run_dir, cfg, hardware.threads)
    return run_dir


def carry_out(
    cfg: RunConfig,
    seen: Look,
    start: float,
    folders: Callable[[ExitStack, hw.Hardware], Sequence[Path]],
    hardware: hw.Hardware | None = None,
    saved: Sequence[Checkpoint | None] = (),
    left: Callable[[Share], None] = lambda share: None,
    shown: Callable[..., Progress] = Progress,
    advise: bool = True,
) -> list[Path]:
    """Train `cfg` in the locked `folders` it is given, one for each of its jobs; `hardware` and `saved` are those of a
    run that goes on. Of several, those that had ended before the others have nothing saved; `left` is told of one
    that does now.

    Raises UserError where the disk gives out or `saved` doesn't fit, SystemExit as `train` does.
    """
    # an environment that draws from global generators, unnoticed by the look at it, still draws the same in each run
    with staying() as here, seeded_apart(cfg.seed), ExitStack() as stack:
        parts = assemble(cfg, seen.spec, hardware, stack, fresh=not saved)
        policy, hardware = parts.policy, parts.hardware
        called = [make_callbacks(job.callbacks if ranks.rank() == 0 else ()) for job in cfg.jobs]
        run_dirs = ranks.told(list(folders(stack, hardware)) if ranks.rank() == 0 else [])
        homes = [here / run_dir for run_dir in run_dirs]  # wherever an environment may go
        own_dirs = [folder_of_rank(home, stack) for home in homes]
        run_dir, points = run_dirs[0], saved or [None] * len(run_dirs)
        screen = None if ranks.rank() == 0 else stack.enter_context(open(os.devnull, "w"))
        done = next((point.state["steps"] for point in points if point is not None), 0)
        progress = shown(planned_steps(cfg, done), cfg.seeds, screen)
        signals = stack.enter_context(stop_on_signals(shown=progress.stopping))
        stack.enter_context(progress)
        where = str(run_dir) if len(run_dirs) == 1 else f"{len(run_dirs)} runs together, the first in {run_dir}"
        progress.message(f"{short(cfg.algo.name)} on {cfg.env.id}, {span(cfg.seed_list)}: {where}")
        for note in (
            tuned_note(cfg.tuned, cfg.env.id, cfg.total_steps),
            *rounding_note(cfg, done),
            *schedule_notes(cfg, done),
            *seen.notes,
            *parts.notes,
            *hardware.notes,
            *episode_notes(cfg, seen),
            *durability_notes(cfg, seen.spec, parts.envs),
        ):
            progress.note(note)
        outlets = []
        for job, name, home, own, point, made in zip(cfg.jobs, run_dirs, homes, own_dirs, points, called, strict=True):
            if saved and point is None:
                outlets.append(Outlet(home, NOWHERE, NOWHERE, name))
                continue
            with fitting(name):
                logs, links = (point.state["log"], point.state["chain"]) if point else (None, None)
                tracking = track(job, home, name.name, progress.message, bool(saved)) if ranks.rank() == 0 else None
                logger = stack.enter_context(RunLogger(own, job.seed_list, job.log.event_files, logs, tracking))
                callbacks = Callbacks(made, home, job.seed_list, progress.message)
                outlets.append(Outlet(home, logger, WeightsChain(own, links), name, callbacks))
            if point is None and ranks.rank() == 0:
                logger.text("config", f"```yaml\n{(home / 'config.yaml').read_text(encoding='utf-8')}```")
                logger.begins(job, name.name)

        has_launcher = launched()  # looked up once: this is asked at each step

        def asked() -> bool:
            return signals.requested() or (has_launcher and asked_to_stop())

        def record(
            share: Share,
            status: str,
            final: tuple[Evaluation, Evaluation] | None = None,
            error: BaseException | None = None,
        ) -> dict[str, Any]:
            why = None if error is None else in_a_line(error)
            summary = summarise(trainer, share, compiler.seconds if compiler else 0.0, final, status, why)
            write_summary(own_dirs[trainer.shares.all.index(share)], summary)
            why = f": {why or summary['reason']}" if why or summary["reason"] else ""
            share.outlet.logger.text("status", f"{status} at step {trainer.steps}{why}")  # curves don't show it
            best = final[1].return_mean[share.members] if final else []
            share.outlet.logger.ends(trainer.steps, status, best, summary)
            share.outlet.callbacks.end(trainer.steps, summary)
            return summary

        def ended(share: Share) -> None:
            if share.reason is None:
                record(share, "failed", error=share.failed)
            else:
                record(share, "finished", own_last_words(share, trainer, asked))
            left(share)

        services = Services(outlets, progress, asked, ended)
        trainer, compiler = make_trainer(cfg, parts, services)
        trainer.began = start
        if saved:
            for share, point in zip(trainer.shares, points, strict=True):
                if point is None:
                    trainer.shares.leave(share, UserError(f"{share.outlet.name}: had ended before"))
            with fitting(run_dir):
                trainer.load_state_dict(*stacked(cfg.jobs, points))
            progress.message(f"goes on from step {trainer.steps} of {cfg.total_steps}")
        elif seen.transcripts and trainer.shares.alone:
            progress.message(show_transcripts(policy, cfg, "before training"))
        status, final = "failed", None
        failed: Exception | None = None
        try:
            drawn = digest()
            trainer.run()
            if digest() != drawn and cfg.env.generators == "shared":
                progress.message(
                    f"{cfg.env.id} has drawn from the process's global generators, which a resume doesn't bring back: "
                    "env.generators=own gives each environment states of its own"
                )
            parts.close()
            final = last_words(trainer, homes, lambda: trainer.ending.asked or asked())
            if cut := cut_short(cfg.env, cfg.eval.max_steps, *(evaluation.lengths for evaluation in final)):
                progress.message(f"final evaluation: {cut}")
            if seen.transcripts and trainer.shares.alone:
                progress.message(show_transcripts(policy, cfg, "after training"))
            status = "finished"
        except (EvaluationStopped, KeyboardInterrupt) as stop:
            status = "interrupted"
            if isinstance(stop, KeyboardInterrupt):
                raise
        except Exception as error:
            failed = error
            if ranks.lost():
                raise
            failed = told = explained(trainer.shares.going, trainer.steps, error)
            if told is error:
                raise
            raise told from error
        finally:
            with suppress(*([OSError] if status == "failed" else [])):  # the disk may be what failed
                for share in trainer.shares:
                    if not share.left:
                        summary = record(share, status, final, failed)
    if ranks.rank() == 0 and trainer.shares.alone:
        progress.message(farewell(run_dir, cfg, summary, advise=advise))
    if signals.received is not None:
        raise SystemExit(128 + signals.received)
    return run_dirs


def last_words(trainer: Trainer, homes: Sequence[Path], stopping: Callable[[], bool]) -> tuple[Evaluation, Evaluation]:
    """The final evaluation (last, best), which ends the curve. Raises EvaluationStopped."""
    progress, shares = trainer.to.progress, trainer.shares
    if not stopping():
        progress.status("final evaluation")
    left = np.flatnonzero(shares.left).tolist()
    failures: dict[int, Exception] = {}
    final = final_evaluation(trainer.cfg, trainer.policy, homes, stopping, left, failures, progress.counted)
    for member, error in failures.items():
        shares.end(shares.of(member), error, trainer.steps)
    progress.status("")
    trainer.add_to_curve(final[0])
    return final


def own_last_words(share: Share, trainer: Trainer, stopping: Callable[[], bool]) -> tuple[Evaluation, Evaluation]:
    """The same of one run that ends before the others, whose members have gone on training when it is played: from its
    checkpoint, as the run alone. Raises EvaluationStopped."""
    policy = make_policy(share.job, trainer.algorithm.spec)
    load_last(policy, share.outlet.run_dir)
    with trainer.to.progress.stage(f"final evaluation of {share.outlet.name}"):
        found = final_evaluation(share.job, policy, [share.outlet.run_dir], stopping, told=trainer.to.progress.counted)
    last, best = (one.among(share.members, trainer.num_seeds) for one in found)
    return last, best


def show_transcripts(policy: Policy, cfg: RunConfig, when: str) -> str:
    """Some greedy episodes of the first seed as text."""
    return in_a_row(f"{when}, greedy, seed {cfg.seed}", transcripts(policy, cfg, 0))


@contextmanager
def fitting(run: Path) -> Iterator[None]:
    """Raises UserError if a run's checkpoint belongs to another configuration, or is no state at all."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        folder = run / "checkpoints" / "last"
        raise UserError(f"{folder}: doesn't fit this run's config.yaml ({first_line(error)})") from error


def episode_notes(cfg: RunConfig, seen: Look) -> list[str]:
    """A note if an update may wait for ever because nothing ends an episode."""
    waits = isinstance(cfg.algo, EpisodeConfig) and cfg.algo.longest is None
    if not waits or get_algorithm(cfg.algo.name).loop_for(cfg.algo) != "episodes" or seen.ends:
        return []
    return [
        f"{cfg.env.id} has no time limit, and algo={cfg.algo.called} waits for every episode to end: if one "
        "may never end, give env.max_episode_steps=…"
    ]


def durability_notes(cfg: RunConfig, spec: EnvSpec, envs: VectorEnv) -> list[str]:
    """What a user should know before the run starts, in case it is resumed later."""
    notes = []
    if not envs.replayable:
        notes.append(f"env.backend={cfg.env.backend} can't be restored exactly: a resumed run starts new episodes")
    if ranks.size() > 1:
        notes.append(
            f"{ranks.size()} ranks, {ranks.share_size(cfg.algo.num_envs)} of {cfg.algo.num_envs} environments each"
        )
        notes += replay_notes(cfg)
    elif isinstance(cfg.algo, ReplayConfig) and cfg.checkpoint.replay:
        size = memory_bytes(cfg, spec) / 2**20
        if size > 100:
            notes.append(
                f"checkpoints hold the replay memory, up to {size:.0f} MiB (checkpoint.replay=false leaves it out)"
            )
    return notes
