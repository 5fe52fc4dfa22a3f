"""The episodic loop: every environment plays whole (sub-)episodes and waits for the others; then an update.

Shapes: S seeds, B environments per seed, N = S·B (seed-major), T steps of the longest episode, padded to few lengths.

Episodes differ in length, so seeds differ in how many steps an update takes them: each has a count of its own, and a
seed that has done `total_steps` waits for the rest. What all seeds do together (evaluation, checkpoints, the end) goes
by the seed furthest behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprl_cli.algorithm import Metrics, Transition, average
from deeprl_cli.data.rollout import Rollout
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.schema.run import EpisodeConfig
from deeprl_cli.training.base import ACT_BLOCK, Trainer

SHORTEST = 2  # steps; padded lengths are doublings of this, so that there are few of them (each needs a graph)
TOOK_PART = "took part"  # kept beside an update's metrics: 1 for the seeds that it was for, `(S,)`


class EpisodeTrainer(Trainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        algo = self.cfg.algo
        assert isinstance(algo, EpisodeConfig)
        self.episodes_per_env, self.longest = algo.episodes_per_env, algo.longest
        self.seed_steps = torch.zeros(self.num_seeds, dtype=torch.int64)
        self.seed_progress = (
            self.seed_steps.clone()
        )  # where each seed's last update began; its schedules are at this step
        self.iterations = 0
        self.act_noise = self.noise_of_an_episode(0)
        shape = (self.num_seeds, padded(1, self.longest), self.num_envs)
        self.rollouts = [Rollout(self.algorithm.spec, *shape) for _ in range(self.episodes_per_env)]

    def iterate(self) -> None:
        active = (self.seed_steps < self.cfg.total_steps) & ~torch.from_numpy(self.shares.left)
        taken = torch.zeros_like(self.seed_steps)
        longest = 0
        for number, rollout in enumerate(self.rollouts):
            self.act_noise = self.noise_of_an_episode(number)
            lengths = self.play(rollout, np.repeat(active.numpy(), self.num_envs))
            taken += torch.from_numpy(lengths).view(self.num_seeds, -1).sum(1)
            longest = max(longest, int(lengths.max()))

        self.count(taken, active)
        self.iterations += 1
        time = padded(longest, self.longest)
        for rollout in self.rollouts:
            rollout.grow(time)
        pieces = [rollout.read(self.device, time) for rollout in self.rollouts]
        for data in pieces:
            self.policy.observe_rewards(data.reward, data.terminated, data.truncated, data.weight)
        joined = self.joined(pieces)
        metrics = self.algorithm.update(joined, self.update_noise.next())
        self.learned({**metrics, TOOK_PART: active.float().to(self.device)})
        for data in pieces:
            self.policy.observe(data.obs.flatten(1, 2), data.weight.flatten(1, 2))

    def joined(self, pieces: Sequence[Transition]) -> Transition:
        """What the update sees of (sub-)episodes that followed one another: as if played side by side."""
        normalised = [self.policy.normalise(data) for data in pieces]
        return Transition(
            *(torch.cat(field, 2) if len(field) > 1 else field[0] for field in zip(*normalised, strict=True))
        )

    def count(self, taken: Tensor, active: Tensor) -> None:
        """Move schedules to where these (sub-)episodes began, and add what they `taken` `(S,)`."""
        self.seed_progress = torch.where(active, self.seed_steps, self.seed_progress)
        self.algorithm.set_progress(self.seed_progress, self.horizon)
        self.seed_steps = self.seed_steps + taken
        self.steps = int(self.seed_steps[~torch.from_numpy(self.shares.left)].min())

    def play(self, rollout: Rollout, running: np.ndarray) -> np.ndarray:
        """One (sub-)episode of every `running` environment `(N,)` into `rollout`; their lengths `(N,)`."""
        rollout.clear()
        lengths = np.zeros(len(running), np.int64)
        t = 0
        while running.any() and t != self.longest:
            obs = self.obs
            actions = self.act(obs)
            step = self.env_step(actions, running)
            rollout.grow(padded(t + 1, self.longest))
            rollout.put(t, obs, actions, step)
            self.obs = step.obs
            lengths += running
            running &= ~(step.terminated | step.truncated)
            if self.shares.left.any():
                running &= ~np.repeat(self.shares.left, self.num_envs)
            t += 1
        return lengths

    def noise_of_an_episode(self, number: int) -> NoiseStream:
        """For the `number`-th (sub-)episodes of this update alone: how much of it is used up depends on the longest of
        them, which may be another seed's."""
        spec, purpose = {"act": self.algorithm.noise_spec().act}, f"act/{self.iterations}/{number}"
        block = ACT_BLOCK if self.longest is None else min(ACT_BLOCK, self.longest)
        return NoiseStream(self.cfg.seed_list, purpose, spec, (self.num_envs,), block, self.device)

    def averaged_metrics(self) -> Metrics:
        updates = [{k: v for k, v in metrics.items() if k != TOOK_PART} for metrics in self._metrics]
        return average(updates, [metrics[TOOK_PART] > 0 for metrics in self._metrics])

    def silent_seeds(self) -> Sequence[int]:
        if not self._metrics:
            return ()
        took_part = torch.stack([metrics[TOOK_PART] for metrics in self._metrics]).amax(0).tolist()
        return [seed for seed, some in enumerate(took_part) if not some]

    @property
    def env_steps(self) -> int:
        return int(self.seed_steps.sum())

    @property
    def x_axis(self) -> list[int]:
        steps: list[int] = self.seed_steps.tolist()
        return steps

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "seed_steps": self.seed_steps,
            "seed_progress": self.seed_progress,
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().load_state_dict(state, segments)
        self.seed_steps, self.seed_progress = state["seed_steps"].clone(), state["seed_progress"].clone()
        self.iterations = state["iterations"]


def padded(steps: int, longest: int | None) -> int:
    """The length to which `steps` are padded: `longest` if there is one, else the next power of two."""
    return longest if longest is not None else max(SHORTEST, 1 << (steps - 1).bit_length())
