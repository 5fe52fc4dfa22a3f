"""One process of asynchronous training: it plays a sub-episode with a copy of the shared weights, and applies its
gradients to the shared weights themselves (Hogwild; Mnih et al. 2016).

The loops and the algorithms are those of one process. What a worker changes: its networks are copies, refreshed before
each sub-episode; its optimiser moves the shared weights and keeps its squares in shared memory; and the count of steps,
by which schedules and target networks go, is that of all workers. No tensor has a `.grad`: gradients are values here.
"""

from __future__ import annotations

import dataclasses
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeprl_cli.algorithm import Transition, done
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.spec import Step
from deeprl_cli.policy import Policy
from deeprl_cli.processes import hardware as hw
from deeprl_cli.processes.kernel_lock import KernelLock
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.seeding import mix
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.episodes import EpisodeTrainer
from deeprl_cli.training.rollout import RolloutTrainer
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Outlet

REPORT_EVERY = 0.2  # seconds
EPISODES_A_REPORT = 100  # so that a report fits in what a pipe takes without waiting
WEIGHTS = re.compile(r"(.*\.)?(flat|copies)")  # of which a worker has a copy
MOVED_IN_PLACE = re.compile(r"(.*\.)?([mv]\d+|mean|var|count)")  # an optimiser's moments, a normaliser's statistics


@dataclass
class Shared:
    """What all processes of a run see. Whoever writes a number alone needs no lock; `steps` moves under `lock`.

    `tensors`: by their names in the policy, weights, targets, the optimiser's moments, statistics of normalisers.
    `beats` `(W,)`: each worker's signs of life. `updates`, `skipped` `(W + 1, optimisers)`: how often each worker's
    optimisers stepped, or didn't for a gradient that isn't finite; the last row is from before these workers.
    """

    tensors: dict[str, Tensor]
    steps: Tensor  # (1,)
    go: Tensor  # (1,): 1 once all are ready
    stop: Tensor  # (1,): 1 once they are to come to an end
    beats: Tensor
    updates: Tensor
    skipped: Tensor
    lock: KernelLock

    @classmethod
    def of(cls, policy: Policy, steps: int, workers: int) -> Shared:
        """Shared copies of all that `policy` has learned in `steps`."""
        optimisers = policy.algorithm.optimisers()
        before = torch.zeros(2, workers + 1, len(optimisers), dtype=torch.float64)
        for i, optimiser in enumerate(optimisers):
            before[0, -1, i], before[1, -1, i] = optimiser.steps[0], optimiser.skipped[0]
        return cls(
            tensors={name: tensor.clone().share_memory_() for name, tensor in learned(policy).items()},
            steps=torch.tensor([steps]).share_memory_(),
            go=torch.tensor([0]).share_memory_(),
            stop=torch.tensor([0]).share_memory_(),
            beats=torch.zeros(workers, dtype=torch.int64).share_memory_(),
            updates=before[0].clone().share_memory_(),
            skipped=before[1].clone().share_memory_(),
            lock=KernelLock(),
        )


@dataclass(frozen=True)
class Job:
    """What a worker needs to know. `seed`: for its noise and its environments."""

    cfg: RunConfig
    hardware: hw.Hardware
    index: int
    seed: int
    shared: Shared
    pipe: Any  # its end of it


def worker_seed(seed: int, index: int, generation: int, steps: int) -> int:
    """The first worker of a fresh run plays as one process would. The others, and those that take the place of one
    that died (`generation`), or go on at `steps`, play episodes of their own."""
    return seed if index == generation == steps == 0 else mix(seed, f"worker/{index}/{generation}/{steps}")


def learned(policy: Policy) -> dict[str, Tensor]:
    """Everything of a policy that workers share, by name."""
    both = [*policy.named_parameters(), *policy.named_buffers()]
    return {n: t.detach() for n, t in both if WEIGHTS.fullmatch(n) or MOVED_IN_PLACE.fullmatch(n)}


