"""Playing a policy in the environment's own terms, the very episodes that `deeprl eval` plays. No torch.

Shapes: E environments side by side; `*stack` what the policy sees of one: a frame, or the last k of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deeprl_cli.envs.answers import checked, of_reset, of_step
from deeprl_cli.envs.closing import close_all
from deeprl_cli.envs.generators import OwnGenerators
from deeprl_cli.envs.make import bare_env, framed
from deeprl_cli.envs.own_terms import FrameMemory, Given, OwnTerms
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.spec import Array
from deeprl_cli.envs.sync import OneAtATimeError, several
from deeprl_cli.envs.vector import episode_seed
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation.episodes import EVAL_ENVS, FRESH, shares, side_by_side, surely_ending
from deeprl_cli.schema.run import EnvConfig

Actor = Callable[[Array], Any]  # observations (E, *stack) to the environment's own actions (E, *action)


@dataclass(frozen=True)
class Played:
    """Of K episodes: undiscounted returns `(K,)`, and lengths in steps."""

    returns: np.ndarray
    lengths: np.ndarray


class Arena:
    """E environments of evaluation, stepped one after the other; `stacks` is what a policy sees of each."""

    def __init__(self, envs: Sequence[Any], terms: OwnTerms, seed: int) -> None:
        self.envs, self.terms, self.seed = envs, terms, seed
        self.memory = FrameMemory(terms.stack)
        self.episodes = [0] * len(envs)
        self.frames = [self._begin(e) for e in range(len(envs))]
        self.stacks = self.memory.push(self.frames)

    def _begin(self, e: int) -> Array:
        seed = episode_seed(self.seed + FRESH, e, self.episodes[e], training=False)
        self.episodes[e] += 1
        return self._frame(of_reset(self.envs[e].reset(seed=seed))[0])

    def _frame(self, observation: Any) -> Array:
        return self.terms.frames(Given([observation], "frame", False))[0]

    def step(self, actions: Any, running: Sequence[bool]) -> tuple[Array, Array]:
        """Rewards `(E,)` and which episodes ended `(E,)`; those that aren't `running` stand still."""
        rewards, ended = np.zeros(len(self.envs)), np.zeros(len(self.envs), bool)
        own = np.asarray(actions).tolist() if self.terms.actions.scalar else actions
        for e, env in enumerate(self.envs):
            if running[e]:
                observation, rewards[e], terminated, truncated, _ = of_step(env.step(own[e]))
                ended[e] = terminated or truncated
                self.frames[e] = self._begin(e) if ended[e] else self._frame(observation)
        self.memory.reset(ended)
        self.stacks = self.memory.push(self.frames)
        return rewards, ended


@contextmanager
def arena(cfg: EnvConfig, max_steps: int, terms: OwnTerms, count: int, seed: int) -> Iterator[Arena]:
    """`count` environments, or one where there can't be several; closed in the end. An episode that nothing ends is cut
    after `max_steps`. Raises UserError."""
    if cfg.backend == "envpool":
        raise UserError(
            f"{cfg.id} of env.backend=envpool preprocesses by itself, which a file can't ask of it: `deeprl eval RUN` "
            "plays it, and your own program with onnxruntime"
        )
    cfg = surely_ending(cfg, max_steps)
    make = [partial(_made, cfg)] * count
    with staying():
        try:
            envs = several(make, cfg.id)
        except OneAtATimeError:
            envs = several(make[:1], cfg.id)
        try:
            yield Arena(envs, terms, seed)
        finally:
            close_all([env.close for env in envs], cfg.id)


def _made(cfg: EnvConfig) -> Any:
    env = framed(cfg, bare_env(cfg), training=False)
    return checked(OwnGenerators(env) if cfg.generators == "own" else env)


def play(
    cfg: EnvConfig,
    max_steps: int,
    terms: OwnTerms,
    act: Actor,
    episodes: int,
    seed: int,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Played:
    """`episodes` whole episodes, those of a run's seed `seed` in `deeprl eval`, each with its own reset seed. `told`
    hears how many of how many are played."""
    with arena(cfg, max_steps, terms, side_by_side(episodes), seed) as envs:
        share = shares(episodes, len(envs.envs))
        played: list[list[tuple[float, int]]] = [[] for _ in share]
        returns, lengths = np.zeros(len(share)), np.zeros(len(share), np.int64)
        while any(missing := [len(own) < due for own, due in zip(played, share, strict=True)]):
            rewards, ended = envs.step(act(np.stack(envs.stacks)), missing)
            returns, lengths = returns + rewards, lengths + 1
            for e in np.flatnonzero(ended):
                played[e].append((returns[e], int(lengths[e])))
                returns[e], lengths[e] = 0.0, 0
                told(sum(map(len, played)), episodes)
    found = [episode for own in played for episode in own]
    return Played(np.array([r for r, _ in found], np.float32).astype(np.float64), np.array([n for _, n in found]))


def recorded(cfg: EnvConfig, max_steps: int, terms: OwnTerms, act: Actor, count: int, seed: int) -> Array:
    """What the policy sees while it plays, `count` observations `(count, *stack)`."""
    found: list[Array] = []
    with arena(cfg, max_steps, terms, EVAL_ENVS, seed) as envs:
        while len(found) < count:
            found += envs.stacks
            envs.step(act(np.stack(envs.stacks)), [True] * len(envs.envs))
    return np.stack(found[:count])
