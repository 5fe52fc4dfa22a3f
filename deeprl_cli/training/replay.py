"""The off-policy loop: one step of every environment, stored; every `train_every` steps, gradient steps from memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from deeprl_cli.data.memory import make_memory
from deeprl_cli.data.replay import Segments
from deeprl_cli.processes import ranks
from deeprl_cli.rl.noise import NoiseStream, bits, uniform
from deeprl_cli.schema.run import ReplayConfig
from deeprl_cli.training.base import ACT_BLOCK, Trainer

UPDATE_BLOCK = 64  # gradient steps whose noise is drawn at a time


class ReplayTrainer(Trainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        assert isinstance(self.cfg.algo, ReplayConfig)
        self.algo: ReplayConfig = self.cfg.algo
        self.memory = make_memory(self.cfg, self.algorithm.spec, self.device)
        seeds, action_shape = self.cfg.seed_list, tuple(self.algorithm.spec.action_space.shape or ())
        self.warm_up_noise = NoiseStream(
            seeds, "warm-up", {"uniform": uniform(*action_shape)}, (self.num_envs,), ACT_BLOCK
        )
        draw = {"bits": bits(self.algo.batch_size)}
        self.sample_noise = NoiseStream(seeds, "sample", draw, block=UPDATE_BLOCK, device=self.device)

        self.warm_up = f"random steps, the first {self.algo.learning_starts:,}"
        self.learn_from = 0  # transitions that must be stored before learning begins
        # each rank has a memory of its own, and would have to send it to the one that writes
        self.memory_kept = self.cfg.checkpoint.replay and ranks.size() == 1

    def update_block(self) -> int:
        return UPDATE_BLOCK

    def iterate(self) -> None:
        obs = self.obs
        warming_up = self.steps < self.algo.learning_starts and not self.algo.acts_in_warm_up
        self.doing = self.warm_up if warming_up else ""
        actions = self.random_actions() if warming_up else self.act(obs)
        step = self.env_step(actions)
        self.memory.add(obs, actions, step)
        self.policy.observe_step(obs, step)
        self.obs = step.obs
        before, self.steps = self.steps, self.steps + self.num_envs

        every = self.algo.train_every
        due = (self.steps // every - before // every) * self.algo.gradient_steps
        if due and self.steps >= self.algo.learning_starts and len(self.memory) > self.learn_from:
            self.algorithm.set_progress(self.steps, self.horizon)
            self.learned(self.algorithm.update(self.minibatches(due), self.noise(due)))

    def minibatches(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield self.policy.normalise(self.memory.sample(ranks.share(self.sample_noise.next()["bits"])))

    def noise(self, count: int) -> Iterator[Mapping[str, Tensor]]:
        for _ in range(count):
            yield {name: ranks.share(drawn) for name, drawn in self.update_noise.next().items()}

    def random_actions(self) -> np.ndarray:
        """Uniform over the action space `(N, *action)`, for the first steps."""
        drawn = ranks.share(self.warm_up_noise.next()["uniform"])
        drawn = drawn.reshape(-1, *drawn.shape[2:])
        space = self.algorithm.spec.action_space
        if isinstance(space, Discrete):
            return (drawn * int(space.n)).long().clamp_max(int(space.n) - 1).numpy()
        return (2.0 * drawn - 1.0).numpy()

    def segments(self, members: slice = slice(None)) -> Segments:
        return self.memory.segments(members) if self.memory_kept else {}

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "warm_up_noise": self.warm_up_noise.state_dict(),
            "sample_noise": self.sample_noise.state_dict(),
            "learn_from": self.learn_from,
            "memory": self.memory.state_dict() if self.memory_kept else None,
        }

    def load_state_dict(self, state: Mapping[str, Any], segments: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        super().load_state_dict(state, segments)
        self.warm_up_noise.load_state_dict(state["warm_up_noise"])
        self.sample_noise.load_state_dict(state["sample_noise"])
        self.learn_from = state["learn_from"]
        if state["memory"] is not None and ranks.size() == 1:
            self.memory.load_state_dict(state["memory"], segments)
        else:
            steps = min(max(self.algo.learning_starts, self.algo.batch_size), self.algo.buffer_capacity)
            self.learn_from = ranks.share_size(steps) - 1
            self.to.progress.message(
                f"the checkpoint holds no replay memory: {steps} steps fill it before learning goes on, "
                "so the run will differ from one that was never stopped"
            )
