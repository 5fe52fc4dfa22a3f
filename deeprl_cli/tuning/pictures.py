"""What a study's picture shows, read from its storage."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from deeprl_cli.errors import UserError
from deeprl_cli.reports.picture import save
from deeprl_cli.reports.study import Line, Tried, draw_population, draw_study
from deeprl_cli.tuning.pbt import is_control, schedule
from deeprl_cli.tuning.population import best_of
from deeprl_cli.tuning.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = "study.png"
ENOUGH = 10  # trials that came to the end, for importance


def picture(store: Store, file: Path | None = None) -> Path:
    """Draw the study as it is now; the file (study.png in its folder). Raises UserError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("a picture of a study needs matplotlib: pip install 'deeprl-cli[plot]'")
    file = store.plan.folder / PICTURE if file is None else file.expanduser()
    figure = _population(store) if store.plan.pbt else _search(store)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(figure, file)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}): give another --out") from error
    return file


def _title(store: Store) -> str:
    plan = store.plan
    return f"{plan.typed['algo']['name']} on {plan.typed['env']['id']}, {plan.total_steps:,} steps a trial"


def _search(store: Store) -> Figure:
    tried = []
    for trial in store.trials():
        whole = trial.state == TrialState.COMPLETE
        scores = [trial.value] if whole else list(trial.intermediate_values.values())
        if scores and scores[-1] is not None:
            tried.append(Tried(trial.number, store.plan.values(trial.params), float(scores[-1]), whole))
    if not tried:
        raise UserError(f"{store.plan.folder}: no trial has a score yet: nothing to draw")
    return draw_study(tried, store.plan.domains, importance(store), store.plan.scored_by, _title(store))


def importance(store: Store) -> Mapping[str, float]:
    """Of each key, its share in what sets the best tenth apart from the better half; none where there are too few."""
    done = [trial for trial in store.trials() if trial.state == TrialState.COMPLETE]
    if len(done) < ENOUGH or len({trial.value for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = get_param_importances(store.study, evaluator=PedAnovaImportanceEvaluator())
    return {one.key: found[one.name] for one in store.plan.domains if one.name in found}


def _population(store: Store) -> Figure:
    units = [unit for unit in store.units() if unit.done]
    best = best_of(store, control=False)
    if best is None:
        raise UserError(f"{store.plan.folder}: the population isn't done: nothing to draw")
    lines = [
        Line(
            trial.intermediate_values,
            [(unit.start, unit.values[trial.number]) for unit in units if trial.number in unit.values],
            is_control(store, trial.number),
        )
        for trial in store.trials()
        if trial.intermediate_values
    ]
    return draw_population(lines, store.plan.domains, schedule(units, best.number), _title(store))
