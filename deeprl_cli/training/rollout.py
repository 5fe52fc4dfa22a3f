"""The on-policy loop: T steps of every environment, then an update from these steps only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deeprl_cli.algorithm import Transition
from deeprl_cli.data.rollout import Rollout
from deeprl_cli.schema.run import RolloutConfig
from deeprl_cli.training.base import Trainer


class RolloutTrainer(Trainer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        assert isinstance(self.cfg.algo, RolloutConfig)
        self.subepisodes = self.cfg.algo.subepisodes_per_update
        self.length = self.cfg.algo.rollout_length * self.subepisodes
        self.rollout = Rollout(self.algorithm.spec, self.num_seeds, self.length, self.own_envs)

    def iterate(self) -> None:
        for t in range(self.length):
            obs = self.obs
            actions = self.act(obs)
            step = self.env_step(actions)
            self.rollout.put(t, obs, actions, step)
            self.obs = step.obs
        self.count(self.length * self.num_envs)

        self.doing = "learning from the rollout"
        data = self.rollout.read(self.device)
        self.policy.observe_rewards(data.reward, data.terminated, data.truncated, data.weight)
        self.learned(self.algorithm.update(self.joined(data), self.update_noise.next()))
        self.doing = ""
        # after the update: the actions were drawn under the statistics that the update saw, too
        self.policy.observe(data.obs.flatten(1, 2), data.weight.flatten(1, 2))

    def joined(self, data: Transition) -> Transition:
        """What the update sees of the rollout."""
        return side_by_side(self.policy.normalise(data), self.subepisodes)

    def count(self, taken: int) -> None:
        """Move schedules to where this rollout began, so that the last update still moves, and add its steps."""
        self.algorithm.set_progress(self.steps, self.horizon)
        self.steps += taken


def side_by_side(data: Transition, count: int) -> Transition:
    """`count` stretches that followed one another, `(S, count·T, B, …)`, as if played at once: `(S, T, count·B, …)`."""

    def folded(x: Tensor) -> Tensor:
        stretches = x.reshape(x.shape[0], count, -1, *x.shape[2:])
        return stretches.transpose(1, 2).flatten(2, 3)

    return data if count == 1 else Transition(*map(folded, data))
