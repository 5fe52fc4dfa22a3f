"""`deeprl train`: from a checked configuration to a finished run on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprl_cli import hardware as hw
from deeprl_cli import ranks
from deeprl_cli.checkpoint import Checkpoint
from deeprl_cli.data.memory import check_memory, memory_bytes
from deeprl_cli.envs.make import draws_from_np_random, env_spec, has_time_limit, make_vector_env
from deeprl_cli.envs.probe import probe
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluate import Evaluation, EvaluationStopped, eval_envs, final_evaluation
from deeprl_cli.failures import explained, first_line
from deeprl_cli.launch import (
    asked_to_stop,
    check_ranks,
    counted,
    folder_of_rank,
    in_rank,
    launch,
    membership,
    parallel,
    replay_notes,
    restarts,
)
from deeprl_cli.lock import locked
from deeprl_cli.logger import RunLogger
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.progress import Progress
from deeprl_cli.registry import get_algorithm
from deeprl_cli.run_folder import CONFIG_NAME, create_run_folder, write_summary
from deeprl_cli.schema import EpisodeConfig, MultiprocessConfig, ReplayConfig, RunConfig
from deeprl_cli.signals import began, stop_on_signals
from deeprl_cli.trainers.asynchronous import AsynchronousTrainer, check_workers, workers_of
from deeprl_cli.trainers.base import Services, Trainer
from deeprl_cli.trainers.demonstrations import DemonstrationTrainer, check_demonstrations
from deeprl_cli.trainers.episodes import EpisodeTrainer
from deeprl_cli.trainers.replay import ReplayTrainer
from deeprl_cli.trainers.rollout import RolloutTrainer
from deeprl_cli.transcripts import has_transcripts, in_a_row, transcripts
from deeprl_cli.warm_start import find_source, start_from
from deeprl_cli.weights_chain import WeightsChain

TRAINERS: dict[str, type[Trainer]] = {
    "rollout": RolloutTrainer,
    "episodes": EpisodeTrainer,
    "replay": ReplayTrainer,
    "demonstrations": DemonstrationTrainer,
}


def preflight(cfg: RunConfig, *, fresh: bool = True) -> EnvSpec:
    """Everything that can be known to fail before anything is built. Raises UserError, one line.

    A run that goes on (not `fresh`) has its weights, and needs those of `init_from` no more.
    """
    hw.check_device(cfg.hardware)
    check_workers(cfg)
    check_ranks(cfg)
    spec = env_spec(cfg.env)
    probe(cfg.env)
    get_algorithm(cfg.algo.name).check(cfg.algo, cfg.network, spec)
    check_memory(cfg, spec)
    if get_algorithm(cfg.algo.name).loop_for(cfg.algo) == "episodes":
        check_episodes(cfg)
    if get_algorithm(cfg.algo.name).loop_for(cfg.algo) == "demonstrations":
        check_demonstrations(cfg.env, spec)
    if fresh:
        find_source(cfg)
    if isinstance(cfg.algo, ReplayConfig) and cfg.algo.learning_starts >= cfg.total_steps:
        raise ConfigError(
            f"algo.learning_starts={cfg.algo.learning_starts} leaves nothing of total_steps={cfg.total_steps} to learn "
            f"in: give a larger total_steps, or fewer random steps first"
        )
    return spec


def check_episodes(cfg: RunConfig) -> None:
    """Raise ConfigError where environments can't wait for one another's episodes to end."""
    if cfg.env.backend != "sync":
        raise ConfigError(
            f"algo={cfg.algo.name} waits for whole episodes, and env.backend={cfg.env.backend} steps every environment "
            "at once: use env.backend=sync"
        )
    if cfg.env.atari.enabled and cfg.env.atari.terminal_on_life_loss:
        raise ConfigError(
            f"algo={cfg.algo.name} waits for whole episodes, and a lost life is only a part of one: give "
            "env.atari.terminal_on_life_loss=false"
        )
    if _own_noise(cfg) and not draws_from_np_random(cfg.env):
        raise ConfigError(
            f"algo.group_noise=independent: {cfg.env.id} doesn't draw from gymnasium's generator (np_random), so that "
            "it can't be reseeded: give algo.group_noise=common"
        )


def episode_notes(cfg: RunConfig) -> list[str]:
    """A word where an update may wait for ever, for an episode that nothing ends."""
    waits = isinstance(cfg.algo, EpisodeConfig) and cfg.algo.longest is None
    if not waits or get_algorithm(cfg.algo.name).loop_for(cfg.algo) != "episodes" or has_time_limit(cfg.env):
        return []
    return [
        f"{cfg.env.id} has no time limit, and algo={cfg.algo.name} waits for every episode's end: where one may never "
        "come, give env.max_episode_steps=…"
    ]


def training_envs(cfg: RunConfig) -> VectorEnv:
    """The environments a run, or this rank of it, learns in. Raises ConfigError."""
    group_size = cfg.algo.group_size if isinstance(cfg.algo, EpisodeConfig) else 1
    own = ranks.share_size(cfg.algo.num_envs)
    return make_vector_env(
        cfg.env,
        cfg.seed_list,
        own,
        first_env=ranks.rank() * own,
        training=True,
        groups_of=group_size,
        own_noise=_own_noise(cfg),
    )


def _own_noise(cfg: RunConfig) -> bool:
    return isinstance(cfg.algo, EpisodeConfig) and cfg.algo.group_noise == "independent"


def train(cfg: RunConfig) -> Path:
    """Run `cfg` to its end; returns the run folder. Raises SystemExit(130 or 143) after a clean stop by a signal."""
    start = began()
    spec = preflight(cfg)
    cfg = counted(cfg)
    if parallel(cfg) and not in_rank():
        return launch_fresh(cfg, spec)
    if restarts():
        if cfg.run_dir is None:
            raise UserError("a rank died, and without run_dir=… the others don't know which run to go on with")
        if (Path(cfg.run_dir) / CONFIG_NAME).exists():
            from deeprl_cli.resume import resume

            return resume(Path(cfg.run_dir), [], trust=True)

    def fresh_folder(stack: ExitStack, hardware: hw.Hardware) -> Path:
        run_dir = create_run_folder(cfg, hardware.resolved())
        stack.enter_context(locked(run_dir))
        return run_dir

    with membership(cfg):
        return carry_out(cfg, spec, start, fresh_folder)


def launch_fresh(cfg: RunConfig, spec: EnvSpec) -> Path:
    """Create the run's folder and have ranks train in it; the folder."""
    hardware = resolved_hardware(cfg, spec)
    run_dir = create_run_folder(cfg, hardware.resolved())
    with locked(run_dir):
        launch(run_dir, cfg, hardware.threads)
    return run_dir


