"""Evaluation on separate environments; deterministic unless something else is asked for.

Shapes: S seeds, E evaluation environments per seed, K episodes per seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprl_cli.envs.generators import kept_apart
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.sync import OneAtATimeError
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.evaluation.episodes import FRESH, cut_short, shares, side_by_side, surely_ending
from deeprl_cli.policy import Policy
from deeprl_cli.processes import ranks
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.runs.weights import has_best, load_best
from deeprl_cli.schema.run import RunConfig

SHOWN = 12  # returns named one by one


@dataclass(frozen=True)
class Evaluation:
    """Of K episodes per seed, `(S, K)`: returns, undiscounted and discounted, lengths, and what a learned Q̂ expected of
    each as it began (None without one). Where a seed played fewer, its row ends in NaN, and zeros for lengths."""

    returns: np.ndarray
    lengths: np.ndarray
    discounted: np.ndarray
    expected: np.ndarray | None

    def among(self, members: slice, count: int) -> Evaluation:
        """The same as that of some of `count` seeds, of which the others have NaN for returns."""

        def spread(values: np.ndarray, filler: float) -> np.ndarray:
            whole = np.full((count, values.shape[1]), filler, values.dtype)
            whole[members] = values
            return whole

        floats = [spread(values, math.nan) for values in (self.returns, self.discounted)]
        hopes = None if self.expected is None else spread(self.expected, math.nan)
        return Evaluation(floats[0], spread(self.lengths, 0), floats[1], hopes)

    @property
    def counts(self) -> list[int]:
        """Episodes of each seed."""
        return [int(count) for count in (~np.isnan(self.returns)).sum(1)]

    @property
    def return_mean(self) -> list[float]:
        return self._of_each(np.mean, self.returns)

    @property
    def return_std(self) -> list[float]:
        return self._of_each(np.std, self.returns)

    @property
    def length_mean(self) -> list[float]:
        return self._of_each(np.mean, self.lengths)

    @property
    def discounted_mean(self) -> list[float]:
        return self._of_each(np.mean, self.discounted)

    @property
    def overestimation(self) -> list[float]:
        """Q̂ less the discounted return, averaged; only with a Q̂."""
        assert self.expected is not None
        return self._of_each(np.mean, self.expected - self.discounted)

    def _of_each(self, reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> list[float]:
        """Over the episodes that each seed played; NaN where it played none."""
        rows = zip(values, self.counts, strict=True)
        return [float(reduce(row[:count])) if count else math.nan for row, count in rows]

    def metrics(self, cfg: RunConfig) -> dict[str, list[float]]:
        """What is logged of it, a number for each seed."""
        values = {"eval/return_mean": self.return_mean, "eval/return_std": self.return_std}
        values["eval/length_mean"] = self.length_mean
        values["eval/episodes"] = [float(count) if count else math.nan for count in self.counts]
        if self.expected is not None and not cfg.env.atari.enabled:  # there Q̂ learns of other rewards
            values["eval/discounted_return_mean"] = self.discounted_mean
            values["eval/overestimation"] = self.overestimation
        return values


def eval_envs(cfg: RunConfig, seeds: list[int], episodes: int) -> VectorEnv:
    """Environments to evaluate on: EnvPool's where the run uses it (its ids differ), else stepped in this process. One
    alone, where there can't be several. An episode that nothing ends is cut after `eval.max_steps`."""
    env = surely_ending(cfg.env, cfg.eval.max_steps)
    own = [surely_ending(one, cfg.eval.max_steps) for one in cfg.member_envs] if len(cfg.jobs) > 1 else []
    try:
        return make_vector_env(env, seeds, side_by_side(episodes), training=False, own=own)
    except OneAtATimeError:
        return make_vector_env(env, seeds, 1, training=False, own=own)


def in_words(cfg: RunConfig, evaluation: Evaluation) -> str:
    """`evaluation return 9.5, 12.0 over 10 episodes`, a number for each seed; and what is to be said of it."""
    shown = several(evaluation.return_mean)
    cut = cut_short(cfg.env, cfg.eval.max_steps, evaluation.lengths)
    counts = [count for count in evaluation.counts if count] or [0]
    least, most = min(counts), max(counts)
    count = f"{most} episode{'s' if most != 1 else ''}" if least == most else f"{least} to {most} episodes"
    return f"evaluation return {shown} over {count}{cut and f'; {cut}'}"


def several(means: Sequence[float]) -> str:
    """Returns of the seeds, in words; NaN is none."""
    if len(means) <= SHOWN:
        return ", ".join(f"{mean:.1f}" for mean in means)
    known = [mean for mean in means if not math.isnan(mean)]
    mean = sum(known) / len(known) if known else math.nan
    return f"{mean:.1f} (mean of {len(known)}; best {max(known, default=math.nan):.1f})"


class EvaluationStopped(Exception):  # noqa: N818 - nothing went wrong
    """An evaluation ended early, because it was asked to."""


