"""Reads `key=value` in Hydra's grammar. Where Hydra's own message would not help, ours replaces it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException

from deeprl_cli.config.files import GROUPS, group_options
from deeprl_cli.config.slips import refuse_slips, several, unread
from deeprl_cli.errors import ConfigError

OPEN = "env.kwargs"  # the one mapping of a run that takes any key
# values which may hold a `=`, as folders of sweeps do
PATHS = ("init_from", "run_dir", "hydra.sweep.dir", "study", "storage", "out")
_WORD = re.compile(r"[A-Za-z_][\w./-]*")  # text that needs no quotes, unless it would be read as another type
_NO_WORDS = ("true", "false", "null", "nan", "inf")
# set by choosing an option of the group: overriding the value alone would leave the rest of the option behind
NAMES = {
    "algo.name": "algo",
    "env.id": "env",
    "env.name": "env",
    "network.name": "network",
    "hardware.name": "hardware",
}


def parse(overrides: Sequence[str], *, sweep: bool = False) -> list[Override]:
    """Overrides in Hydra's grammar, each checked on its own; without `sweep`, several values at once are refused."""
    refuse_slips(overrides)
    parsed = [parse_one(text) for text in overrides]
    for override in parsed:
        _check(override, sweep)
    return parsed


def parse_one(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        if text.endswith((".yaml", ".yml")):
            raise ConfigError(f"'{text}': write --config-dir DIR experiment=NAME for a file DIR/experiment/NAME.yaml")
        meant = f"{text}=…, a value with its key" if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", text) else "key=value"
        raise ConfigError(f"'{text}': write {meant}, as in seed=1")
    if text.startswith("="):
        raise ConfigError(f"'{text}': an override is key=value, the key is missing")
    try:
        return OverridesParser.create(None).parse_overrides([text])[0]
    except OverrideParseException:
        key, _, value = text.partition("=")
        if key in PATHS and "'" not in value and '"' not in value:
            return parse_one(f"{key}='{value}'")
        raise unread(text) from None


def _check(override: Override, sweep: bool) -> None:
    """Refuse what Hydra would accept, or would refuse in words that don't help, before anything is composed."""
    key, text = override.key_or_group, str(override.input_line)
    if key.split(".")[0].split("/")[0] == "hydra":
        _check_hydra(override, sweep)
        return
    if key in NAMES:
        group = NAMES[key]
        raise ConfigError(f"{key} comes with its {group}: write {group}={text.partition('=')[2] or '…'}")
    if override.package is not None:
        raise ConfigError(f"'{text}': a group can't be moved (@…): write {key}={text.partition('=')[2]}")
    head, _, tail = key.partition("/")
    typed = text.partition("=")[2]
    if head in GROUPS and tail:
        meant = f"{head}={tail}/{typed}" if f"{tail}/{typed}" in group_options(head) else f"{head}.{tail}={typed}"
        raise ConfigError(f"'{text}': write {meant}")
    if override.is_delete() and not key.startswith(f"{OPEN}."):
        instead = {"tuned": "; write tuned=none", "experiment": "; leave experiment out"}.get(key)
        raise ConfigError(f"'{text}': keys can't be deleted{instead or f'; give another value: {key}=…'}")
    if override.is_sweep_override():
        if not sweep:
            listable = key not in GROUPS and override.value_type == ValueType.SIMPLE_CHOICE_SWEEP
            raise several(key, typed, listable)
        if not override.is_discrete_sweep():
            raise ConfigError(f"'{text}': an interval has no values to try one by one: list them, {key}=0.1,0.2")
        return
    value = override.value()
    if key in GROUPS and isinstance(value, dict):
        named = next((full for full, group in NAMES.items() if group == key and full.split(".")[1] in value), None)
        if named:
            raise ConfigError(f"{named} comes with its {key}: write {key}={value[named.split('.')[1]]}")
    elif key in GROUPS and (not isinstance(value, str) or not value):
        nothing = {
            "tuned": "; tuned=none switches tuned values off",
            "experiment": "; for no experiment, leave it out",
        }.get(key, "")
        raise ConfigError(f"'{text}': {key} takes one name{for_example(key)}{nothing}")


def _check_hydra(override: Override, sweep: bool) -> None:
    key, text = override.key_or_group, str(override.input_line)
    if override.is_sweep_override():
        raise ConfigError(f"'{text}': Hydra's own settings can't be swept over")
    if key.replace("/", ".").startswith("hydra.sweeper"):
        raise ConfigError(f"'{text}': a sweep always tries every combination of its values; to search, deeprl tune")
    if not sweep and key != "hydra.searchpath":
        raise ConfigError(f"'{text}' is for sweeps: add -m; the folder of a single run is run_dir=…")


def as_typed(value: Any) -> str:
    """A value as one would type it. (In Hydra's quotes, a backslash is special only before a quote.)"""
    if isinstance(value, str):
        if _WORD.fullmatch(value) and value.lower() not in _NO_WORDS:
            return value
        return '"' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value) + '"'
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def for_example(group: str) -> str:
    """`: algo=a2c, algo=a3c, …`; nothing for a group without options."""
    options = ["CartPole-v1", "Pendulum-v1"] if group == "env" else group_options(group)
    return f": {', '.join(f'{group}={name}' for name in options[:3])}" if options else ""
