"""`deeprl train`: from a checked configuration to a finished run on disk."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from deeprl_cli import hardware as hw
from deeprl_cli.data.memory import check_memory
from deeprl_cli.envs.make import env_spec, make_vector_env
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.evaluate import FRESH, Evaluation, EvaluationStopped, best_path, eval_envs, evaluate, load_best
from deeprl_cli.logger import RunLogger
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.progress import Progress
from deeprl_cli.registry import get_algorithm
from deeprl_cli.run_folder import create_run_folder, write_summary
from deeprl_cli.schema import ReplayConfig, RunConfig
from deeprl_cli.trainers.base import Services, Trainer
from deeprl_cli.trainers.replay import ReplayTrainer
from deeprl_cli.trainers.rollout import RolloutTrainer

TRAINERS: dict[str, type[Trainer]] = {"rollout": RolloutTrainer, "replay": ReplayTrainer}
_processes_first_run = True


def preflight(cfg: RunConfig) -> EnvSpec:
    """Everything that can be known to fail before anything is built. Raises ConfigError, one line."""
    hw.check_device(cfg.hardware)
    spec = env_spec(cfg.env)
    get_algorithm(cfg.algo.name).check(cfg.algo, cfg.network, spec)
    check_memory(cfg, spec)
    if isinstance(cfg.algo, ReplayConfig) and cfg.algo.learning_starts >= cfg.total_steps:
        raise ConfigError(
            f"algo.learning_starts={cfg.algo.learning_starts} leaves nothing of total_steps={cfg.total_steps} to learn "
            f"in: give a larger total_steps, or fewer random steps first"
        )
    return spec


def train(cfg: RunConfig) -> Path:
    """Run `cfg` to its end; returns the run folder. Raises SystemExit(130 or 143) after a clean stop by a signal."""
    began = _began()
    spec = preflight(cfg)
    algorithm_class = get_algorithm(cfg.algo.name)
    policy = make_policy(algorithm_class, cfg.algo, cfg.network, spec, cfg.seed_list, "cpu")
    hardware = hw.resolve(cfg.hardware, workload(cfg, policy))
    hw.apply(hardware)
    policy.on(hardware.device)
    with ExitStack() as stack:
        envs = make_vector_env(cfg.env, cfg.seed_list, cfg.algo.num_envs, training=True)
        stack.callback(envs.close)
        evaluation_envs = eval_envs(cfg.env, cfg.seed_list, cfg.eval.episodes)
        stack.callback(evaluation_envs.close)
        run_dir = create_run_folder(cfg, hardware.resolved())
        logger = RunLogger(run_dir, cfg.seed_list, cfg.log.tensorboard)
        stack.callback(logger.close)
        logger.text("config", f"```yaml\n{(run_dir / 'config.yaml').read_text(encoding='utf-8')}```")
        signals = stack.enter_context(stop_on_signals())
        progress = stack.enter_context(Progress(cfg.total_steps, cfg.seeds))
        progress.message(f"{cfg.algo.name} on {cfg.env.id}, seeds {_span(cfg.seed_list)}: {run_dir}")
        for note in hardware.notes:
            progress.message(note)
        services = Services(run_dir, logger, progress, signals.requested)
        trainer = TRAINERS[algorithm_class.loop](cfg, policy, envs, evaluation_envs, hardware, services)
        compiler = hw.GraphCompiler(trainer.compiling) if hardware.compile else None
        if compiler is not None:
            policy.algorithm.compile_graphs(compiler)
        status, final = "failed", None
        try:
            trainer.run()
            progress.status("final evaluation")
            final = final_evaluation(cfg, policy, run_dir, signals.requested)
            progress.status("")
            status = "finished"
        except (EvaluationStopped, KeyboardInterrupt) as stop:
            status = "interrupted"
            if isinstance(stop, KeyboardInterrupt):
                raise
        finally:
            summary = summarise(cfg, trainer, began, compiler.seconds if compiler else 0.0, final, status)
            write_summary(run_dir, summary)
    print(_farewell(run_dir, summary))
    if signals.received is not None:
        raise SystemExit(128 + signals.received)
    return run_dir


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
    return hw.Workload(6.0 * multiplications * batch * cfg.seeds, gradient_steps, cfg.seeds)


def summarise(
    cfg: RunConfig,
    trainer: Trainer,
    began: float,
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
        "wall_seconds": round(time.time() - began, 3),
        "startup_seconds": None if first_step is None else round(first_step - began, 3),
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


class Signals:
    """Whether SIGINT or SIGTERM came. A second one is no longer held back."""

    def __init__(self) -> None:
        self.received: int | None = None

    def requested(self) -> bool:
        return self.received is not None


@contextmanager
def stop_on_signals() -> Iterator[Signals]:
    """Turn the first SIGINT or SIGTERM into a request to stop; the next one acts as usual."""
    signals = Signals()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        signals.received = number
        for other, handler in previous.items():
            signal.signal(other, handler)
        os.write(2, b"\nstopping: writing the last checkpoint (once more to quit at once)\n")

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    except ValueError:
        pass  # not the main thread: a launcher that runs jobs in threads keeps its own handling
    try:
        yield signals
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)


def _began() -> float:
    """When this run's process started, or now for a later run of one process."""
    global _processes_first_run
    now = time.time()
    if not _processes_first_run:
        return now
    _processes_first_run = False
    return _process_start() or now


def _process_start() -> float | None:
    """Seconds since the epoch, from Linux's process table; None elsewhere."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


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


def _returns(means: list[float]) -> str:
    shown = ", ".join(f"{mean:.1f}" for mean in means)
    return shown if len(means) == 1 else f"{sum(means) / len(means):.1f} (seeds: {shown})"
