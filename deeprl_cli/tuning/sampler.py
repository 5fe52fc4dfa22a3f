"""What to try next: Sobol's points over the whole space first, then Optuna's TPE; one structure for a whole batch.

TPE: multivariate (values are drawn jointly), in groups, with a constant liar (what is being trained isn't tried beside
itself). A draw depends on the study's history, its seed and the trial's number alone: so a study that was stopped goes
on as it would have, and two processes don't draw the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.domain import Domain

TRIES = 200  # draws of values that don't go together before it gives up
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Sampler(optuna.samplers.BaseSampler):
    """`fits` raises ConfigError for values that no run can have. `fixed` are drawn values that all trials have which
    are asked for at present."""

    def __init__(
        self, domains: Sequence[Domain], startup: int, seed: int, fits: Callable[[Mapping[str, Any]], object]
    ) -> None:
        self.domains, self.startup, self.seed, self.fits = domains, startup, seed, fits
        self.space = {one.name: distribution(one) for one in domains}
        self.fixed: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Raises ConfigError where nothing fits."""
        seen, starting = told_of_rungs(study), self.starting(study)
        present = seen.get_trials(deepcopy=False)[trial.number]
        refused: ConfigError | None = None
        for attempt in range(TRIES):
            drawn = {} if starting else self._by_tpe(seen, present, attempt)
            drawn = {**self._by_sobol(trial.number, attempt), **drawn, **self.fixed}
            try:
                self.fits(drawn)
                return drawn
            except ConfigError as error:
                refused = error
        raise ConfigError(f"{TRIES} draws, and none that can be trained: the last: {refused}")

    def starting(self, study: optuna.Study) -> bool:
        """Whether the space is still looked over: too few trials have a score."""
        return sum(trial.state in FINISHED or waits(trial) for trial in study.get_trials(deepcopy=False)) < self.startup

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is drawn with the others")

    def _by_sobol(self, number: int, attempt: int) -> dict[str, Any]:
        from scipy.stats import qmc

        points = qmc.Sobol(len(self.domains), scramble=True, seed=self.seed + attempt)
        if number:
            points.fast_forward(number)
        (point,) = points.random(1)
        return {one.name: one.drawn(float(unit)) for one, unit in zip(self.domains, point, strict=True)}

    def _by_tpe(self, study: optuna.Study, trial: FrozenTrial, attempt: int) -> dict[str, Any]:
        """Nothing where TPE knows too little."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            tpe = optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=1,
                seed=(self.seed * 1_000_003 + trial.number * TRIES + attempt) % 2**32,
            )
        drawn = tpe.sample_relative(study, trial, tpe.infer_relative_search_space(study, trial))
        return drawn if set(drawn) >= {name for name, one in self.space.items() if not one.single()} else {}


def told_of_rungs(study: optuna.Study) -> optuna.Study:
    """The study as TPE should see it. A trial that has a score at a rung, and waits there or goes on, is RUNNING: TPE
    would learn nothing from it, and its constant liar would keep away from it. Here it is one that ended at the rung.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(waits(trial) for trial in trials):
        return study
    seen = optuna.create_study(direction="maximize")
    for trial in trials:
        told = copy.copy(trial)
        if waits(told):
            told.state, told.datetime_complete = TrialState.PRUNED, told.datetime_start
        seen.add_trial(told)
    return seen


def waits(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and bool(trial.intermediate_values)


def distribution(one: Domain) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution(one.labels)
    low, high = one.bounds
    if one.whole:
        return IntDistribution(int(low), int(high), log=one.scale == "log")
    return FloatDistribution(low, high, log=one.scale != "linear")
