"""Which study is meant: a new one, one that is named, or the one that the same command began."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from shlex import join

from deeprl_cli.config.ranges import taken_apart
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.lock import alone
from deeprl_cli.runs.reading import code_named
from deeprl_cli.tuning import plan as plans
from deeprl_cli.tuning.plan import Plan
from deeprl_cli.tuning.verdict import RESULT


def opened(words: Sequence[str], trust: bool = False) -> Plan:
    """The plan, written. `trust`: a study may run code that it names and that isn't typed. Raises UserError."""
    named = [word for word in words if "=" not in word or plans.is_study(Path(word))]
    if named:
        return _named(Path(named[0]).expanduser(), [word for word in words if word != named[0]], trust)
    plan = plans.new(words)
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(plan.folder.parent, ".beginning"):  # the same command in two terminals is one study
        if plan.settings.study is not None and plans.is_study(plan.folder):
            before = plans.read(plan.folder)
            if before.words != list(words):
                raise ConfigError(
                    f"study={plan.folder}: was begun by other words: deeprl tune {' '.join(before.words)}; "
                    f"go on with it: {again(before)}"
                )
            check_trust(before, trust, plan)
            return _goes_on(before)
        for folder in sorted(plan.folder.parent.iterdir(), reverse=True):
            if plans.is_study(folder) and not (folder / RESULT).is_file():
                before = plans.read(folder)
                if before.words == list(words):
                    check_trust(before, trust, plan)
                    return _goes_on(before)
        plan = _placed(plan)
        plan.write()
    print(f"study {plan.folder}, searching {', '.join(one.key for one in plan.domains)}", flush=True)
    return plan


def check_trust(plan: Plan, trust: bool, typed: Plan | None = None) -> None:
    """Raise UserError where a study on the disk names code that isn't deeprl's own, nor `typed` just now."""
    granted = [] if typed is None else code_named(typed.typed, training=True)
    found = [why for one in (plan.typed, plan.trial) for why in code_named(one, training=True) if why not in granted]
    if found and not trust:
        told = "; ".join(dict.fromkeys(found))
        raise UserError(f"{plan.folder}: {told}, which runs code: where you trust it, give --trust")


def _named(folder: Path, changes: Sequence[str], trust: bool) -> Plan:
    if not plans.is_study(folder):
        raise UserError(f"{folder}: no study there; a new one: deeprl tune algo=ppo env=CartPole-v1")
    found = taken_apart(changes)
    other = [*found.overrides, *(f"{one.key}={one.typed}" for one in found.domains)]
    other += [f"{key}={value}" for key, value in found.own.items() if key not in plans.BUDGET]
    if other:
        raise ConfigError(f"{other[0]}: a study goes on as it is; what may change is {', '.join(plans.BUDGET)}")
    plan = plans.read(folder, found.own)
    check_trust(plan, trust)
    if found.own:
        plan.write()
    return _goes_on(plan)


def again(plan: Plan) -> str:
    """What is typed to go on with a study."""
    return join(["deeprl", "tune", str(plan.folder), *["--trust"] * bool(code_named(plan.typed, training=True))])


def _goes_on(plan: Plan) -> Plan:
    print(f"goes on with the study {plan.folder}", flush=True)
    return plan


def _placed(plan: Plan) -> Plan:
    """In a folder of its own: with `_2`, `_3`, … behind the time where another study began in the same second."""
    attempt, folder = 1, plan.folder
    while folder.exists() and (plan.settings.study is None or any(folder.iterdir())):
        if plan.settings.study is not None:
            raise ConfigError(f"study={folder}: the folder is not empty, and no study: give another")
        attempt += 1
        folder = plan.folder.with_name(f"{plan.folder.name}_{attempt}")
    return dataclasses.replace(plan, folder=folder)
