"""One run, from a checked configuration to its finished folder on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.tuned import tuned_note
from deeprl_cli.data.memory import memory_bytes
from deeprl_cli.envs.look import Look
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation.evaluate import Evaluation, EvaluationStopped, cut_short, final_evaluation
from deeprl_cli.evaluation.transcripts import in_a_row, transcripts
from deeprl_cli.policy import Policy
from deeprl_cli.processes import hardware as hw
from deeprl_cli.processes import ranks
from deeprl_cli.processes.signals import began, stop_on_signals
from deeprl_cli.runs.checkpoint import Checkpoint
from deeprl_cli.runs.folder import create_run_folder, write_summary
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.weights_chain import WeightsChain
from deeprl_cli.schema.run import EpisodeConfig, ReplayConfig, RunConfig
from deeprl_cli.training.assemble import assemble, make_trainer, resolved_hardware
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.failures import explained, first_line
from deeprl_cli.training.launch import (
    asked_to_stop,
    counted,
    folder_of_rank,
    in_rank,
    launch,
    membership,
    parallel,
    replay_notes,
)
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.services import Services


def train(cfg: RunConfig, seen: Look | None = None) -> Path:
    """Run `cfg` to its end; returns the run folder. `seen`: of its environment, by whoever has looked already.

    Raises UserError for what can't be trained, SystemExit(130 or 143) after a clean stop by a signal.
    """
    start = began()
    seen = preflight(cfg, seen=seen)
    cfg = counted(replace(cfg, env=seen.env))
    if parallel(cfg) and not in_rank():
        return launch_fresh(cfg, seen.spec)

    def fresh_folder(stack: ExitStack, hardware: hw.Hardware) -> Path:
        run_dir = create_run_folder(cfg, hardware.resolved())
        stack.enter_context(locked(run_dir))
        return run_dir

    with membership(cfg):
        return carry_out(cfg, seen, start, fresh_folder)


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
    folder: Callable[[ExitStack, hw.Hardware], Path],
    hardware: hw.Hardware | None = None,
    saved: Checkpoint | None = None,
) -> Path:
    """Train `cfg` in the locked `folder` it is given; `hardware` and `saved` are those of a run that goes on.

    Raises UserError where the disk gives out or `saved` doesn't fit, SystemExit as `train` does.
    """
    with staying() as here, ExitStack() as stack:
        parts = assemble(cfg, seen.spec, hardware, stack, fresh=saved is None)
        policy, hardware = parts.policy, parts.hardware
        run_dir = ranks.told(folder(stack, hardware) if ranks.rank() == 0 else Path())
        home = here / run_dir  # wherever an environment may go
        own_dir = folder_of_rank(home, stack)
        logs = saved.state["log"] if saved is not None else None
        logger = stack.enter_context(RunLogger(own_dir, cfg.seed_list, cfg.log.tensorboard, logs))
        if saved is None and ranks.rank() == 0:
            logger.text("config", f"```yaml\n{(home / 'config.yaml').read_text(encoding='utf-8')}```")
        signals = stack.enter_context(stop_on_signals())
        screen = None if ranks.rank() == 0 else stack.enter_context(open(os.devnull, "w"))
        progress = stack.enter_context(Progress(cfg.total_steps, cfg.seeds, screen))
        progress.message(f"{cfg.algo.name} on {cfg.env.id}, seeds {_span(cfg.seed_list)}: {run_dir}")
        for note in (
            tuned_note(cfg.tuned, cfg.env.id, cfg.total_steps),
            *seen.notes,
            *parts.notes,
            *hardware.notes,
            *episode_notes(cfg, seen),
            *durability_notes(cfg, seen.spec, parts.envs),
        ):
            progress.message(note)
        with fitting(run_dir):
            chain = WeightsChain(own_dir, saved.state["chain"] if saved is not None else None)

        def asked() -> bool:
            return signals.requested() or asked_to_stop()

        services = Services(home, logger, progress, asked, chain, run_dir)
        trainer, compiler = make_trainer(cfg, parts, services)
        trainer.began = start
        if saved is not None:
            with fitting(run_dir):
                trainer.load_state_dict(saved.state, saved.segments)
            progress.message(f"goes on from step {trainer.steps} of {cfg.total_steps}")
        elif seen.transcripts:
            progress.message(show_transcripts(policy, cfg, "before training"))
        status, final = "failed", None
        try:
            trainer.run()
            parts.close()
            progress.status("final evaluation")
            final = final_evaluation(cfg, policy, home, lambda: trainer.stop_agreed or asked())
            progress.status("")
            if cut := cut_short(cfg, *final):
                progress.message(f"final evaluation: {cut}")
            if seen.transcripts:
                progress.message(show_transcripts(policy, cfg, "after training"))
            status = "finished"
        except (EvaluationStopped, KeyboardInterrupt) as stop:
            status = "interrupted"
            if isinstance(stop, KeyboardInterrupt):
                raise
        except Exception as error:
            if ranks.lost():
                raise
            told = explained(trainer, error)
            if told is error:
                raise
            raise told from error
        finally:
            summary = summarise(cfg, trainer, compiler.seconds if compiler else 0.0, final, status)
            with suppress(*([OSError] if status == "failed" else [])):  # the disk may be what failed
                write_summary(own_dir, summary)
    if ranks.rank() == 0:
        print(_farewell(run_dir, summary))
    if signals.received is not None:
        raise SystemExit(128 + signals.received)
    return run_dir


def show_transcripts(policy: Policy, cfg: RunConfig, when: str) -> str:
    """Some greedy episodes of the first seed, as text."""
    return in_a_row(f"{when}, greedy, seed {cfg.seed}", transcripts(policy, cfg, 0))


@contextmanager
def fitting(run: Path) -> Iterator[None]:
    """Raises UserError where what is restored from a run's checkpoint is of another configuration, or no state."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        folder = run / "checkpoints" / "last"
        raise UserError(f"{folder}: doesn't fit this run's config.yaml ({first_line(error)})") from error


