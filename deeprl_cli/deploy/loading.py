"""From a run's folder to its policies, each seed's by itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from deeprl_cli.algorithm import done
from deeprl_cli.deploy.trained import TrainedPolicy
from deeprl_cli.envs.own_terms import own_terms
from deeprl_cli.policy import make_policy
from deeprl_cli.runs.reading import check_trust
from deeprl_cli.runs.weights import Kind, load_kept, which_checkpoint
from deeprl_cli.schema.run import RunConfig


@dataclass(frozen=True)
class Kept:
    """A seed's policy, and at which of the run's steps it was the present one."""

    policy: TrainedPolicy
    seed: int
    checkpoint: Kind
    step: int


def load_policies(run: Path, cfg: RunConfig, checkpoint: Kind | None, *, trust: bool = False) -> dict[int, Kept]:
    """Each seed's policy. Builds the environment once, for its spaces. Raises UserError."""
    check_trust(run, cfg, trust)
    checkpoint = which_checkpoint(run, cfg, checkpoint)
    terms = own_terms(cfg.env)
    together = make_policy(cfg, terms.spec)
    steps = load_kept(together, run, cfg, checkpoint, run).tolist()
    kept = {}
    for index, seed in enumerate(cfg.seed_list):
        alone = make_policy(dataclasses.replace(cfg, seed=seed, seeds=1), terms.spec)
        alone.load_weights(0, together.weights(index))
        alone.algorithm.explore_at(done(steps[index], cfg.horizon or cfg.total_steps))
        name = f"{checkpoint} policy of {run}, seed {seed}, step {steps[index]}"
        kept[seed] = Kept(TrainedPolicy(alone, terms, name), seed, checkpoint, steps[index])
    return kept
