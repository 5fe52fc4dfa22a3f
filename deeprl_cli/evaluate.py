"""Evaluation on environments of their own, deterministic unless asked otherwise; and the `eval` verb.

Shapes: S seeds, E evaluation environments per seed, K episodes per seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprl_cli import ranks
from deeprl_cli.algorithm import done
from deeprl_cli.checkpoint import load_checkpoint
from deeprl_cli.envs.make import env_spec, make_vector_env
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.registry import get_algorithm
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.run_folder import find_run, read_config
from deeprl_cli.schema import EnvConfig, RunConfig
from deeprl_cli.tensor_files import load_weights
from deeprl_cli.typed import build

EVAL_ENVS = 10  # environments per seed that an evaluation steps side by side


@dataclass(frozen=True)
class Evaluation:
    """Of K episodes per seed, `(S, K)`: returns, undiscounted and discounted, lengths, and what a learned Q̂ expected of
    each as it began (None without one)."""

    returns: np.ndarray
    lengths: np.ndarray
    discounted: np.ndarray
    expected: np.ndarray | None

    @property
    def return_mean(self) -> list[float]:
        return [float(mean) for mean in self.returns.mean(1)]

    @property
    def return_std(self) -> list[float]:
        return [float(std) for std in self.returns.std(1)]

    @property
    def length_mean(self) -> list[float]:
        return [float(mean) for mean in self.lengths.mean(1)]

    @property
    def discounted_mean(self) -> list[float]:
        return [float(mean) for mean in self.discounted.mean(1)]

    @property
    def overestimation(self) -> list[float]:
        """Q̂ less the discounted return, averaged; only with a Q̂."""
        assert self.expected is not None
        return [float(mean) for mean in (self.expected - self.discounted).mean(1)]


def eval_envs(env: EnvConfig, seeds: list[int], episodes: int) -> VectorEnv:
    """Environments to evaluate on: EnvPool's where the run uses it (its ids differ), else stepped in this process."""
    if env.backend != "envpool":
        env = dataclasses.replace(env, backend="sync")
    return make_vector_env(env, seeds, min(episodes, EVAL_ENVS), training=False)


class EvaluationStopped(Exception):  # noqa: N818 - nothing went wrong
    """An evaluation ended early, because it was asked to."""


