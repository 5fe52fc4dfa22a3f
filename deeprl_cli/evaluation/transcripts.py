"""Episodes shown as text (what they render as `ansi`), for environments that declare `metadata["transcripts"]`.

Such an environment's last text tells the whole episode, and a return of 1 means that it went right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deeprl_cli.envs.closing import closing
from deeprl_cli.envs.make import make_single_env
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.evaluation.episodes import FRESH
from deeprl_cli.policy import Policy
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.schema.run import RunConfig

EPISODES = 10


class Transcript(NamedTuple):
    text: str
    episode_return: float

    def __str__(self) -> str:
        return f"{self.text} {'✓' if self.episode_return >= 1 else '✗'}"


def transcripts(policy: Policy, cfg: RunConfig, seed_index: int, *, stochastic: bool = False) -> list[Transcript]:
    """EPISODES episodes of one of the policy's seeds, the same ones whenever that seed is asked; greedy or sampled."""
    run_seed = cfg.seed_list[seed_index]
    noise = None
    if stochastic:
        noise = NoiseStream(cfg.seed_list, "transcripts", {"act": policy.algorithm.noise_spec().act}, (1,), block=64)
    shown = []
    with closing(make_single_env(cfg.env, training=False, render_mode="ansi"), cfg.env.id) as env:
        for episode in range(EPISODES):
            obs, _ = env.reset(seed=episode_seed(run_seed + FRESH, episode, 0, training=False))
            total, over = 0.0, False
            while not over:
                # all S act, being one stack; they all see what the chosen one sees
                everyones = np.repeat(np.asarray(obs)[None], policy.num_seeds, axis=0)
                drawn = None if noise is None else noise.next()["act"].to(policy.device)
                action = policy.act(everyones, drawn, evaluating=True)[seed_index]
                obs, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
            shown.append(Transcript(str(env.render()), total))
    return shown


def in_a_row(title: str, shown: Sequence[Transcript]) -> str:
    """`title, 7 of 10 right:` and the episodes, in two lines."""
    right = sum(t.episode_return >= 1 for t in shown)
    return f"{title}, {right} of {len(shown)} right:\n  " + "   ".join(map(str, shown))
