"""`deeprl train --check …`: build the run, do one update, and say how much time and memory the run will take."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from deeprl_cli.config.tuned import tuned_note
from deeprl_cli.data.memory import free_bytes, memory_bytes
from deeprl_cli.envs.look import Look
from deeprl_cli.errors import UserError
from deeprl_cli.policy import Policy
from deeprl_cli.processes import hardware as hw
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.weights_chain import WeightsChain
from deeprl_cli.schema.run import ReplayConfig, RunConfig, device_of
from deeprl_cli.training.assemble import assemble, make_trainer, resolved_hardware
from deeprl_cli.training.asynchronous import in_one_process, workers_of
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Outlet

PATIENCE = 30.0  # seconds to wait for the first update
MEASURED = 4.0  # seconds of training that are measured for the estimate of time
TELLING = 5.0  # after this many times as long, work that is done only once no longer matters
EVERY = 5.0  # seconds between lines that say how far it is


def check(cfg: RunConfig, seen: Look | None = None) -> str:
    """What was found, as text; `seen` saves another look at the environment. Raises UserError, as the run itself would,
    for whatever can't work."""
    seen = preflight(cfg, seen=seen)
    short = in_one_process(cfg)  # what each worker does, in one process
    if isinstance(cfg.algo, ReplayConfig):  # only the update matters here, not the random steps before it
        starts = min(cfg.algo.learning_starts, cfg.algo.batch_size)
        short = dataclasses.replace(short, algo=dataclasses.replace(cfg.algo, learning_starts=starts))
    chosen = resolved_hardware(cfg, seen.spec)
    if workers_of(cfg) is not None and cfg.hardware.threads == "auto":
        chosen = dataclasses.replace(chosen, threads=1)  # the workers use the cores
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deeprl_check_")))
        parts = assemble(short, seen.spec, chosen, stack, fresh=True)
        logger = stack.enter_context(RunLogger(folder, cfg.seed_list, tensorboard=False))
        outlet = Outlet(folder, logger, WeightsChain(folder))
        services = Services([outlet], Progress(cfg.total_steps, cfg.seeds, sys.stderr), lambda: False)
        trainer, compiler = make_trainer(short, parts, services)
        clock = Clock(compiler)
        watch(trainer)
        losses, warm_up = first_update(trainer, clock)
        # it took long enough to be timed; no need to do it again
        pace = Pace(trainer.steps, clock.seconds()) if clock.seconds() > TELLING * MEASURED else measure(trainer, clock)
        state = sum(t.numel() * t.element_size() for t in parts.policy.state_dict().values() if hasattr(t, "numel"))
    found = report(cfg, parts.policy, chosen, losses, seconds_for(cfg, warm_up, pace), state)
    tuned = tuned_note(cfg.tuned, cfg.env.id, cfg.total_steps)
    return "\n".join([*found, tuned, *seen.notes, *parts.notes])


class Pace(NamedTuple):
    """Environment steps of one seed, and the seconds that they took."""

    steps: int
    seconds: float

    def of(self, steps: int) -> float:
        """Seconds for so many steps."""
        return steps * self.seconds / max(self.steps, 1)


class Clock:
    """Seconds since it was made, without those of compiling."""

    def __init__(self, compiler: hw.GraphCompiler | None) -> None:
        self.compiler, self.began = compiler, time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.began - (self.compiler.seconds if self.compiler else 0.0)


def seconds_for(cfg: RunConfig, warm_up: Pace, pace: Pace) -> float:
    """How long the run will train: its random steps are faster than those with learning."""
    starts = min(cfg.algo.learning_starts, cfg.total_steps) if isinstance(cfg.algo, ReplayConfig) else 0
    starts = starts if warm_up.steps else 0
    workers = min(workers_of(cfg) or 1, hw.available_cores())  # more workers than cores bring nothing
    return warm_up.of(starts) + pace.of(cfg.total_steps - starts) / workers


