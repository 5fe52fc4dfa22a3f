"""Loads the saved weights of a run into a policy: each seed's best, or those of the last checkpoint."""

from __future__ import annotations

import re
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

Kind = Literal["best", "last"] | int  # a step: of those that `checkpoint.history` keeps
_STEP = re.compile(r"step_(\d{1,18})")


def best_path(run: Path, seed: int) -> Path:
    return run / "checkpoints" / "best" / f"seed_{seed}.safetensors"


def history_path(run: Path, step: int, seed: int) -> Path:
    return run / "checkpoints" / "history" / f"step_{step}" / f"seed_{seed}.safetensors"


def history_steps(run: Path) -> list[int]:
    """The steps of which weights are kept for good, in their order."""
    folders = (run / "checkpoints" / "history").glob("step_*")
    return sorted(int(found[1]) for folder in folders if (found := _STEP.fullmatch(folder.name)))


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
    return _load_files(policy, [best_path(run, seed) for seed in seeds], first)


def _load_files(policy: Policy, files: list[Path], first: int = 0) -> Tensor:
    """Each file into a seed of `policy`, from the `first` on; the steps that they tell."""
    steps = torch.zeros(len(files), dtype=torch.int64)
    for index, path in enumerate(files):
        tensors, meta = load_weights(path)
        check_finite(path, tensors)
        try:
            policy.load_weights(first + index, tensors)
            steps[index] = int(meta["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: doesn't fit this run's config.yaml: {error}") from error
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
    if checkpoint != "best":
        if checkpoint not in (kept := history_steps(run)):
            there = f"there are {', '.join(map(str, kept))}" if kept else "it keeps none (checkpoint.history=…)"
            raise UserError(f"{name}: keeps no weights of step {checkpoint}: {there}, and best or last")
        steps = _load_files(policy, [history_path(run, checkpoint, seed) for seed in cfg.seed_list])
    elif not has_best(run, cfg.seed_list):
        raise UserError(f"{name}: no evaluation in training has chosen a best checkpoint: give --checkpoint last")
    else:
        steps = load_best(policy, run, cfg.seed_list)
    policy.algorithm.explore_at(done(steps, cfg.horizon or cfg.total_steps))  # not part of weights
    return steps


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError naming the first of the weights that holds NaN or infinity: they would act at random."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: damaged: '{name}' holds NaN or infinity")