def resolved_hardware(cfg: RunConfig, spec: EnvSpec) -> hw.Hardware:
    """What `auto` comes to, for ranks to be told."""
    policy = make_policy(get_algorithm(cfg.algo.name), cfg.algo, cfg.network, spec, cfg.seed_list, "cpu")
    return hw.resolve(cfg.hardware, workload(cfg, policy))


def carry_out(
    cfg: RunConfig,
    spec: EnvSpec,
    start: float,
    folder: Callable[[ExitStack, hw.Hardware], Path],
    hardware: hw.Hardware | None = None,
    saved: Checkpoint | None = None,
) -> Path:
    """Train `cfg` in the locked `folder` it is given; `hardware` and `saved` are those of a run that goes on.

    Raises UserError where the disk gives out or `saved` doesn't fit, SystemExit as `train` does.
    """
    with ExitStack() as stack:
        parts = assemble(cfg, spec, hardware, stack, fresh=saved is None)
        policy, hardware = parts.policy, parts.hardware
        run_dir = ranks.told(folder(stack, hardware) if ranks.rank() == 0 else Path())
        own_dir = folder_of_rank(run_dir, stack)
        logs = saved.state["log"] if saved is not None else None
        logger = stack.enter_context(RunLogger(own_dir, cfg.seed_list, cfg.log.tensorboard, logs))
        if saved is None and ranks.rank() == 0:
            logger.text("config", f"```yaml\n{(run_dir / 'config.yaml').read_text(encoding='utf-8')}```")
        signals = stack.enter_context(stop_on_signals())
        screen = None if ranks.rank() == 0 else stack.enter_context(open(os.devnull, "w"))
        progress = stack.enter_context(Progress(cfg.total_steps, cfg.seeds, screen))
        progress.message(f"{cfg.algo.name} on {cfg.env.id}, seeds {_span(cfg.seed_list)}: {run_dir}")
        for note in (*parts.notes, *hardware.notes, *episode_notes(cfg), *durability_notes(cfg, spec, parts.envs)):
            progress.message(note)
        with fitting(run_dir):
            chain = WeightsChain(own_dir, saved.state["chain"] if saved is not None else None)

        def asked() -> bool:
            return signals.requested() or asked_to_stop()

        services = Services(run_dir, logger, progress, asked, chain)
        trainer, compiler = make_trainer(cfg, parts, services)
        trainer.began = start
        if saved is not None:
            with fitting(run_dir):
                trainer.load_state_dict(saved.state, saved.segments)
            progress.message(f"goes on from step {trainer.steps} of {cfg.total_steps}")
        elif has_transcripts(cfg.env.id):
            progress.message(show_transcripts(policy, cfg, "before training"))
        status, final = "failed", None
        try:
            trainer.run()
            progress.status("final evaluation")
            final = final_evaluation(cfg, policy, run_dir, lambda: trainer.stop_agreed or asked())
            progress.status("")
            if has_transcripts(cfg.env.id):
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


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of; `notes` are words for the user about where the weights came from."""

    policy: Policy
    hardware: hw.Hardware
    envs: VectorEnv
    evaluation_envs: VectorEnv
    notes: list[str]


def assemble(cfg: RunConfig, spec: EnvSpec, hardware: hw.Hardware | None, stack: ExitStack, *, fresh: bool) -> Parts:
    """Build the parts; `stack` closes the environments. `fresh` starts from `cfg.init_from` where it names a run."""
    policy = make_policy(get_algorithm(cfg.algo.name), cfg.algo, cfg.network, spec, cfg.seed_list, "cpu")
    source = find_source(cfg) if fresh else None
    notes = start_from(policy, cfg, source) if source is not None else []
    hardware = hardware or hw.resolve(cfg.hardware, workload(cfg, policy))
    hw.apply(hardware)
    policy.on(hardware.device)
    envs = training_envs(cfg)
    stack.callback(envs.close)
    if ranks.rank() == 0:
        evaluation_envs = eval_envs(cfg.env, cfg.seed_list, cfg.eval.episodes)
    else:
        evaluation_envs = eval_envs(cfg.env, cfg.seed_list[:1], 1)  # rank 0 evaluates
    stack.callback(evaluation_envs.close)
    return Parts(policy, hardware, envs, evaluation_envs, notes)


def make_trainer(cfg: RunConfig, parts: Parts, services: Services) -> tuple[Trainer, hw.GraphCompiler | None]:
    """The trainer for the algorithm's loop, its graphs handed to the compiler where the hardware says so."""
    loop = TRAINERS[get_algorithm(cfg.algo.name).loop_for(cfg.algo)] if workers_of(cfg) is None else AsynchronousTrainer
    trainer = loop(cfg, parts.policy, parts.envs, parts.evaluation_envs, parts.hardware, services)
    compiler = hw.GraphCompiler(trainer.compiling) if parts.hardware.compile else None
    if compiler is not None:
        parts.policy.algorithm.compile_graphs(compiler)
    return trainer, compiler


