"""The parent of asynchronous training: workers learn; it counts, logs, evaluates and writes checkpoints.

The parent's own networks are a snapshot, taken anew before each of these; between them they are the last that were
known to be good. One seed, on the processor.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from copy import copy
from typing import Any

import torch

from deeprl_cli.algorithm import Metrics, done
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.errors import ConfigError, TrainingError
from deeprl_cli.processes.hardware import available_cores
from deeprl_cli.schema.run import HardwareConfig, MultiprocessConfig, RunConfig
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.crew import Crew, Report, WorkersLost
from deeprl_cli.training.stopwatch import Stopwatch
from deeprl_cli.training.worker import Job, Shared, learned, worker_seed

GRACE = 0.2  # a signal that killed the workers may reach their parent this many seconds later
LOOK = 0.05  # at most this many seconds between checks of the workers
UPDATES = "updates"  # kept beside a report's metrics: how many updates they are the mean of

NOT_REPRODUCIBLE = (
    "asynchronous: workers race, so no two runs are alike; `deeprl resume` brings back weights, the optimiser's "
    "squares and counters, and starts new episodes"
)


def workers_of(cfg: RunConfig) -> int | None:
    """How many workers this run has; None if it isn't asynchronous."""
    hardware = cfg.hardware
    if not isinstance(hardware, MultiprocessConfig) or not get_algorithm(cfg.algo.name).asynchronous:
        return None
    return hardware.workers or available_cores()


def in_one_process(cfg: RunConfig) -> RunConfig:
    """The same run without workers, in one process."""
    if workers_of(cfg) is None:
        return cfg
    hardware = cfg.hardware
    alone = HardwareConfig(
        name="cpu",
        threads=hardware.threads,
        compile=hardware.compile,
        matmul_precision=hardware.matmul_precision,
    )
    return dataclasses.replace(cfg, hardware=alone)


def check_workers(cfg: RunConfig) -> None:
    """Raise ConfigError if this run asks for workers, or its algorithm would use them, and that can't work."""
    hardware, name = cfg.hardware, cfg.algo.called
    if not isinstance(hardware, MultiprocessConfig):
        return
    if not get_algorithm(cfg.algo.name).asynchronous:
        if hardware.workers is not None:
            raise ConfigError(
                f"hardware.workers={hardware.workers}: algo={name} is synchronous, so it can't have workers: give "
                "hardware.ranks=2 instead, or algo=a3c or algo=async_q"
            )
        return
    if hardware.ranks is not None:
        raise ConfigError(
            f"hardware.ranks={hardware.ranks}: algo={name} averages no gradients over processes: give "
            f"hardware.workers={hardware.ranks} instead, or algo=a2c"
        )
    if hardware.device == "cuda":
        raise ConfigError(
            f"hardware.device=cuda: the workers of algo={name} share weights in the processor's memory: give "
            "hardware.device=cpu"
        )
    if cfg.seeds > 1:
        raise ConfigError(
            f"seeds={cfg.seeds}: workers share the weights of one seed, and race: train seeds one after the other, "
            f"deeprl train -m … seed={','.join(map(str, cfg.seed_list[:5]))}, or together with hardware=cpu"
        )
    if cfg.env.backend != "sync":
        raise ConfigError(
            f"env.backend={cfg.env.backend}: workers step their environments themselves: give env.backend=sync"
        )
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise ConfigError("hardware=multiprocess needs locks that Windows doesn't have: give hardware=cpu") from None


class Diverged(Exception):  # noqa: N818
    """Shared weights are no longer finite."""