def bind(policy: Policy, tensors: Mapping[str, Tensor]) -> None:
    """Replace the parameters and buffers with these names."""
    for prefix, module in policy.named_modules():
        for own in (module._parameters, module._buffers):
            for key, old in own.items():
                new = tensors.get(f"{prefix}.{key}" if prefix else key)
                if new is not None:
                    is_parameter = isinstance(old, nn.Parameter)
                    own[key] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new


class WorkerPolicy(Policy):
    """One whose running statistics are shared: they move under the lock."""

    lock: AbstractContextManager[Any] = nullcontext()

    def observe(self, obs: Tensor, weight: Tensor) -> None:
        if self.obs_statistics is not None:
            with self.lock:
                super().observe(obs, weight)

    def observe_rewards(self, reward: Tensor, terminated: Tensor, truncated: Tensor, weight: Tensor) -> None:
        if self.reward_scaler is not None:
            with self.lock:
                super().observe_rewards(reward, terminated, truncated, weight)


class Desk:
    """Where a worker and the others meet: its copy of the weights, its claim on the count of steps, its reports."""

    def __init__(self, job: Job, policy: Policy, shared_policy: Policy) -> None:
        self.cfg, self.index, self.shared, self.pipe = job.cfg, job.index, job.shared, job.pipe
        self.lock = job.shared.lock
        self.lock.while_waiting = self.beat
        self.algorithm, self.shared_algorithm = policy.algorithm, shared_policy.algorithm
        self.horizon = job.cfg.horizon or job.cfg.total_steps
        self.locks_updates = bool(getattr(job.cfg.algo, "lock", False))
        names = {id(parameter): name for name, parameter in policy.named_parameters()}
        tensors = job.shared.tensors
        for optimiser in self.algorithm.optimisers():
            optimiser.redirect([tensors[names[id(parameter)]] for parameter in optimiser.params])
        bind(policy, {name: tensor for name, tensor in tensors.items() if MOVED_IN_PLACE.fullmatch(name)})
        bind(shared_policy, tensors)
        own = learned(policy)
        self.copies = [(own[name], tensors[name]) for name in own if WEIGHTS.fullmatch(name)]
        self._beat = 0
        self._reported = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Whether there are steps left."""
        return int(self.shared.steps) < self.cfg.total_steps and not self.shared.stop

    def beat(self) -> None:
        self._beat += 1
        self.shared.beats[self.index] = self._beat

    @torch.no_grad()
    def pull(self) -> None:
        """Copy the weights and targets as they are now."""
        for ours, theirs in self.copies:
            ours.copy_(theirs)

    def claim(self, taken: int) -> int:
        """Add to the count of steps, and do what depends on it; returns the count before. An update must follow."""
        if self.locks_updates:
            self.lock.__enter__()  # held until `updated`
        with self.lock:
            before = int(self.shared.steps)
            # targets first: of a worker that dies in between, another does the copy again
            self.shared_algorithm.counted(before, before + taken, self.horizon)
            self.shared.steps.fill_(before + taken)
        for i, optimiser in enumerate(self.algorithm.optimisers()):
            optimiser.set_counts(self.shared.updates[:, i].sum(), self.shared.skipped[:, i].sum())
        self._before = [(float(o.steps), float(o.skipped)) for o in self.algorithm.optimisers()]
        return before

    def updated(self) -> None:
        """The update that followed a claim is done."""
        for i, (optimiser, (steps, skipped)) in enumerate(zip(self.algorithm.optimisers(), self._before, strict=True)):
            self.shared.updates[self.index, i] += float(optimiser.steps) - steps
            self.shared.skipped[self.index, i] += float(optimiser.skipped) - skipped
        if self.locks_updates:
            self.lock.__exit__(None, None, None)

    def report(self, trainer: Trainer, *, last: bool = False) -> None:
        """Send what was learned and which episodes ended since the last time, unless that is too soon, or the pipe is
        full: a worker never waits for its parent."""
        now = time.monotonic()
        if not last and (now - self._reported < REPORT_EVERY or not select.select([], [self.pipe], [], 0)[1]):
            return
        self._reported = now
        metrics, updates, episodes = trainer.hand_over(EPISODES_A_REPORT)
        self.pipe.send(("report", {name: float(value) for name, value in metrics.items()}, updates, episodes))


class Worker(Trainer):
    """What both kinds of worker do in addition to their loop."""

    desk: Desk

    def env_step(self, actions: np.ndarray, running: np.ndarray | None = None) -> Step:
        self.desk.beat()
        return super().env_step(actions, running)

    @abstractmethod
    def blank(self) -> Transition:
        """Transitions of weight 0, laid out as an update's."""

    def rehearse(self) -> None:
        """Act and update once, so that all that is loaded or compiled at first use is there; weight 0 moves nothing."""
        spec = {"act": self.algorithm.noise_spec().act}
        noise = NoiseStream(self.cfg.seed_list, "rehearsal", spec, (self.num_envs,))
        self.policy.act(self.obs, noise.next()["act"])
        self.algorithm.update(self.blank(), self.update_noise.next())

    def work(self) -> None:
        # later ones go by where the sub-episode before them began; one that is restarted mustn't start over
        self.algorithm.explore_at(done(int(self.desk.shared.steps), self.desk.horizon))
        while self.desk.wanted:
            self.desk.pull()
            self.iterate()
            self.desk.updated()
            self.desk.report(self)


