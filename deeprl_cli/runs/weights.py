"""Loads the saved weights of a run into a policy: each seed's best, or those of the last checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from deeprl_cli.algorithm import done
from deeprl_cli.errors import UserError
from deeprl_cli.policy import Policy
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.tensor_files import load_weights
from deeprl_cli.schema.run import RunConfig

Kind = Literal["best", "last"]


def best_path(run: Path, seed: int) -> Path:
    return run / "checkpoints" / "best" / f"seed_{seed}.safetensors"


def has_best(run: Path, seeds: list[int]) -> bool:
    """Whether an evaluation in training has chosen weights of every seed."""
    return all(best_path(run, seed).exists() for seed in seeds)


def which_checkpoint(run: Path, cfg: RunConfig, asked: Kind | None) -> Kind:
    """The one asked for; else the best, or the last where the run was never evaluated."""
    return asked or ("best" if has_best(run, cfg.seed_list) else "last")


def load_best(policy: Policy, run: Path, seeds: list[int], first: int = 0) -> Tensor:
    """Put each seed's best weights into `policy`, from its `first` seed on; the steps `(S,)` at which they were the
    present ones.

    Raises UserError where a file is missing, damaged, or another's.
    """
    steps = torch.zeros(len(seeds), dtype=torch.int64)
    for index, seed in enumerate(seeds):
        tensors, meta = load_weights(best_path(run, seed))
        check_finite(best_path(run, seed), tensors)
        try:
            policy.load_weights(first + index, tensors)
            steps[index] = int(meta["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{best_path(run, seed)}: doesn't fit this run's config.yaml: {error}") from error
    return steps


def load_last(policy: Policy, run: Path) -> int:
    """Put the weights of the last checkpoint into `policy`; the step at which it was written.

    Raises UserError where it is missing, damaged, or another's.
    """
    folder = run / "checkpoints" / "last"
    try:
        state = load_checkpoint(folder).state
        policy.load_state_dict(state["policy"])
        steps = int(state["steps"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{folder}: doesn't fit this run's config.yaml") from error
    check_finite(folder, dict(policy.named_parameters()))
    return steps


def load_kept(policy: Policy, run: Path, cfg: RunConfig, checkpoint: Kind, name: Path) -> Tensor:
    """Put each seed's weights of that checkpoint into `policy`, ready to explore as it did then; their steps `(S,)`.

    `name` is the run's in words. Raises UserError where there is no such checkpoint, or it is damaged.
    """
    if checkpoint == "last":
        return torch.tensor([load_last(policy, run)] * cfg.seeds)
    if not has_best(run, cfg.seed_list):
        raise UserError(f"{name}: no evaluation in training has chosen a best checkpoint: give --checkpoint last")
    steps = load_best(policy, run, cfg.seed_list)
    policy.algorithm.explore_at(done(steps, cfg.horizon or cfg.total_steps))  # not part of weights
    return steps


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError naming the first of the weights that holds NaN or infinity: they would act at random."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: damaged: '{name}' holds NaN or infinity")