class UnstoppedWatch(Stopwatch):
    """While workers train, no time belongs to the parent alone."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work = False

    def stop(self) -> None:
        if not self.at_work:
            super().stop()


class AsynchronousTrainer(Trainer):
    """Runs `hardware.workers` processes over shared weights."""

    crew: Crew
    shared: Shared

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        services = self.to
        self.to = copy(services)
        self.to.stopping = self._look_after
        self.asked_to_stop = services.stopping
        self._clock = self._stopwatch = UnstoppedWatch()
        workers = workers_of(self.cfg)
        assert workers is not None
        self.workers = workers
        self.launched = False

    def run(self) -> None:
        """Raises TrainingError if all workers are lost, or the weights are not finite. A checkpoint is kept."""
        try:
            self.launch()
            super().run()
        except (WorkersLost, Diverged) as failure:
            time.sleep(GRACE)
            self.crew.stop()
            with suppress(Diverged):
                self.snapshot()
            super().checkpoint()
            if isinstance(failure, WorkersLost) and self.asked_to_stop():
                return  # the signal that asked us to stop killed them
            hint = "look at the traceback above" if isinstance(failure, WorkersLost) else "give a smaller algo.lr"
            raise TrainingError(
                f"{failure}: {hint}; the checkpoint of step {self.steps} is kept, and "
                f"`deeprl resume {self.to.name}` goes on from it"
            ) from None
        finally:
            if self.launched:
                self.crew.stop(patience=0.0)  # only needed after an unexpected error
            self._stopwatch.at_work = False

    def launch(self) -> None:
        """Start the workers, and let them begin once all are ready."""
        hardware, cfg = self.cfg.hardware, self.cfg
        assert isinstance(hardware, MultiprocessConfig)
        self.shared = Shared.of(self.policy, self.steps, self.workers)
        from_step = self.steps
        if hardware.threads == "auto":
            self.hardware = dataclasses.replace(self.hardware, threads=1)  # workers have the cores

        def job(index: int, generation: int, pipe: Any) -> Job:
            return Job(
                cfg, self.hardware, index, worker_seed(cfg.seed, index, generation, from_step), self.shared, pipe
            )

        self.to.progress.message(NOT_REPRODUCIBLE)
        self.crew = Crew(self.shared, hardware, job, self.to.progress.message, self.take)
        self.launched = True
        self.to.progress.status(f"starting {self.workers} worker{'s' if self.workers > 1 else ''}")
        self.crew.start()
        while not self.crew.ready and not self.asked_to_stop():
            self.crew.watch(LOOK)
        self.to.progress.status("")
        self._stopwatch.at_work = True
        self.first_step_at = time.monotonic()
        self.shared.go.fill_(1)

    def iterate(self) -> None:
        self.crew.watch(LOOK)
        self.steps = int(self.shared.steps)
        if self.filming.due(self.steps):
            self.snapshot()

    def end_of_training(self) -> None:
        """Wait for the last sub-episodes, before the last checkpoint is written."""
        self.crew.stop()
        self._stopwatch.at_work = False
        self._stopwatch.stop()
        self.snapshot()

    def take(self, report: Report) -> None:
        """Take in a worker's report."""
        metrics, updates, episodes = report
        if updates:
            counted = {**metrics, UPDATES: float(updates)}
            self.learned({name: torch.tensor([value]) for name, value in counted.items()})
        self._episodes += episodes

    def averaged_metrics(self) -> Metrics:
        if not self._metrics:
            return {}
        counts = torch.stack([metrics[UPDATES] for metrics in self._metrics])
        names = [name for name in self._metrics[0] if name != UPDATES]
        return {
            name: (torch.stack([metrics[name] for metrics in self._metrics]) * counts).sum(0) / counts.sum(0)
            for name in names
        }

    @torch.no_grad()
    def snapshot(self) -> None:
        """Make the parent's networks what the shared ones are now. Raises Diverged where these aren't finite; the
        parent's then stay what they were."""
        steps = int(self.shared.steps)
        fresh = {name: tensor.clone() for name, tensor in self.shared.tensors.items()}
        broken = sorted(name for name, tensor in fresh.items() if not bool(tensor.isfinite().all()))
        if broken:
            raise Diverged(f"shared weights are no longer finite ({', '.join(broken)}; noticed at step {steps})")
        self.steps = steps
        for name, tensor in learned(self.policy).items():
            tensor.copy_(fresh[name])
        for i, optimiser in enumerate(self.algorithm.optimisers()):
            optimiser.set_progress(done(steps, self.horizon))
            optimiser.set_counts(self.shared.updates[:, i].sum(), self.shared.skipped[:, i].sum())
        self.algorithm.explore_at(done(steps, self.horizon))

    def log(self) -> None:
        self.snapshot()
        super().log()

    def evaluate(self) -> None:
        self.snapshot()
        super().evaluate()

    def checkpoint(self) -> None:
        self.snapshot()
        super().checkpoint()

    def keep_history(self) -> None:
        self.snapshot()
        super().keep_history()

    def state_dict(self) -> dict[str, Any]:
        """The state, including what the same run in one process would need to go on."""
        steps = torch.tensor([self.steps])
        return {**super().state_dict(), "seed_steps": steps, "seed_progress": steps, "iterations": self.steps}

    def _look_after(self) -> bool:
        """Called in every step of an evaluation; it also looks after the workers."""
        if self.launched and self._stopwatch.at_work:
            self.crew.watch()
        return self.asked_to_stop()
