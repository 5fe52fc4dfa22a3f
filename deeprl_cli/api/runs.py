"""A run on the disk, as Python sees it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprl_cli.deploy.exporting import ENDINGS, Export, export
from deeprl_cli.deploy.loading import Kept, load_policies
from deeprl_cli.deploy.trained import TrainedPolicy
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation.evaluate import Evaluation
from deeprl_cli.evaluation.trained import evaluate_trained
from deeprl_cli.reports.curves import read_table
from deeprl_cli.runs.catalogue import find
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.runs.reading import check_trust, read_run
from deeprl_cli.runs.weights import Kind, which_checkpoint
from deeprl_cli.schema.run import RunConfig


class Run:
    """A training run: `path` its folder, `config` what it was trained with, every value of it checked.

    Nothing is executed that the run brings. What it was trained on is built when a policy is first asked for; an
    environment `module:Id` imports that module, which takes `load(…, trust=True)`.
    """

    def __init__(self, path: Path, config: RunConfig, checkpoint: Kind | None = None, *, trust: bool = False):
        self.path, self.config = path, config
        self._asked, self._trust = checkpoint, trust

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.config.algo.called} on {self.config.env.id}, seeds {self.seeds}>"

    @property
    def seeds(self) -> list[int]:
        """The seeds that were trained together."""
        return self.config.seed_list

    @property
    def checkpoint(self) -> Kind:
        """Which weights `policy` and `evaluate` take: `best` by evaluation in training, or `last`."""
        return which_checkpoint(self.path, self.config, self._asked)

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`: how it ended, and what it earns. Raises UserError while the run hasn't ended."""
        return read_summary(self.path)

    @cached_property
    def kept(self) -> Mapping[int, Kept]:
        """Each seed's policy, with the step it is of."""
        return load_policies(self.path, self.config, self._asked, trust=self._trust)

    @property
    def policies(self) -> dict[int, TrainedPolicy]:
        """Each seed's policy."""
        return {seed: kept.policy for seed, kept in self.kept.items()}

    @property
    def policy(self) -> TrainedPolicy:
        """That of the first seed (`policies` has all). Raises UserError where the weights are missing or damaged."""
        return self.kept[self.config.seed].policy

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """What was logged, a row for each seed and step: `seed`, `step` and every metric as arrays of one length, NaN
        where a metric has no value. `pandas.DataFrame(run.curves())` is a table of it."""
        tables = {seed: read_table(self.path / f"seed_{seed}" / "metrics.csv") for seed in self.seeds}
        rows = {seed: len(table["step"]) for seed, table in tables.items()}
        columns = {"seed": np.repeat(np.array(list(rows), float), list(rows.values()))}
        for name in dict.fromkeys(name for table in tables.values() for name in table):
            parts = [table.get(name, np.full(rows[seed], np.nan)) for seed, table in tables.items()]
            columns[name] = np.concatenate(parts)
        return columns

    def evaluate(self, episodes: int = 100, *, deterministic: bool = True) -> Evaluation:
        """Play fresh episodes, the very ones that `deeprl eval` plays: `returns` and `lengths` are `(seeds, episodes)`,
        `return_mean` a number for each seed. Raises UserError."""
        if episodes < 1:
            raise UserError(f"evaluate({episodes}): at least one episode is needed")
        check_trust(self.path, self.config, self._trust)
        return evaluate_trained(self.path, self.config, episodes, self.checkpoint, not deterministic)[1]

    def export(self, path: str | Path, *, seed: int | None = None, stochastic: bool = False) -> Export:
        """Write a seed's policy, the first's where None, to one file that plays without deeprl: `.onnx`, or `.pt2` for
        `torch.export.load`. `stochastic`: actions are sampled, the noise is an input.

        Written only when the file acts as the policy does; `agreement` of what is returned says how closely. Raises
        UserError; docs/export.md says what is in the file.
        """
        path, seed = Path(path).expanduser(), self.config.seed if seed is None else seed
        if seed not in self.kept:
            raise UserError(f"seed={seed}: {self.path} has {', '.join(map(str, self.seeds))}")
        to = next((to for to, ending in ENDINGS.items() if ending == path.suffix), None)
        if to is None:
            raise UserError(f"{path}: the ending says what is written: give .onnx or .pt2")
        return export(self.kept[seed], self.config, path, to=to, stochastic=stochastic)


def load(path: str | Path, checkpoint: Kind | None = None, *, trust: bool = False) -> Run:
    """The run in folder `path`; `latest`, or a part of a run's name, means one below `runs/`.

    `checkpoint`: `best` or `last`; left out, the best, or the last where the run was never evaluated. `trust` allows
    to import the module that an environment `module:Id` names. Raises UserError where there is no run.
    """
    folder, config = read_run(find(path), trust)
    return Run(folder, config, checkpoint, trust=trust)
