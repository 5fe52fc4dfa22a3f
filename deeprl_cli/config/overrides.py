"""`key=value` as typed: read in Hydra's grammar, and refused in our words where Hydra's would not help."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException

from deeprl_cli.config import gym_ids
from deeprl_cli.config.files import GROUPS, group_options
from deeprl_cli.errors import ConfigError

OPEN = "env.kwargs"  # the one mapping of a run that takes any key
# set by choosing an option of the group: overriding the value alone would leave the rest of the option behind
NAMES = {"algo.name": "algo", "env.id": "env", "network.name": "network", "hardware.name": "hardware"}


def parse(overrides: Sequence[str], *, sweep: bool = False) -> list[Override]:
    """Overrides in Hydra's grammar, each checked on its own; without `sweep`, several values at once are refused."""
    for text, following in itertools.pairwise(overrides):
        if text in GROUPS and re.fullmatch(r"[\w.,/:-]+", following):
            raise ConfigError(f"'{text} {following}': write {text}={following}")
    parsed = [_parse_one(text) for text in overrides]
    for override in parsed:
        _check(override, sweep)
    return parsed


def _parse_one(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        if gym_ids.looks_like_env_id(text) or text in group_options("algo"):
            raise ConfigError(f"'{text}': write {'algo' if text in group_options('algo') else 'env'}={text}")
        raise ConfigError(f"'{text}': an override is key=value; for example {text.strip('.')}=1")
    if text.startswith("="):
        raise ConfigError(f"'{text}': an override is key=value, the key is missing")
    try:
        return OverridesParser.create(None).parse_overrides([text])[0]
    except OverrideParseException:
        key = text.partition("=")[0]
        if not re.fullmatch(r"[~+]{0,2}[\w./@:-]+", key):
            raise ConfigError(f"'{text}': a key is words joined by dots, and '{key}' is not") from None
        mend = f"close its brackets and quotes, or quote it whole: \"{key}='…'\""
        raise ConfigError(f"can't read the value in '{text}': {mend}") from None


def _check(override: Override, sweep: bool) -> None:
    """Refuse what Hydra would take, or refuse in its own words, before anything is composed."""
    key, text = override.key_or_group, str(override.input_line)
    if key.split(".")[0].split("/")[0] == "hydra":
        _check_hydra(override, sweep)
        return
    if key in NAMES:
        group = NAMES[key]
        raise ConfigError(f"{key} comes with its {group}: write {group}={text.partition('=')[2] or '…'}")
    if override.package is not None:
        raise ConfigError(f"'{text}': a group stays in its place; write {key}={text.partition('=')[2]}")
    head, _, tail = key.partition("/")
    if head in GROUPS and tail:
        raise ConfigError(f"'{text}': write {head}={tail}/{text.partition('=')[2]}")
    if override.is_delete() and not key.startswith(f"{OPEN}."):
        instead = {"tuned": "; write tuned=none", "experiment": "; leave experiment out"}.get(key)
        raise ConfigError(f"'{text}': no key can be taken away{instead or f'; set another value, {key}=…'}")
    if override.is_sweep_override():
        if not sweep:
            values = text.partition("=")[2]
            listable = key not in GROUPS and override.value_type == ValueType.SIMPLE_CHOICE_SWEEP
            as_list = f", or write '{key}=[{values}]' for a list" if listable else ""
            raise ConfigError(f"'{text}' is several values: add -m to run one job for each{as_list}")
        if not override.is_discrete_sweep():
            raise ConfigError(f"'{text}': a range of reals can't be tried one by one; list values, {key}=0.1,0.2")
        return
    value = override.value()
    if key in GROUPS and isinstance(value, dict):
        named = next((full for full, group in NAMES.items() if group == key and full.split(".")[1] in value), None)
        if named:
            raise ConfigError(f"{named} comes with its {key}: write {key}={value[named.split('.')[1]]}")
    elif key in GROUPS and not isinstance(value, str):
        nothing = {"tuned": "; for nothing tuned, tuned=none", "experiment": "; for none, leave it out"}.get(key, "")
        raise ConfigError(f"'{text}': {key} takes one name{for_example(key)}{nothing}")


def _check_hydra(override: Override, sweep: bool) -> None:
    key, text = override.key_or_group, str(override.input_line)
    if override.is_sweep_override():
        raise ConfigError(f"'{text}': Hydra's own settings can't be swept over")
    if key.replace("/", ".").startswith("hydra.sweeper"):
        raise ConfigError(f"'{text}': a sweep is every combination of the values listed; there is no other sweeper")
    if not sweep and key != "hydra.searchpath":
        raise ConfigError(f"'{text}' means nothing to a single run: its folder is run_dir=…; for a sweep, add -m")


def for_example(group: str) -> str:
    """`: algo=a2c, algo=a3c, …`; nothing for a group without options."""
    options = group_options(group)
    return f": {', '.join(f'{group}={name}' for name in options[:3])}" if options else ""