class RolloutWorker(Worker, RolloutTrainer):
    def blank(self) -> Transition:
        return self.joined(self.rollout.read(self.device))

    def count(self, taken: int) -> None:
        self.steps = self.desk.claim(taken)
        super().count(taken)


class EpisodeWorker(Worker, EpisodeTrainer):
    def blank(self) -> Transition:
        return self.joined([rollout.read(self.device) for rollout in self.rollouts])

    def count(self, taken: Tensor, active: Tensor) -> None:
        self.seed_steps.fill_(self.desk.claim(int(taken.sum())))
        super().count(taken, active)


def main(job: Job) -> None:
    """The whole life of a worker process. What it raises is sent to its parent as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides when workers stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker, close = _build(job)
        try:
            worker.start()
            worker.rehearse()
            job.pipe.send(("ready",))
            while not job.shared.go and not job.shared.stop:
                worker.desk.beat()
                time.sleep(0.01)
            worker.work()
            worker.desk.report(worker, last=True)
        finally:
            close()
        job.pipe.send(("done",))
    except BaseException:
        job.pipe.send(("raised", traceback.format_exc()))
        sys.exit(1)


def _build(job: Job) -> tuple[Worker, Callable[[], None]]:
    """The worker, and what closes its environments."""
    cfg = dataclasses.replace(job.cfg, seed=job.seed, seeds=1)
    hw.apply(job.hardware)
    envs = make_vector_env(cfg.env, cfg.seed_list, cfg.algo.num_envs, training=True)
    algorithm_class = get_algorithm(cfg.algo.name)
    policy, shared_policy = (
        WorkerPolicy(algorithm_class(cfg.algo, cfg.network, envs.spec, cfg.seed_list), cfg.algo.num_envs)
        for _ in range(2)
    )
    policy.lock = job.shared.lock
    policy.algorithm.worker = job.index
    loops: dict[str, type[Worker]] = {"rollout": RolloutWorker, "episodes": EpisodeWorker}
    nothing: Any = None  # a worker writes and shows nothing itself
    services = Services([Outlet(Path(), nothing, nothing)], nothing, lambda: False)
    worker = loops[algorithm_class.loop_for(cfg.algo)](cfg, policy, envs, envs, job.hardware, services)
    worker.desk = Desk(job, policy, shared_policy)
    if job.hardware.compile:
        policy.algorithm.compile_graphs(hw.GraphCompiler(lambda name: None))
    return worker, envs.close


def _end_with_parent() -> None:
    """A killed parent can't stop its workers, so they notice themselves that it is gone."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
