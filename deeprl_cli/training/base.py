"""What all training loops share: acting, counting, logging, evaluating, checkpoints, and a clean end.

Shapes: S seeds, B environments per seed, N = S·B (seed-major). Steps count environment steps of one seed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprl_cli.algorithm import Algorithm, Metrics, average
from deeprl_cli.data.replay import Segments
from deeprl_cli.envs.spec import Step
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.evaluation.evaluate import Evaluation, in_words
from deeprl_cli.policy import Policy
from deeprl_cli.processes import ranks
from deeprl_cli.processes.hardware import Hardware
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training import together
from deeprl_cli.training.evaluating import Evaluating
from deeprl_cli.training.figures import mean, next_multiple, of_episodes, of_optimiser, silenced
from deeprl_cli.training.filming import Filming
from deeprl_cli.training.progress import Position
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Share
from deeprl_cli.training.shares import Shares
from deeprl_cli.training.stopping import Ending
from deeprl_cli.training.stopwatch import Stopwatch

ACT_BLOCK = 256  # steps of action noise drawn at a time
RECENT = 100  # the return on the screen is the mean of at most so many episodes


class Trainer(ABC):
    """Runs one configuration to its end. `state_dict()` holds everything that moves."""

    length = 1  # steps of each environment in an iteration
    doing = ""  # what the loop is doing, if that isn't obvious

    def __init__(
        self,
        cfg: RunConfig,
        policy: Policy,
        envs: VectorEnv,
        eval_envs: VectorEnv | None,
        hardware: Hardware,
        to: Services,
    ) -> None:
        self.cfg, self.policy, self.hardware, self.to = cfg, policy, hardware, to
        self.envs = envs
        self.algorithm: Algorithm = policy.algorithm
        self.device = torch.device(hardware.device)
        self.num_seeds, self.num_envs = cfg.seeds, cfg.algo.num_envs
        self.own_envs = ranks.share_size(self.num_envs)  # those that this process steps
        spec, width, block = self.algorithm.noise_spec(), (self.num_envs,), self.update_block()
        self.act_noise = NoiseStream(cfg.seed_list, "act", {"act": spec.act}, width, ACT_BLOCK, device=self.device)
        self.update_noise = NoiseStream(cfg.seed_list, "update", spec.step, block=block, device=self.device)
        self.horizon = cfg.horizon or cfg.total_steps  # of the schedules
        self.steps = 0
        self.played = 0  # steps, those of the iteration under way included
        self.began = time.monotonic()  # when this process began
        self.wall_seconds_before = 0.0  # of processes that trained this run before
        self.begun = False  # has its first observations
        self.first_step_at: float | None = None  # time.monotonic() of the first environment step
        self.finished_episodes = [0] * self.num_seeds
        self.best: list[float] = [-float("inf")] * self.num_seeds
        self.evaluating = Evaluating(cfg.eval, self.num_seeds, eval_envs)
        self.evaluations: list[list[float]] = [[] for _ in self.best]  # of each seed, the mean return of each one
        self.last_evaluation: Evaluation | None = None
        self.evaluated_at: int | None = None  # step of the curve's last evaluation
        self._episodes: list[tuple[int, float, int]] = []  # (seed index, return, length) since the last log
        self._metrics: list[Metrics] = []
        self._learned_at: list[int] = []  # steps at which they came
        self.shares = Shares(cfg, policy, [part for part in (envs, eval_envs) if part is not None], to)
        self.filming = Filming(cfg, policy, self.shares, to)
        self._recent_return = float("nan")
        self._next_log, self._next_eval, self._next_checkpoint = cfg.log.every, cfg.eval_every, cfg.checkpoint.every
        self._clock = Stopwatch()
        self.ending = Ending(cfg, self.shares)

    # --- for the loops --------------------------------------------------------------------------------------------

    @abstractmethod
    def iterate(self) -> None:
        """Collect and learn once; adds to `steps`."""

    def update_block(self) -> int:
        """How many updates' noise to draw at a time."""
        return 1

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions `(N, *action)` of the exploring policy for raw observations `(N, *obs)`."""
        return self.policy.act(obs, ranks.share(self.act_noise.next()["act"]))

    def env_step(self, actions: np.ndarray, running: np.ndarray | None = None) -> Step:
        """Step every environment (those `running`) and keep count of the episodes that end."""
        step = self.envs.step(actions) if running is None else self.envs.step(actions, running)
        if self.first_step_at is None:
            self.first_step_at = time.monotonic()
        if self.envs.failures:
            self.shares.end_failures(self.envs, self.steps)
        self.played += self.num_envs if running is None else int(running.sum()) // self.num_seeds
        if step.episode_end.any():
            for n in np.flatnonzero(step.episode_end):
                seed_index = int(n) // self.own_envs
                self._episodes.append((seed_index, float(step.episode_return[n]), int(step.episode_length[n])))
            self.algorithm.episodes_ended(torch.from_numpy(step.episode_end).view(self.num_seeds, -1).to(self.device))
        return step

    def learned(self, metrics: Metrics) -> None:
        """Keep an update's metrics for the next log."""
        self._metrics.append(metrics)
        self._learned_at.append(self.steps)

    def averaged_metrics(self) -> Metrics:
        """The metrics of the updates since the last log, averaged for each seed."""
        return average(self._metrics)

    def hand_over(self, episodes: int) -> tuple[Metrics, int, list[tuple[int, float, int]]]:
        """What a log would take, and keep it no longer: averaged metrics, of how many updates, and at most so many
        `episodes` (seed index, return, length)."""
        handed = self.averaged_metrics(), len(self._metrics), self._episodes[:episodes]
        self._episodes, self._metrics, self._learned_at = self._episodes[episodes:], [], []
        return handed

    def silent_seeds(self) -> Sequence[int]:
        """Seeds (their indices) with nothing to log: all that they did has been."""
        return ()

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until `total_steps`, a goal, or until asked to stop; the last checkpoint is written either way."""
        self.begin()
        self.to.progress.follow(self.position)
        try:
            self.ending.look(
                self.evaluations, self.steps, self.save
            )  # at a goal that was reached before an interruption
            if self.cfg.eval_every and self.steps >= self._next_eval:
                self.evaluate()  # which the interruption cut short
            while self.steps < self.cfg.total_steps and not self.time_to_stop():
                self.iterate()
                self.played = self.steps
                if self.steps >= self._next_log:
                    self.log()
                if self.cfg.eval_every and self.steps >= self._next_eval:
                    self.evaluate()
                if self.shares.history_due(self.steps):
                    self.keep_history()
                self.filming.look(self.steps, self._clock)
                if self.cfg.checkpoint.every and self.steps >= self._next_checkpoint:
                    self.checkpoint()
        finally:
            self._clock.stop()
        self.end_of_training()
        if self.steps >= self.cfg.total_steps and (self._metrics or self._episodes):
            self.log()  # what is pending at an early stop is in the checkpoint, so resumed curves are the same
        self.checkpoint()
        self._clock.stop()

    def begin(self) -> None:
        """Get first observations, if no checkpoint brought them, and start the clock."""
        if not self.begun:
            self.start()
        self.begun = True
        self.filming.begin(self.steps)
        self._clock.start()

    def end_of_training(self) -> None:  # noqa: B027 - most loops have nothing to do
        """Called when the last iteration is done, before the last log and the last checkpoint."""

    def time_to_stop(self) -> bool:
        return self.ending.due(self.to.stopping, self.wall_seconds, self.length)

    def start(self) -> None:
        """Get first observations, unless they came from a checkpoint."""
        self.obs = self.envs.reset()
        self.shares.end_failures(self.envs, self.steps)

    def position(self) -> Position:
        """For the screen; called from the thread that draws."""
        steps, recent = max(self.steps, self.played), self._episodes[-RECENT:]
        rate = max(self.env_steps, steps * self.num_seeds) / max(self._clock.seconds, 1e-9)
        return Position(steps, mean([e[1] for e in recent]) if recent else self._recent_return, rate, self.doing)

    @property
    def steps_per_second(self) -> float:
        """Steps of all seeds over training time: start, compilation and evaluation excluded."""
        seconds = self._clock.seconds
        return self.env_steps / seconds if seconds > 0 else 0.0

    @property
    def wall_seconds(self) -> float:
        """Seconds of the whole run, without interruptions."""
        return self.wall_seconds_before + time.monotonic() - self.began

    @property
    def env_steps(self) -> int:
        """Environment steps of all seeds."""
        return self.steps * self.num_seeds

    @property
    def x_axis(self) -> Sequence[int]:
        """The environment steps that each seed has done."""
        return [self.steps] * self.num_seeds

    def compiling(self, doing: str | None) -> None:
        """Show a stage, and leave it out of the training time."""
        if doing is None:
            self._clock.start()
            self.to.progress.status("")
        else:
            self._clock.stop()
            self.to.progress.status(doing)

    def log(self) -> None:
        self._next_log = next_multiple(self.steps, self.cfg.log.every)
        weights = [stack.flat for stack in self.algorithm.stacks().values()]
        values = {name: metric.tolist() for name, metric in self.averaged_metrics().items()}
        self._episodes, values = together.pooled_log(self._episodes, values, weights)
        of_ended, ended = of_episodes(self._episodes, self.num_seeds)
        values |= of_ended
        self.finished_episodes = [total + more for total, more in zip(self.finished_episodes, ended, strict=True)]
        values["rollout/episodes"] = [float(total) for total in self.finished_episodes]
        values |= of_optimiser(self.algorithm.optimisers()[0])
        values["time/steps_per_second"] = [self.steps_per_second] * self.num_seeds
        values["time/seconds"] = [self._clock.seconds] * self.num_seeds
        if ranks.rank() == 0:
            self.shares.log(self.x_axis, silenced(values, self.silent_seeds()), self.steps, weights)
            self.to.progress.forecast()
        self._recent_return = mean([e[1] for e in self._episodes]) if self._episodes else self._recent_return
        metrics, learned_at = self._metrics, self._learned_at
        self._episodes, self._metrics, self._learned_at = [], [], []
        self.shares.look_back(self.steps, metrics, learned_at)

    def evaluate(self) -> None:
        """Evaluate every seed on separate environments, and keep the weights of seeds that never did better."""
        self._clock.stop()
        with self.to.progress.stage("evaluating"):
            result = ranks.told(self.returns_now() if ranks.rank() == 0 else None)
        if result is None:
            self.ending.asked = True
            return  # the run is ending; half an evaluation counts for nothing
        self._next_eval = next_multiple(self.steps, self.cfg.eval_every)
        self.last_evaluation = result
        self.evaluating.count(result)
        self.add_to_curve(result)
        for index, (achieved, best) in enumerate(zip(result.return_mean, self.best, strict=True)):
            if achieved >= best:  # if equal, the one that has learned longer
                self.best[index] = achieved
                self.shares.keep_best(index, self.x_axis[index], achieved)
            self.evaluations[index].append(achieved)
        self.to.progress.message(f"step {self.steps}: {in_words(self.cfg, result)}")
        self.shares.evaluated(self.steps, result, self.best)
        self.ending.look(self.evaluations, self.steps, self.save)
        self._clock.start()

    def add_to_curve(self, result: Evaluation) -> None:
        """Add an evaluation at this step, if there is none."""
        if self.evaluated_at != self.steps and ranks.rank() == 0:
            self.shares.log(self.x_axis, result.metrics(self.cfg))
        self.evaluated_at = self.steps

    def returns_now(self) -> Evaluation | None:
        """An evaluation; None if it was asked to stop."""
        result = self.evaluating.play(self.policy, self.x_axis, self.to)
        if result is not None and self.evaluating.envs is not None:
            self.shares.end_failures(self.evaluating.envs, self.steps)
        return result

    # --- checkpoint -----------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        self._clock.stop()
        if self.cfg.checkpoint.every:
            self._next_checkpoint = next_multiple(self.steps, self.cfg.checkpoint.every)
        self.save(self.shares.going)
        self._clock.start()

    def save(self, shares: Sequence[Share]) -> None:
        """The checkpoints of these of the runs."""
        kept = self.shares.worth_keeping(shares, self.steps)
        if kept:
            self.shares.save(kept, self.state_dict(), self.segments, self.steps)

    def keep_history(self) -> None:
        """Keep the weights permanently."""
        self.shares.keep_for_good(self.steps)

    def segments(self, members: slice = slice(None)) -> Segments:
        """Big immutable pieces of the checkpoint, of these members; none unless a loop has them."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """On rank 0: the state of all ranks, as one process would have it."""
        episodes, metrics = together.pooled_pending(self._episodes, self._metrics)
        return {
            "steps": self.steps,
            "clock": {"train_seconds": self._clock.seconds, "wall_seconds": self.wall_seconds},
            "policy": self.policy.whole_state(),
            "envs": together.pooled_envs(self.envs),
            "act_noise": self.act_noise.state_dict(),
            "update_noise": self.update_noise.state_dict(),
            "best": list(self.best),
            "evaluations": [list(means) for means in self.evaluations],
            **self.evaluating.state_dict(),
            "evaluated_at": self.evaluated_at,
            "finished_episodes": list(self.finished_episodes),
            "episodes": [list(episode) for episode in episodes],
            "metrics": metrics,
            "learned_at": torch.tensor(self._learned_at, dtype=torch.int64),
            "finite": self.shares.watched(),
            "next": [self._next_log, self._next_eval, self._next_checkpoint],
        }

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from `state_dict()`. Environments that can't be restored exactly say so themselves."""
        self.steps = self.played = state["steps"]
        self.begun = True
        self._clock.seconds = state["clock"]["train_seconds"]
        self.wall_seconds_before = state["clock"]["wall_seconds"]
        self.policy.load_whole_state(state["policy"])
        exceptions = self.envs.load_state_dict(together.own_envs(state["envs"]))
        exceptions += self.evaluating.load_state_dict(state)
        for line in exceptions:
            self.to.progress.message(line)
        self.act_noise.load_state_dict(state["act_noise"])
        self.update_noise.load_state_dict(state["update_noise"])
        self.best, self.finished_episodes = list(state["best"]), list(state["finished_episodes"])
        self.evaluations = [list(means) for means in state.get("evaluations", self.evaluations)]
        self._episodes = together.own_pending([(int(s), float(r), int(n)) for s, r, n in state["episodes"]])
        self._metrics = together.one_by_one(state["metrics"], self.device)
        self.evaluated_at = state.get("evaluated_at")
        # checkpoints of the first versions have neither these nor `evaluations`
        self._learned_at = state["learned_at"].tolist() if "learned_at" in state else [self.steps] * len(self._metrics)
        self.shares.restored(self.steps, state.get("finite"))
        self._next_log, self._next_eval, self._next_checkpoint = state["next"]
        assert self.envs.obs is not None
        self.obs = self.envs.obs
