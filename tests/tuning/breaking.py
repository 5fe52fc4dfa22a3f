"""An environment that raises at its so many-th step."""

from __future__ import annotations

import gymnasium

from deeprl_cli.envs.testing import Chain


class Breaking(Chain):
    def __init__(self, breaks_at=0, **options):
        super().__init__(**options)
        self.breaks_at, self.steps = breaks_at, 0

    def step(self, action):
        self.steps += 1
        if self.steps == self.breaks_at:
            raise ZeroDivisionError("the joint broke")
        return super().step(action)


gymnasium.register("Breaking-v0", Breaking, max_episode_steps=12)