def evaluate(
    policy: Policy,
    envs: VectorEnv,
    episodes: int,
    noise: NoiseStream | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Play `episodes` whole episodes per seed; `noise` makes the policy stochastic.

    Raises EvaluationStopped as soon as `stopping()` is true.

    Environment e of a seed plays its share of the episodes, the first ones it finishes: taking whichever end first
    would favour short ones.
    """
    num_seeds, gamma = policy.num_seeds, policy.algorithm.config.gamma
    per_seed = envs.num_envs // num_seeds
    share = [episodes // per_seed + (e < episodes % per_seed) for e in range(per_seed)] * num_seeds
    # of each episode: its return, length and discounted return, and what was expected as it began
    played: list[list[tuple[float, ...]]] = [[] for _ in range(envs.num_envs)]
    so_far, discount = np.zeros(envs.num_envs), np.ones(envs.num_envs)  # of the episodes under way
    missing = sum(share)
    obs = envs.reset()
    expected = policy.expected_return(obs)
    while missing:
        if stopping():
            raise EvaluationStopped
        step = envs.step(policy.act(obs, None if noise is None else noise.next()["act"], eager=True))
        obs = step.obs
        so_far += discount * step.reward
        discount *= gamma
        for n in np.flatnonzero(step.episode_end):
            if len(played[n]) < share[n]:
                hope = math.nan if expected is None else expected[n]
                played[n].append((step.episode_return[n], step.episode_length[n], so_far[n], hope))
                missing -= 1
        begins = step.episode_end | (step.weight == 0)  # a back-end with dummies begins an episode with one of them
        if begins.any():
            so_far[begins], discount[begins] = 0.0, 1.0
            fresh = policy.expected_return(obs)
            expected = None if fresh is None or expected is None else np.where(begins, fresh, expected)
    rows = [list(chain(*played[s * per_seed : (s + 1) * per_seed])) for s in range(num_seeds)]
    returns, lengths, discounted, hopes = np.moveaxis(np.array(rows), -1, 0)
    return Evaluation(returns, lengths.astype(np.int64), discounted, None if expected is None else hopes)


def best_path(run: Path, seed: int) -> Path:
    return run / "checkpoints" / "best" / f"seed_{seed}.safetensors"


def load_best(policy: Policy, run: Path, seeds: list[int]) -> Tensor:
    """Put each seed's best weights into `policy`; the steps `(S,)` at which they were the present ones.

    Raises UserError where a file is missing, damaged, or another's.
    """
    steps = torch.zeros(len(seeds), dtype=torch.int64)
    for index, seed in enumerate(seeds):
        tensors, meta = load_weights(best_path(run, seed))
        check_finite(best_path(run, seed), tensors)
        try:
            policy.load_weights(index, tensors)
            steps[index] = int(meta["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{best_path(run, seed)}: doesn't fit this run's config.yaml: {error}") from error
    return steps


def final_evaluation(
    cfg: RunConfig, policy: Policy, run_dir: Path, stopping: Callable[[], bool]
) -> tuple[Evaluation, Evaluation]:
    """(last, best) on fresh episodes: the best checkpoint is played again, since luck helped to choose it.

    Raises EvaluationStopped when `stopping()`. Of several ranks, rank 0 plays and the others wait.
    """
    found = None
    if ranks.rank() == 0:
        with suppress(EvaluationStopped):
            found = _last_and_best(cfg, policy, run_dir, stopping)
    found = ranks.told(found)
    if found is None:
        raise EvaluationStopped
    return found


def _last_and_best(
    cfg: RunConfig, policy: Policy, run_dir: Path, stopping: Callable[[], bool]
) -> tuple[Evaluation, Evaluation]:
    with ExitStack() as stack:
        envs = eval_envs(cfg.env, [seed + FRESH for seed in cfg.seed_list], cfg.eval.final_episodes)
        stack.callback(envs.close)
        last = evaluate(policy, envs, cfg.eval.final_episodes, stopping=stopping)
        if not all(best_path(run_dir, seed).exists() for seed in cfg.seed_list):
            return last, last  # eval.every=0: the last policy is all there is
        load_best(policy, run_dir, cfg.seed_list)
        return last, evaluate(policy, envs, cfg.eval.final_episodes, stopping=stopping)


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError naming the first of the weights that holds NaN or infinity: they would act at random."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: damaged: '{name}' holds NaN or infinity")


def read_run(path: Path) -> tuple[Path, RunConfig]:
    """The run folder at or above `path`, and its checked configuration. Raises UserError where it isn't a run."""
    run = find_run(path)
    values = {key: value for key, value in read_config(run).items() if key != "resolved"}
    algo = values.get("algo")
    if not isinstance(algo, dict) or "name" not in algo:
        raise UserError(f"{run / 'config.yaml'}: names no algorithm")
    try:
        config = build(get_algorithm(str(algo["name"])).Config, algo, "algo")
        return run, build(RunConfig, {**values, "algo": config})
    except ConfigError as error:
        raise ConfigError(f"{run / 'config.yaml'}: {error}") from error


def check_trust(run: Path, cfg: RunConfig, trusted: bool) -> None:
    """Raise UserError where building the run's environment would import a module that the run names."""
    module, colon, _ = cfg.env.id.partition(":")
    if colon and not trusted:
        raise UserError(
            f"{run}: its environment {cfg.env.id} imports the module '{module}', which runs code: where you trust it, "
            "give --trust"
        )


def evaluate_run(
    path: Path,
    *,
    trust: bool = False,
    episodes: int,
    seed: int | None,
    checkpoint: str,
    stochastic: bool,
    as_json: bool,
    video: Path | None,
) -> None:
    """`deeprl eval`: play a trained run's policies and print what they earn.

    `seed` picks one of the run's seeds; all of them otherwise. `checkpoint` is best or last. `trust` allows the run
    to name a module to import. Raises UserError.
    """
    run, cfg = read_run(path)
    check_trust(run, cfg, trust)
    seeds = cfg.seed_list
    if seed is not None and seed not in seeds:
        raise UserError(f"--seed {seed}: this run has seeds {', '.join(map(str, seeds))}")
    if video is not None:
        from deeprl_cli.video import check

        check(cfg)
    torch.set_num_threads(1)  # one small batch after another: more threads only wait for each other
    spec = env_spec(cfg.env)
    policy = make_policy(get_algorithm(cfg.algo.name), cfg.algo, cfg.network, spec, seeds, "cpu")
    if checkpoint == "best" and best_path(run, seeds[0]).exists():
        steps = load_best(policy, run, seeds)
        policy.algorithm.explore_at(done(steps, cfg.horizon or cfg.total_steps))  # not part of weights
    elif checkpoint == "best":
        raise UserError(f"{run}: has no best checkpoint (eval.every=0, or stopped early): use --checkpoint last")
    else:
        try:
            policy.load_state_dict(load_checkpoint(run / "checkpoints" / "last").state["policy"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{run / 'checkpoints' / 'last'}: doesn't fit this run's config.yaml") from error
        check_finite(run / "checkpoints" / "last", dict(policy.named_parameters()))
    # Seeds of its own: neither the episodes of training nor those that chose the best checkpoint.
    envs = eval_envs(cfg.env, [s + FRESH for s in seeds], episodes)
    noise = None
    if stochastic:
        act = policy.algorithm.noise_spec().act
        noise = NoiseStream(seeds, "eval", {"act": act}, (min(episodes, EVAL_ENVS),), block=64)
    try:
        result = evaluate(policy, envs, episodes, noise)
    finally:
        envs.close()
    chosen = [index for index, s in enumerate(seeds) if seed is None or s == seed]
    report: dict[str, Any] = {
        "run": str(run),
        "algo": cfg.algo.name,
        "env": cfg.env.id,
        "checkpoint": checkpoint,
        "stochastic": stochastic,
        "episodes": episodes,
        "seeds": [seeds[i] for i in chosen],
        "return_mean": [result.return_mean[i] for i in chosen],
        "return_std": [result.return_std[i] for i in chosen],
        "length_mean": [result.length_mean[i] for i in chosen],
    }
    from deeprl_cli.transcripts import has_transcripts, transcripts

    if has_transcripts(cfg.env.id):
        report["transcripts"] = [transcripts(policy, cfg, i, stochastic=stochastic) for i in chosen]
    if video is not None:
        from deeprl_cli.video import record

        report["videos"] = [str(file) for file in record(policy, cfg, chosen, video)]
    print(json.dumps(report) if as_json else _table(report))


FRESH = 1_000_003  # added to a run's seeds for the episodes of `deeprl eval` and of the final evaluation


def _table(report: dict[str, Any]) -> str:
    lines = [f"{report['algo']} on {report['env']}, {report['checkpoint']} checkpoint, {report['episodes']} episodes"]
    for s, mean, std, length in zip(
        report["seeds"], report["return_mean"], report["return_std"], report["length_mean"], strict=True
    ):
        lines.append(f"  seed {s}: return {mean:.2f} ± {std:.2f} (std of episodes), length {length:.0f}")
    if len(report["seeds"]) > 1:
        lines.append(f"  mean over seeds: {np.mean(report['return_mean']):.2f}")
    for s, shown in zip(report["seeds"], report.get("transcripts", []), strict=False):
        from deeprl_cli.transcripts import in_a_row

        lines.append(in_a_row(f"{'sampled' if report['stochastic'] else 'greedy'}, seed {s}", shown))
    lines += [f"  video: {file}" for file in report.get("videos", [])]
    return "\n".join(lines)
