"""A run's policies played again: what `deeprl eval` and `Run.evaluate` do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deeprl_cli.envs.closing import closing
from deeprl_cli.envs.place import staying
from deeprl_cli.evaluation.episodes import FRESH
from deeprl_cli.evaluation.evaluate import Evaluation, eval_envs, evaluate
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.processes.hardware import threads
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.runs.weights import Kind, load_kept
from deeprl_cli.schema.run import RunConfig


def evaluate_trained(
    run: Path,
    cfg: RunConfig,
    episodes: int,
    checkpoint: Kind,
    stochastic: bool,
    apart: int = FRESH,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Policy, Evaluation]:
    """The policies of all seeds, and what each earns in `episodes` episodes of its own. `apart` is added to the seeds
    for these: neither those of training are played nor those that chose the best checkpoint. `told` hears how many
    of how many each seed has played. Raises UserError."""
    seeds = cfg.seed_list
    fresh = [seed + apart for seed in seeds]
    # one small batch after another: more threads only wait for each other
    with threads(1), staying() as here, closing(eval_envs(cfg, fresh, episodes), cfg.env.id) as envs:
        policy = make_policy(cfg, envs.spec)
        load_kept(policy, here / run, cfg, checkpoint, run)
        noise = None
        if stochastic:
            act = policy.algorithm.noise_spec().act
            noise = NoiseStream(seeds, "eval", {"act": act}, (envs.num_envs // len(seeds),), block=64)
        return policy, evaluate(policy, envs, episodes, noise, told=told)
