"""A study's plan: what it tunes, what it searches, and how a trial's values become a run. Kept in `study.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from deeprl_cli.config.compose import build_run_config
from deeprl_cli.config.overrides import parse_one
from deeprl_cli.config.ranges import Words, checked, defaults, settings, space, taken_apart, with_values
from deeprl_cli.config.ranges import domain as domain_of
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.plugins.files import short
from deeprl_cli.runs.folder import atomic_write, slug
from deeprl_cli.schema import format as run_format
from deeprl_cli.schema.domain import Domain
from deeprl_cli.schema.members import kind, own_keys
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.tune import TuneConfig
from deeprl_cli.schema.typed import build, to_plain

STUDY_NAME = "study.json"
FORMAT = 1
STUDIES = Path("runs", "tune")
# what a trial's run has unless it was typed: a curve of ten points, and little else on the disk
POINTS, EPISODES = 10, 5
POINTS_OF_FIRST = 4  # at least, of a curve up to the first rung
CHECKPOINTS = 4
FIRST_VALUES = ("_init", ".start")  # which only the beginning of a run knows
BUDGET = ("trials", "steps", "minutes", "out", "fresh_seeds")  # what may change when a study goes on


@dataclasses.dataclass(frozen=True)
class Plan:
    """`typed` are the composed values of the run as typed, the defaults that the best is held against; `trial` those
    of a trial, before its own."""

    folder: Path
    words: list[str]
    settings: TuneConfig
    domains: list[Domain]
    typed: dict[str, Any]
    trial: dict[str, Any]

    @property
    def seeds(self) -> int:
        return int(self.trial["seeds"])

    @property
    def pbt(self) -> bool:
        return self.settings.method == "pbt"

    @property
    def scored_by(self) -> Literal["auc", "last"]:
        """A population is judged as it is now."""
        return "last" if self.pbt else self.settings.score

    @property
    def first_fresh(self) -> int:
        """The first seed that has chosen nothing."""
        return int(self.trial["seed"]) + self.seeds * (self.settings.population if self.pbt else 1)

    @property
    def total_steps(self) -> int:
        return int(self.trial["total_steps"])

    @property
    def ages(self) -> list[int]:
        """Steps of one seed at which trials are compared; the last is a whole trial."""
        return self.settings.ages(self.total_steps)

    @cached_property
    def structural(self) -> list[Domain]:
        """Those whose values can't differ among members of one stack."""
        return [one for one in self.domains if not self._stacks(one)]

    def _stacks(self, one: Domain) -> bool:
        base = build_run_config(self.trial)
        if one.key.startswith("env.kwargs."):
            return base.env.backend == "sync"
        marks = {f"algo.{key}": mark for key, mark in own_keys(type(base.algo)).items()}
        return one.key in marks and len({str(kind(value, marks[one.key])) for value in one.extremes}) == 1

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """By key, of what Optuna drew."""
        return {one.key: one.value(params[one.name]) for one in self.domains}

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """A trial's run. Raises ConfigError where its values don't go together."""
        return build_run_config(with_values(self.trial, self._searched(values)))

    def _searched(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same. Raises UserError for a key that isn't searched: what a file says of a trial is no way to set it."""
        if other := sorted(set(values) - {one.key for one in self.domains}):
            raise UserError(f"{self.folder}: damaged: a trial has a value of {other[0]}, which isn't searched")
        return values

    def run_of(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"

    def job(self, number: int, values: Mapping[str, Any], until: int) -> RunConfig:
        """Its run to this age. Schedules are those of a whole trial."""
        cfg = self.config(values)
        horizon = cfg.horizon or self.total_steps
        seed = cfg.seed + self.seeds * (number % self.settings.population) if self.pbt else cfg.seed
        cfg = dataclasses.replace(cfg, total_steps=until, horizon=horizon, seed=seed)
        return dataclasses.replace(cfg, run_dir=str(self.run_of(number)), name=f"trial {number}")

    def fresh(self, values: Mapping[str, Any], name: str) -> RunConfig:
        """The run of the comparison at the end: as typed, on seeds that no trial had."""
        cfg = build_run_config(with_values(self.typed, self._searched(values)))
        place = str(self.final_run(name))
        fresh = self.settings.fresh_seeds
        return dataclasses.replace(cfg, seed=self.first_fresh, seeds=fresh, run_dir=place, name=name)

    def final_run(self, name: str) -> Path:
        return self.folder / "final" / name

    def defaults(self) -> dict[str, Any]:
        """The values that the keys searched have without the study."""
        return {one.key: value_of(self.typed, one.key) for one in self.domains}

    def write(self) -> None:
        """Raises UserError where the disk refuses."""
        record = {
            "format": FORMAT,
            "words": self.words,
            "settings": to_plain(self.settings),
            "ranges": {one.key: one.typed for one in self.domains},
            "typed": {run_format.KEY: run_format.FORMAT, **self.typed},
            "trial": {run_format.KEY: run_format.FORMAT, **self.trial},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            atomic_write(self.folder / STUDY_NAME, text.encode())
        except OSError as error:
            raise UserError(f"{self.folder}: can't be written ({error.strerror}): give another study=…") from error


def new(words: Sequence[str]) -> Plan:
    """That of what was typed, not yet written. Raises ConfigError."""
    found = taken_apart(words)
    own = settings(found.own)
    typed = checked(found.overrides, found.domains)
    for name, goal in typed["stop"].items():
        if goal is not None and name != "evaluations":
            raise ConfigError(f"stop.{name}={goal}: trials are compared over the same steps: leave it out")
    domains = found.domains or _kept(typed)
    plan = Plan(_folder(own, typed), list(words), own, domains, typed, _of_a_trial(found, own, typed))
    plan.config({})
    _check_steps(plan)
    _check_ages(plan)
    return stacking(plan, bool(found.domains)) if plan.pbt else plan


def stacking(plan: Plan, typed: bool) -> Plan:
    """The plan without what can't differ in a stack, or be changed on the way: a population is one. Raises ConfigError
    for a range of those that was typed."""
    kept = [one for one in plan.domains if one not in plan.structural and not one.key.endswith(FIRST_VALUES)]
    kept = [one for one in kept if one.key.startswith("algo.")]
    if typed and len(kept) < len(plan.domains):
        other = next(one.key for one in plan.domains if one not in kept)
        raise ConfigError(f"{other}: can't differ among members of one stack and change on the way, as --pbt needs")
    return dataclasses.replace(plan, domains=kept)


def _check_steps(plan: Plan) -> None:
    steps, least = plan.settings.steps, plan.total_steps * plan.seeds
    if steps is not None and steps < least:
        raise ConfigError(
            f"steps={steps}: one trial takes {least} (total_steps={plan.total_steps}, seeds={plan.seeds})"
        )


def _check_ages(plan: Plan) -> None:
    ages = [0, *plan.ages]
    if len(set(ages)) < len(ages):
        key = "generations" if plan.pbt else "rungs"
        raise ConfigError(
            f"{key}={getattr(plan.settings, key)}: too many for total_steps={plan.total_steps}: trials would be "
            f"compared at steps {', '.join(map(str, plan.ages))}"
        )


def _kept(typed: Mapping[str, Any]) -> list[Domain]:
    """The space kept for the algorithm, but for what this run has switched off (null, another kind of value)."""
    kept = space(str(typed["algo"]["name"]))
    domains = [one for one in kept if isinstance(value_of(typed, one.key), int | float)]
    if not domains:
        raise ConfigError("nothing of the space kept for this algorithm is used by this run: give ranges of your own")
    return domains


def _of_a_trial(found: Words, own: TuneConfig, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluated a few times (also before the first rung), with checkpoints to go on from, and no event files."""
    total = int(typed["total_steps"])
    first = own.ages(total)[0]
    light = {
        "seeds": 1 if own.method == "pbt" else 3,
        # of a population, each generation ends with an evaluation
        "eval.every": 0 if own.method == "pbt" else max(1, min(total // POINTS, first // POINTS_OF_FIRST)),
        "eval.episodes": EPISODES,
        "eval.final_episodes": 2 * EPISODES,
        "checkpoint.every": max(1, total // CHECKPOINTS),
        "log.every": max(1, total // POINTS),
        "log.tensorboard": False,
    }
    given = [text.partition("=")[0].lstrip("+") for text in found.overrides]
    return with_values(typed, {key: value for key, value in light.items() if key not in given})


def _folder(own: TuneConfig, typed: Mapping[str, Any]) -> Path:
    if own.study is not None:
        return Path(own.study).expanduser()
    parent = STUDIES / slug(short(str(typed["algo"]["name"]))) / slug(str(typed["env"]["id"]))
    return parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def is_study(folder: Path) -> bool:
    return (folder / STUDY_NAME).is_file()


def read(folder: Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """That of a study on the disk, with other `changes` of its budget. Raises UserError where it can't be read."""
    path = folder / STUDY_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UserError(f"{path}: of format {record['format']}, this deeprl reads {FORMAT}: upgrade deeprl-cli")
        domains = [domain_of(parse_one(f"{key}={text}")) for key, text in record["ranges"].items()]
        own = build(TuneConfig, {**defaults(), **record["settings"], **(changes or {})})
        typed, trial = (run_format.up_to_date(record[name], path) for name in ("typed", "trial"))
        return Plan(folder, list(record["words"]), own, domains, typed, trial)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or not there: no study can go on from it") from error


def value_of(values: Mapping[str, Any], key: str) -> Any:
    """Plain values at a dotted key; None where there is none."""
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