def episode_notes(cfg: RunConfig, seen: Look) -> list[str]:
    """A word where an update may wait for ever, for an episode that nothing ends."""
    waits = isinstance(cfg.algo, EpisodeConfig) and cfg.algo.longest is None
    if not waits or get_algorithm(cfg.algo.name).loop_for(cfg.algo) != "episodes" or seen.ends:
        return []
    return [
        f"{cfg.env.id} has no time limit, and algo={cfg.algo.name} waits for every episode's end: where one may never "
        "come, give env.max_episode_steps=…"
    ]


def durability_notes(cfg: RunConfig, spec: EnvSpec, envs: VectorEnv) -> list[str]:
    """What a user who may want to resume this run should hear before it starts."""
    notes = []
    if not envs.replayable:
        notes.append(f"env.backend={cfg.env.backend} can't be brought back exactly: resumed, episodes start afresh")
    if ranks.size() > 1:
        notes.append(
            f"{ranks.size()} ranks, {ranks.share_size(cfg.algo.num_envs)} of {cfg.algo.num_envs} environments each"
        )
        notes += replay_notes(cfg)
    elif isinstance(cfg.algo, ReplayConfig) and cfg.checkpoint.replay:
        size = memory_bytes(cfg, spec) / 2**20
        if size > 100:
            notes.append(f"checkpoints hold the replay memory, up to {size:.0f} MiB (checkpoint.replay=false: without)")
    return notes


def summarise(
    cfg: RunConfig,
    trainer: Trainer,
    compile_seconds: float,
    final: tuple[Evaluation, Evaluation] | None,
    status: str,
) -> dict[str, Any]:
    """The content of summary.json. Without a final evaluation (last, best), `eval` tells of those during training;
    null where there was none."""
    first_step = trainer.first_step_at
    last = final[0] if final else trainer.last_evaluation
    return {
        "algo": cfg.algo.name,
        "env": cfg.env.id,
        "seeds": cfg.seed_list,
        "total_steps": trainer.steps,
        "wall_seconds": round(trainer.wall_seconds, 3),
        "startup_seconds": None if first_step is None else round(first_step - trainer.began, 3),
        "compile_seconds": round(compile_seconds, 3),
        "steps_per_second": round(trainer.steps_per_second, 1),
        "skipped_updates": trainer.watch.skipped(),
        "eval": None
        if last is None
        else {
            "episodes": int(last.returns.shape[1]),
            "return_mean": last.return_mean,
            "return_std": last.return_std,
            "best_return_mean": final[1].return_mean if final else list(trainer.best),
        },
        "status": status,
    }


def _span(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def _farewell(run_dir: Path, summary: dict[str, Any]) -> str:
    evaluation = summary["eval"]
    lines = [f"{summary['status']}: {summary['total_steps']} steps in {summary['wall_seconds']:.0f} s"]
    if evaluation is not None:
        lines.append(f"return of the last policy  {_returns(evaluation['return_mean'])}")
        lines.append(f"return of the best policy  {_returns(evaluation['best_return_mean'])}")
    if any(summary["skipped_updates"]):
        counted = zip(summary["seeds"], summary["skipped_updates"], strict=True)
        skipped = ", ".join(f"{count} of seed {seed}" for seed, count in counted if count)
        lines.append(f"updates left out           {skipped} (they weren't finite)")
    lines += [
        f"run folder                 {run_dir}",
        f"see its curves             tensorboard --logdir {quote(str(run_dir))}",
    ]
    return "\n".join(lines)


def _returns(means: list[float]) -> str:
    shown = ", ".join(f"{mean:.1f}" for mean in means)
    return shown if len(means) == 1 else f"{sum(means) / len(means):.1f} (seeds: {shown})"
