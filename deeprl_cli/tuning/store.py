"""The study in Optuna's storage, and the units of work beside it: who trains what, and what has been told.

    units/<n>/unit.json   some trials that are trained together: their numbers, from which age to which, and whether
                          that is done. A process that trains them holds the folder's lock.

A trial that Optuna calls RUNNING is in a unit. Where its process was killed, the unit's lock is free: whoever comes
next goes on with it, from its checkpoints. One in no unit was asked for by a process that was killed there and then: it
has failed, and counts for nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.plugins.classes import said
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.runs.lock import held
from deeprl_cli.schema.tune import SQLITE
from deeprl_cli.tuning.plan import Plan
from deeprl_cli.tuning.sampler import Sampler

JOURNAL = "journal.log"
UNIT = "unit.json"
ALIKE = 4  # trials of one structure at the start: as few as make a stack worth it
BY_TRIAL = ("starts", "values", "grafts")
PATIENCE = 60  # seconds that a process waits for another that writes into SQLite
ASKING = ".asking"  # the lock of those who look what to do next


@dataclass
class Unit:
    """`trials` (their numbers) that train together from one age to another, in steps of one seed. `stacks`: those that
    train as one; `starts`: the step of the checkpoint from which each goes on; `seconds` of training so far. In a
    population: the `values` of each, and `grafts`, from whom it takes over."""

    folder: Path
    trials: list[int]
    start: int
    until: int
    done: bool = False
    seconds: float = 0.0
    stacks: list[list[int]] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    grafts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Unit:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in BY_TRIAL:  # JSON has no numbers for keys
            record[key] = {int(trial): value for trial, value in record[key].items()}
        return cls(path.parent, **record)

    def write(self) -> None:
        record = {key: value for key, value in asdict(self).items() if key != "folder"}
        atomic_write(self.folder / UNIT, (json.dumps(record) + "\n").encode())


class Store:
    """Raises UserError where the storage can't be opened."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sampler = Sampler(
            plan.domains,
            plan.settings.trials_of_startup,
            int(plan.trial["seed"]),
            lambda drawn: plan.config(plan.values(drawn)),
        )
        try:
            self.study = optuna.create_study(
                storage=_storage(plan),
                sampler=self.sampler,
                study_name=plan.folder.resolve().name,
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:
            where = plan.settings.storage or plan.folder / JOURNAL
            raise UserError(f"storage={where}: can't be opened ({said(error)})") from error

    # ---- units -----------------------------------------------------------------------------------------------------

    def units(self) -> list[Unit]:
        return [Unit.read(path) for path in sorted((self.plan.folder / "units").glob(f"*/{UNIT}"))]

    def open_unit(self, trials: Sequence[int], start: int, until: int, **more: Any) -> Unit:
        number = len(list((self.plan.folder / "units").glob("*")))
        folder = self.plan.folder / "units" / f"{number:04}"
        folder.mkdir(parents=True)
        unit = Unit(folder, list(trials), start, until, **more)
        unit.write()
        return unit

    def stale(self) -> Unit | None:
        """One that nobody trains any more, and isn't done."""
        return next((unit for unit in self.units() if not unit.done and not held(unit.folder)), None)

    def under_way(self) -> bool:
        return any(not unit.done for unit in self.units())

    def promoted(self, age: int) -> set[int]:
        """The trials that have gone on from there."""
        return {number for unit in self.units() if unit.start == age for number in unit.trials}

    # ---- trials ----------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def begun(self) -> set[int]:
        return {number for unit in self.units() for number in unit.trials}

    def fail_orphans(self) -> None:
        begun = self.begun()
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and trial.number not in begun:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def ask(self, count: int) -> list[int]:
        """So many new trials, all of one structure, or, while the space is looked over, each few of one. The first ones
        have that of the defaults, and the very first is the defaults, where the space holds them."""
        plan, first = self.plan, not self.begun()
        known = plan.defaults()
        defaults = {one.name: one.number(known[one.key]) for one in plan.domains if known[one.key] in one}
        names = [one.name for one in plan.structural]
        numbers = []
        alike = min(count, ALIKE) if self.sampler.starting(self.study) else count
        for place in range(count):
            if place % alike == 0:
                self.sampler.fixed = {}
            if first and place < alike and all(name in defaults for name in names):
                kept = defaults if place == 0 and len(defaults) == len(plan.domains) else {}
                self.sampler.fixed = kept or {name: defaults[name] for name in names}
            trial = self._ask()
            if place % alike == 0:
                self.sampler.fixed = {name: trial.params[name] for name in names}
            for key, value in plan.values(trial.params).items():
                trial.set_user_attr(key, value)
            numbers.append(trial.number)
        return numbers

    def ask_population(self) -> list[int]:
        """A population's, and its control's, which begin with the same values."""
        numbers: list[int] = []
        for control in (False, True) if self.plan.settings.control else (False,):
            for place in range(self.plan.settings.population):
                self.sampler.fixed = self.trials()[numbers[place]].params if control else {}
                trial = self._ask()
                trial.set_user_attr("control", control)
                numbers.append(trial.number)
        return numbers

    def _ask(self) -> Trial:
        try:
            return self.study.ask(self.sampler.space)
        except ConfigError:
            self.fail_orphans()
            raise

    def values(self, number: int) -> dict[str, Any]:
        return self.plan.values(self.study.get_trials(deepcopy=False)[number].params)

    def tell(self, number: int, score: float | None, told: Mapping[str, Any]) -> None:
        """What became of a trial, once. Without a score it came to nothing: for the sampler it is worse than all
        others."""
        trial = self.trials()[number]
        if trial.state.is_finished():
            return
        live = Trial(self.study, trial._trial_id)
        for key, value in told.items():
            live.set_user_attr(key, value)
        if score is None or not math.isfinite(score):
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, score)

    def report(self, number: int, age: int, score: float, told: Mapping[str, Any]) -> None:
        """Its score at a rung, once."""
        trial = self.trials()[number]
        if trial.state.is_finished() or age in trial.intermediate_values:
            return
        live = Trial(self.study, trial._trial_id)
        for key, value in told.items():
            live.set_user_attr(key, value)
        live.report(score, age)

    def scores(self, age: int) -> dict[int, float]:
        """Of all trials that have come to this rung."""
        found = {trial.number: trial.intermediate_values for trial in self.trials()}
        return {number: values[age] for number, values in found.items() if age in values}

    def going(self) -> set[int]:
        """Trials that may still be promoted."""
        return {trial.number for trial in self.trials() if trial.state == TrialState.RUNNING}

    def let_go(self) -> None:
        """The study is done: those that weren't promoted are pruned."""
        for number in self.going() & self.begun():
            self.study.tell(number, state=TrialState.PRUNED)

    def best(self) -> FrozenTrial | None:
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)


def _storage(plan: Plan) -> BaseStorage:
    """Neither brings code: a journal is lines of JSON (Optuna pickles snapshots of one in Redis only), and so is what
    the database holds."""
    if plan.settings.storage is not None:
        if (plan.folder / "units").is_dir() and not Path(plan.settings.storage.removeprefix(SQLITE)).is_file():
            raise FileNotFoundError("the study's trials are in it, and it is gone")
        return RDBStorage(plan.settings.storage, engine_kwargs={"connect_args": {"timeout": PATIENCE}})
    path = plan.folder / JOURNAL
    _mend(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _mend(path: Path) -> None:
    """Take away the half of a line that a process left which was killed as it wrote it."""
    if not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock = JournalFileSymlinkLock(str(path))  # Optuna's own: another process may be writing just now
    lock.acquire()
    try:
        with path.open("rb+") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
            os.fsync(file.fileno())
    finally:
        lock.release()