def watch(trainer: Trainer) -> None:
    """Make the trainer say every few seconds how far it is: a rollout and its update may take minutes."""
    played, learned, told = 0, 0, time.perf_counter()

    def tell() -> None:
        nonlocal told
        if time.perf_counter() - told > EVERY:
            told = time.perf_counter()
            print(f"one update on trial: {played:,} steps of {trainer.num_envs} environments", end="", file=sys.stderr)
            print(f", {learned:,} gradient steps" if learned else "", file=sys.stderr, flush=True)

    def env_step(*arguments: Any) -> Any:
        nonlocal played
        played += 1
        tell()
        return step(*arguments)

    def graph(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal learned
            learned += 1
            tell()
            return method(*arguments)

        return counted

    step = trainer.env_step
    watched: Any = trainer
    watched.env_step = env_step
    for name in set(trainer.algorithm.graphs) - {"act"}:
        setattr(trainer.algorithm, name, graph(getattr(trainer.algorithm, name)))


def first_update(trainer: Trainer, clock: Clock) -> tuple[str, Pace]:
    """Train until the first update; its losses in words, and the pace of the steps before it. Raises UserError if a
    loss is not finite."""
    trainer.start()
    before = Pace(0, 0.0)
    began = clock.seconds()
    while not (metrics := trainer.averaged_metrics()):
        before = Pace(trainer.steps, clock.seconds() - began)
        trainer.iterate()
        if clock.seconds() - began > PATIENCE and not trainer.averaged_metrics():
            told = f"none within {PATIENCE:.0f} s, {trainer.steps} steps: episodes or rollouts are longer than that"
            return told, before
    for name, values in metrics.items():
        if name.startswith(("loss/", "optim/")) and not values.isfinite().all():
            raise UserError(f"the first update's {name} is {values.tolist()}: look at rewards and learning rates")
    shown = [f"{name} {values.mean():.3g}" for name, values in metrics.items() if name.startswith("loss/")]
    return f"fine ({', '.join(shown)})", before


def measure(trainer: Trainer, clock: Clock) -> Pace:
    """The pace of training as in the run, measured for a moment. Time for compiling is left out."""
    began, steps = clock.seconds(), trainer.steps
    while clock.seconds() - began < MEASURED or trainer.steps == steps:
        trainer.iterate()
    return Pace(trainer.steps - steps, clock.seconds() - began)


def report(cfg: RunConfig, policy: Policy, chosen: hw.Hardware, losses: str, seconds: float, state: int) -> list[str]:
    spec = policy.algorithm.spec
    networks = [
        f"{name} {stack.flat[0].numel():,} weights" + (f" in {stack.copies} copies" if stack.copies else "")
        for name, stack in policy.algorithm.stacks().items()
        if stack.flat.requires_grad
    ]
    memory = memory_bytes(cfg, spec) if isinstance(cfg.algo, ReplayConfig) else 0
    on_disk = state + (memory if cfg.checkpoint.replay else 0)
    free = free_bytes(device_of(cfg.hardware))
    workers = workers_of(cfg) or 1
    choices = ", ".join(f"{key}={value}" for key, value in chosen.resolved().items())
    choices += f", {workers} asynchronous workers" if workers > 1 else ""
    return [
        f"algo={cfg.algo.called} on env={cfg.env.id}, {cfg.seeds} seed{'s' * (cfg.seeds > 1)}: it can be trained",
        f"  observations  {spec.observation_space}",
        f"  actions       {spec.action_space}",
        f"  networks      {'; '.join(networks)}",
        f"  hardware      {choices}",
        f"  first update  {losses}",
        f"  memory        {_mib(memory + state)}" + (f" of {_mib(free)} free" if free is not None else ""),
        f"  disk          {_mib(on_disk)} a checkpoint, {cfg.checkpoint.keep} kept (unchanged parts are shared)",
        f"  time          about {_duration(seconds)} for {cfg.total_steps:,} steps, "
        f"{'compiled' if chosen.compile else 'eager'} ({cfg.total_steps / seconds:,.0f} steps/s of each seed); "
        "evaluations on top",
    ]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