@contextmanager
def fitting(run: Path) -> Iterator[None]:
    """Raises UserError where what is restored from a run's checkpoint is of another configuration, or no state."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        folder = run / "checkpoints" / "last"
        raise UserError(f"{folder}: doesn't fit this run's config.yaml ({first_line(error)})") from error


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


def workload(cfg: RunConfig, policy: Policy) -> hw.Workload:
    """Rough arithmetic of the run: a training pass costs about six operations per parameter use and sample."""
    batch, gradient_steps = cfg.algo.gradient_work(cfg.total_steps)
    multiplications = sum(stack.multiplications() for stack in policy.algorithm.stacks().values())
    acts = cfg.total_steps / cfg.algo.num_envs
    shares = (cfg.hardware.ranks or 1) if isinstance(cfg.hardware, MultiprocessConfig) else 1
    return hw.Workload(6.0 * multiplications * batch * cfg.seeds / shares, gradient_steps, cfg.seeds, acts)


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
    lines += [f"run folder                 {run_dir}", f"see its curves             tensorboard --logdir {run_dir}"]
    return "\n".join(lines)


def _returns(means: list[float]) -> str:
    shown = ", ".join(f"{mean:.1f}" for mean in means)
    return shown if len(means) == 1 else f"{sum(means) / len(means):.1f} (seeds: {shown})"
