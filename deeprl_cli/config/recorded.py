"""Where the values of a run came from, told from its config.yaml alone: what `--explain` says of one that is to begin.

What was typed is composed again, and says what each file gives, an experiment and files of one's own included. Where
that gives another value now, or a run doesn't say what was typed (an earlier deeprl's), its algorithm, environment,
network, hardware and tuned values composed again do; what they don't give was given to this run. No environment is
looked at, and no module that the run names is imported.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deeprl_cli.config.compose import compose_choices
from deeprl_cli.config.explain import Origin, origins
from deeprl_cli.config.messages import dotted_keys
from deeprl_cli.config.overrides import as_typed
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.run import EVALUATIONS

GIVEN = "this run"  # the source of a value that comes from no file
TYPED = "command line"
BESIDE = (
    "format",
    "resolved",
    "tuned",
    "typed",
    "run_dir",
)  # keys of config.yaml that are no values of a run, or only say where it is
NAMES = {"algo.name": "algo", "env.id": "env", "network.name": "network", "hardware.name": "hardware"}
# keys for which a run records what `auto` chose, instead of `auto`
_CHANGING = re.compile(r"(^|/)(tuned|experiment)/")  # files that set what other files say already
SETTLED = ("eval.every", "eval.episodes", "env.generators", "env.origin")


@dataclass(frozen=True)
class Recorded:
    """`overrides`: those that give this configuration again. `settled`: what `auto` chose, for machines that would
    choose otherwise. `unknown`: why neither can be found, or ""."""

    origins: Sequence[Origin]
    overrides: Sequence[str]
    settled: Sequence[str]
    unknown: str = ""

    @property
    def command(self) -> str:
        return shlex.join(["deeprl", "train", *self.overrides])


def recorded(config: Mapping[str, Any]) -> Recorded:
    """The origins of the content of a config.yaml. If it can't be composed, the file itself is the only one."""
    own = {key: value for key, value in config.items() if key not in BESIDE}
    flat = {key: _at(own, key) for key in dotted_keys(own)}
    flat = {key: value for key, value in flat.items() if not isinstance(value, Mapping) or not value}
    try:
        groups = _groups(config)
        found = origins(groups)[1]
    except ConfigError as error:
        alone = [Origin(key, value, "config.yaml", "") for key, value in flat.items()]
        return Recorded(alone, [], [], str(error))
    composed = {origin.key: origin for origin in found}
    as_begun = _as_begun(config)
    told, overrides, settled = [], list(groups), []
    for key, value in flat.items():
        before, begun = composed.get(key), as_begun.get(key)
        known = begun if begun is not None and begun.value == value else None
        if before is None:
            told.append(known or Origin(key, value, GIVEN, ""))
            overrides.append(f"{key}={as_typed(value)}")
        elif key in NAMES or before.value == value:
            typed = before.source == TYPED
            told.append(known or (replace(before, source=GIVEN, comment="") if typed else before))
        elif known is None and _settled(config, key, value, before.value):
            told.append(replace(before, value=value, comment=f"what auto chose; {before.comment}".strip("; ")))
            settled += [f"{key}={as_typed(value)}"] * (key != "eval.every")  # which follows from total_steps
        else:
            told.append(known or Origin(key, value, GIVEN, f"instead of {shown(before.value)} ({before.source})"))
            overrides.append(f"{key}={as_typed(value)}")
    return Recorded(told, overrides, settled)


def _settled(config: Mapping[str, Any], key: str, value: Any, before: Any) -> bool:
    """Whether the value is what `auto` came to."""
    return key in SETTLED and before == "auto" and (key != "eval.every" or value == _evaluations(config))


def is_own(origin: Origin) -> bool:
    """Whether it is no default of the algorithm, the environment or the root: typed, tuned, an experiment's."""
    return origin.source in (GIVEN, TYPED) or bool(_CHANGING.search(origin.source))


def _as_begun(config: Mapping[str, Any]) -> dict[str, Origin]:
    """The origins of what was typed, by key; none where that isn't known, or composes no more."""
    if not isinstance(typed := config.get("typed"), list):
        return {}
    # the file that it took: looking for one would import the module of an id
    given = [text for text in map(str, typed) if not text.startswith("tuned=")]
    try:
        return {origin.key: origin for origin in origins([*given, f"tuned={config.get('tuned') or 'none'}"])[1]}
    except ConfigError:
        return {}


def _groups(config: Mapping[str, Any]) -> list[str]:
    """The options chosen in groups, without those that are chosen automatically. An id `module:Id` is not looked up,
    because that would import the module."""
    algo, env = config["algo"]["name"], config["env"]["id"]
    named = [f"algo={algo}", f"env={env}"]
    tuned = f"tuned={config.get('tuned') or 'none'}"
    choices = compose_choices([*named, tuned])[1]
    if ":" in env or compose_choices(named)[1]["tuned"] != choices["tuned"]:
        named.append(tuned)
    others = [group for group in ("network", "hardware") if config[group]["name"] != choices.get(group)]
    return [*named, *(f"{group}={config[group]['name']}" for group in others)]


def _evaluations(config: Mapping[str, Any]) -> int:
    """The number that `eval.every=auto` means."""
    return max(1, int(config["total_steps"]) // EVALUATIONS)


def shown(value: Any) -> str:
    """A value as it is written in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values
