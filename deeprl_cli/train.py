"""`deeprl train`: from a checked configuration to a finished run on disk."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprl_cli import hardware as hw
from deeprl_cli.checkpoint import Checkpoint
from deeprl_cli.data.memory import check_memory, memory_bytes
from deeprl_cli.envs.make import draws_from_np_random, env_spec, make_vector_env
from deeprl_cli.envs.probe import probe
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluate import FRESH, Evaluation, EvaluationStopped, best_path, eval_envs, evaluate, load_best
from deeprl_cli.lock import locked
from deeprl_cli.logger import RunLogger
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.progress import Progress
from deeprl_cli.registry import get_algorithm
from deeprl_cli.run_folder import create_run_folder, write_summary
from deeprl_cli.schema import EpisodeConfig, ReplayConfig, RunConfig
from deeprl_cli.signals import began, stop_on_signals
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


def training_envs(cfg: RunConfig) -> VectorEnv:
    """The environments a run learns in. Raises ConfigError."""
    group_size = cfg.algo.group_size if isinstance(cfg.algo, EpisodeConfig) else 1
    return make_vector_env(
        cfg.env,
        cfg.seed_list,
        cfg.algo.num_envs,
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

    def fresh_folder(stack: ExitStack, hardware: hw.Hardware) -> Path:
        run_dir = create_run_folder(cfg, hardware.resolved())
        stack.enter_context(locked(run_dir))
        return run_dir

    return carry_out(cfg, spec, start, fresh_folder)


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
        run_dir = folder(stack, hardware)
        logs = saved.state["log"] if saved is not None else None
        logger = stack.enter_context(RunLogger(run_dir, cfg.seed_list, cfg.log.tensorboard, logs))
        if saved is None:
            logger.text("config", f"```yaml\n{(run_dir / 'config.yaml').read_text(encoding='utf-8')}```")
        signals = stack.enter_context(stop_on_signals())
        progress = stack.enter_context(Progress(cfg.total_steps, cfg.seeds))
        progress.message(f"{cfg.algo.name} on {cfg.env.id}, seeds {_span(cfg.seed_list)}: {run_dir}")
        for note in (*parts.notes, *hardware.notes, *durability_notes(cfg, spec, parts.envs)):
            progress.message(note)
        with fitting(run_dir):
            chain = WeightsChain(run_dir, saved.state["chain"] if saved is not None else None)
        services = Services(run_dir, logger, progress, signals.requested, chain)
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
            final = final_evaluation(cfg, policy, run_dir, signals.requested)
            progress.status("")
            if has_transcripts(cfg.env.id):
                progress.message(show_transcripts(policy, cfg, "after training"))
            status = "finished"
        except (EvaluationStopped, KeyboardInterrupt) as stop:
            status = "interrupted"
            if isinstance(stop, KeyboardInterrupt):
                raise
        except OSError as error:
            raise disk_error(trainer, error) from error
        finally:
            summary = summarise(cfg, trainer, compiler.seconds if compiler else 0.0, final, status)
            with suppress(*([OSError] if status == "failed" else [])):  # the disk may be what failed
                write_summary(run_dir, summary)
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
    evaluation_envs = eval_envs(cfg.env, cfg.seed_list, cfg.eval.episodes)
    stack.callback(evaluation_envs.close)
    return Parts(policy, hardware, envs, evaluation_envs, notes)


def make_trainer(cfg: RunConfig, parts: Parts, services: Services) -> tuple[Trainer, hw.GraphCompiler | None]:
    """The trainer for the algorithm's loop, its graphs handed to the compiler where the hardware says so."""
    loop = TRAINERS[get_algorithm(cfg.algo.name).loop_for(cfg.algo)]
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
        raise UserError(f"{folder}: doesn't fit this run's config.yaml ({_first_line(error)})") from error


def disk_error(trainer: Trainer, error: OSError) -> Exception:
    """What to say of an OSError in training: a disk that is full or gone names the checkpoint that stands."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM):
        return error
    run, kept = trainer.to.run_dir, trainer.checkpoint_step
    last = f"the last whole checkpoint is of step {kept}" if kept is not None else "there is no checkpoint yet"
    return UserError(
        f"{run}: can't be written ({error.strerror}): stopped at step {trainer.steps}, {last}; make room, then "
        f"`deeprl resume {run}`"
    )


def durability_notes(cfg: RunConfig, spec: EnvSpec, envs: VectorEnv) -> list[str]:
    """What a user who may want to resume this run should hear before it starts."""
    notes = []
    if not envs.replayable:
        notes.append(f"env.backend={cfg.env.backend} can't be brought back exactly: resumed, episodes start afresh")
    if isinstance(cfg.algo, ReplayConfig) and cfg.checkpoint.replay:
        size = memory_bytes(cfg, spec) / 2**20
        if size > 100:
            notes.append(f"checkpoints hold the replay memory, up to {size:.0f} MiB (checkpoint.replay=false: without)")
    return notes


def final_evaluation(
    cfg: RunConfig, policy: Policy, run_dir: Path, stopping: Callable[[], bool]
) -> tuple[Evaluation, Evaluation]:
    """(last, best) on fresh episodes: the best checkpoint is played again, since luck helped to choose it.

    Raises EvaluationStopped when `stopping()`.
    """
    with ExitStack() as stack:
        envs = eval_envs(cfg.env, [seed + FRESH for seed in cfg.seed_list], cfg.eval.final_episodes)
        stack.callback(envs.close)
        last = evaluate(policy, envs, cfg.eval.final_episodes, stopping=stopping)
        if not all(best_path(run_dir, seed).exists() for seed in cfg.seed_list):
            return last, last  # eval.every=0: the last policy is all there is
        load_best(policy, run_dir, cfg.seed_list)
        return last, evaluate(policy, envs, cfg.eval.final_episodes, stopping=stopping)


def workload(cfg: RunConfig, policy: Policy) -> hw.Workload:
    """Rough arithmetic of the run: a training pass costs about six operations per parameter use and sample."""
    batch, gradient_steps = cfg.algo.gradient_work(cfg.total_steps)
    multiplications = sum(stack.multiplications() for stack in policy.algorithm.stacks().values())
    acts = cfg.total_steps / cfg.algo.num_envs
    return hw.Workload(6.0 * multiplications * batch * cfg.seeds, gradient_steps, cfg.seeds, acts)


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
    lines += [f"run folder                 {run_dir}", f"see its curves             tensorboard --logdir {run_dir}"]
    return "\n".join(lines)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _returns(means: list[float]) -> str:
    shown = ", ".join(f"{mean:.1f}" for mean in means)
    return shown if len(means) == 1 else f"{sum(means) / len(means):.1f} (seeds: {shown})"