@kept_apart()  # environments that draw from global generators: training goes on as if nothing had been evaluated
def evaluate(
    policy: Policy,
    envs: VectorEnv,
    episodes: int | Sequence[int],
    noise: NoiseStream | None = None,
    stopping: Callable[[], bool] = lambda: False,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Evaluation:
    """Play `episodes` whole episodes per seed, or a number of its own of each; `noise` makes the policy stochastic, and
    `told` hears how many of how many the average seed has played.

    Raises EvaluationStopped as soon as `stopping()` is true. Seeds that `envs` has left, or leaves on the way, have NaN
    for returns.

    Environment e of a seed plays its share of the episodes (`shares`), and then stands still where it can.
    """
    num_seeds = policy.num_seeds
    per_seed = envs.num_envs // num_seeds
    gamma = np.repeat([config.gamma for config in policy.algorithm.configs], per_seed)
    counts = [episodes] * num_seeds if isinstance(episodes, int) else list(episodes)
    share = list(chain(*(shares(count, per_seed) for count in counts)))
    going = np.array(share) > 0  # environments that have episodes left to play
    left: set[int] = set()
    # of each episode: its return, length and discounted return, and what was expected as it began
    played: list[list[tuple[float, ...]]] = [[] for _ in range(envs.num_envs)]
    so_far, discount = np.zeros(envs.num_envs), np.ones(envs.num_envs)  # of the episodes under way
    total = missing = sum(share)
    obs = envs.reset()
    expected = policy.expected_return(obs)
    while missing:
        if stopping():
            raise EvaluationStopped
        if len(envs.left) > len(left):
            left = set(envs.left)
            for e in (s * per_seed + e for s in left for e in range(per_seed)):
                missing -= share[e] - len(played[e])
                share[e], played[e], going[e] = 0, [], False
            continue
        actions = policy.act(obs, None if noise is None else noise.next()["act"], evaluating=True)
        step = envs.step(actions, going if envs.pausable and not going.all() else None)
        obs = step.obs
        so_far += discount * step.reward
        discount *= gamma
        # a back-end with dummies begins an episode with one of them
        begins = going & (step.episode_end if envs.pausable else step.episode_end | (step.weight == 0))
        if not begins.any():
            continue
        for n in np.flatnonzero(step.episode_end):
            if len(played[n]) < share[n]:
                hope = math.nan if expected is None else expected[n]
                played[n].append((step.episode_return[n], step.episode_length[n], so_far[n], hope))
                missing -= 1
                told((total - missing) // num_seeds, total // num_seeds)
            going[n] = len(played[n]) < share[n]
        so_far[begins], discount[begins] = 0.0, 1.0
        fresh = policy.expected_return(obs)
        expected = None if fresh is None or expected is None else np.where(begins, fresh, expected)
    nothing = [(math.nan, 0, math.nan, math.nan)] * max(counts)
    rows = [[*chain(*played[s * per_seed : (s + 1) * per_seed]), *nothing][: max(counts)] for s in range(num_seeds)]
    returns, lengths, discounted, hopes = np.moveaxis(np.array(rows, np.float64), -1, 0)
    return Evaluation(returns, lengths.astype(np.int64), discounted, None if expected is None else hopes)


def final_evaluation(
    cfg: RunConfig,
    policy: Policy,
    run_dirs: Sequence[Path],
    stopping: Callable[[], bool],
    left: Iterable[int] = (),
    failures: dict[int, Exception] | None = None,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Evaluation, Evaluation]:
    """(last, best) on fresh episodes: the best checkpoint is played again, since luck helped to choose it; once where
    the last is the best of all seeds.

    `run_dirs`: the folder of each of `cfg.jobs`. Seeds that are `left` (their indices) aren't played, and one whose
    environment raises is left, and why told in `failures`.

    `told` hears how many episodes of how many are played, of both. Raises EvaluationStopped when `stopping()`.

    Of several ranks, rank 0 plays and the others wait.
    """
    found = None
    if ranks.rank() == 0:
        with suppress(EvaluationStopped):
            found = _last_and_best(cfg, policy, run_dirs, stopping, left, failures, told)
    found = ranks.told(found)
    if found is None:
        raise EvaluationStopped
    return found


def same(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def _last_and_best(
    cfg: RunConfig,
    policy: Policy,
    run_dirs: Sequence[Path],
    stopping: Callable[[], bool],
    left: Iterable[int],
    failures: dict[int, Exception] | None,
    told: Callable[[int, int], object],
) -> tuple[Evaluation, Evaluation]:
    with ExitStack() as stack:
        envs = eval_envs(cfg, [seed + FRESH for seed in cfg.seed_list], cfg.eval.final_episodes)
        stack.callback(envs.close)
        envs.apart = len(cfg.jobs) > 1
        if failures is not None:
            envs.failures = failures
        envs.leave(left)
        chosen = [has_best(run_dir, job.seed_list) for job, run_dir in zip(cfg.jobs, run_dirs, strict=True)]
        episodes, total = cfg.eval.final_episodes, cfg.eval.final_episodes * (1 + any(chosen))
        last = evaluate(policy, envs, episodes, None, stopping, lambda done, _: told(done, total))
        first, before = 0, [policy.weights(index) for index in range(policy.num_seeds)]
        for job, run_dir, found in zip(cfg.jobs, run_dirs, chosen, strict=True):
            if found:
                load_best(policy, run_dir, job.seed_list, first)
            first += job.seeds
        if not any(chosen):
            return last, last  # nothing was evaluated on the way: the last policy is all there is
        if all(same(policy.weights(index), weights) for index, weights in enumerate(before)):
            return last, last
        best = evaluate(policy, envs, episodes, None, stopping, lambda done, _: told(episodes + done, total))
        return last, best
