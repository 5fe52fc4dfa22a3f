"""Runs configurations as one of two ranks, one after the other, for test_ranks.py.

`python -m tests.training.rank_jobs FOLDER`.

Starting processes takes longer than these runs; so two of them do all.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.processes import hardware as hw
from deeprl_cli.processes import ranks
from deeprl_cli.rl.returns import explained_variance, normalise
from deeprl_cli.training import launch
from deeprl_cli.training.run import train


class Samples(NamedTuple):
    field: torch.Tensor


def samples() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, returns and weights `(S, N)`, far from zero so that sums of squares would lose digits."""
    generator = torch.Generator().manual_seed(0)
    value = 1000 + torch.randn(2, 12, generator=generator)
    returns = value + 0.3 * torch.randn(2, 12, generator=generator)
    return value, returns, (torch.rand(2, 12, generator=generator) > 0.3).float()


def arithmetic() -> dict[str, list]:
    """What ranks compute from their shares of `samples()`."""
    with ranks.joined("cpu"):
        value, returns, weight = (ranks.share(x) for x in samples())
        order = torch.arange(12.0).expand(2, 12).unflatten(1, (3, 4))  # of three steps of four environments
        found = {
            "normalised": normalise(returns, weight),
            "explained": explained_variance(value, returns, weight),
            "pooled": ranks.pooled(Samples(ranks.share(order, 2).flatten(1)), 4).field,
            "average": ranks.average(torch.tensor([1.0 + ranks.rank()])),
            "total": torch.tensor([float(x) for x in ranks.collected(ranks.rank())]),
            "any": torch.tensor([ranks.any_of(ranks.rank() == 1), ranks.any_of(False)]),
            "told": torch.tensor(ranks.told(7 + ranks.rank())),
        }
        return {name: tensor.tolist() for name, tensor in found.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    jobs = json.loads((folder / "jobs.json").read_text())
    torch.set_num_threads(1)
    hw.GraphCompiler = partial(hw.GraphCompiler, backend="aot_eager")  # traced as ever; C++ would take half a minute
    os.environ["MASTER_PORT"] = str(jobs["ports"].pop())
    found = arithmetic()
    (folder / f"arithmetic-{os.environ['RANK']}.json").write_text(json.dumps(found))
    for name, options in jobs["runs"].items():
        os.environ["MASTER_PORT"] = str(jobs["ports"].pop())
        assert launch.in_rank()
        train(load_config([*options, "hardware=multiprocess", f"run_dir={folder / name}"]))


if __name__ == "__main__":
    main()
