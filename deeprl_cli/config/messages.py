"""The message for a refused override: one line with the key, the nearest valid one, and what to type instead.

It works on plain dictionaries and strings. `compose.py` composes the values and finds out which override is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deeprl_cli.config.elsewhere import near_name, other_name, other_option
from deeprl_cli.errors import ConfigError, did_you_mean, nearest

LISTED = 30  # names shown in one line before it says how many more there are


def dotted_keys(values: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Every key of nested mappings as a full path, including the keys of the mappings themselves: algo, algo.lr, …"""
    keys: list[str] = []
    for name, value in values.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += dotted_keys(value, f"{prefix}{name}.")
    return keys


def some(names: Iterable[str]) -> str:
    """The names in one line; if there are many, the first ones and how many more."""
    names = list(names)
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def unknown_option(group: str, name: str, options: Sequence[str], hint: str = "") -> ConfigError:
    """For `algo=sca`: the group has no such option."""
    if (other := other_option(group, name)) is not None:
        return ConfigError(f"unknown {group} '{name}': here it is {other}")
    inside = [option for option in options if option.endswith(f"/{name}")]  # deck/ppo
    if inside:
        return ConfigError(f"unknown {group} '{name}'; did you mean {_either(inside)}?")
    known = f"; known: {some(options)}" if options else ""
    if len(options) > LISTED:
        known = f"; `deeprl list {group}` shows what there is"
    return ConfigError(f"unknown {group} '{name}'{did_you_mean(name, options)}{known}{hint}")


def unknown_key(
    key: str,
    value: str,
    values: Mapping[str, Any],
    groups: Sequence[str],
    owned: Mapping[str, Mapping[str, Iterable[str]]],
) -> ConfigError:
    """For an override `key=value` whose key isn't in the composed `values`.

    `owned["algo"]` holds the keys of each algorithm (without `algo.`), `owned["network"]` those of each network. So the
    message can say which algorithm or network the key belongs to.
    """
    known = dotted_keys(values)
    parent, _, leaf = key.rpartition(".")
    if parent in known and not isinstance(_at(values, parent), Mapping):
        return ConfigError(f"unknown key '{key}': {parent} is a single value: write {parent}=…")
    if (other := other_name(key, value, known)) is not None:
        return ConfigError(f"unknown key '{key}': {other}")
    if parent in ("kwargs", "env_kwargs", "env_config", "env.env_kwargs"):
        return ConfigError(f"unknown key '{key}': here it is env.kwargs.{leaf}={value}")
    if parent.split(".")[0] in (*groups, "train", "run") and leaf in (*groups, *values):
        return ConfigError(f"unknown key '{key}'; did you mean '{leaf}'?")
    inside = [name for name in known if name.endswith(f".{key}")] or [
        name for name in known if parent and name.startswith(f"{parent.split('.')[0]}.") and name.endswith(f".{leaf}")
    ]
    if inside:
        return ConfigError(f"unknown key '{key}'; did you mean {_either(inside)}?")
    for group, options in owned.items():
        owners = [name for name, keys in options.items() if key.removeprefix(f"{group}.") in keys]
        if owners:
            chosen = (values.get(group) or {}).get("name", "another")
            return ConfigError(
                f"unknown key '{key}': {group}={chosen} doesn't have it; it belongs to {', '.join(owners)}:"
                f" leave it out or choose {group}={owners[0]}"
            )
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    last = {name.rpartition(".")[2]: name for name in reversed(known)}  # of keys that end alike, the outermost
    guess = (
        [name for name in known if name.replace(".", "_") == key.replace(".", "_")]  # eval_every=…
        or [group for group in groups if not parent and key.startswith(group)]  # algorithm=…, environment=…
        or [name for name in siblings if name.endswith(f"_{leaf}")]  # steps=…
        or [_join(parent, name) for name in nearest(leaf, [name.rpartition(".")[2] for name in siblings])]
        or [last[name] for name in nearest(leaf, last)]
        or (nearest(key, [*known, *groups]) if parent not in known else [])
    )
    if guess:
        return ConfigError(f"unknown key '{key}'; did you mean {_either(guess)}?")
    if (near := near_name(key, value, known)) is not None:
        return ConfigError(f"unknown key '{key}'; did you mean {near}")
    return ConfigError(f"unknown key '{key}'; {parent or 'a run'} has {some(n.rpartition('.')[2] for n in siblings)}")


def _at(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split(".") if key else []:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _join(parent: str, leaf: str) -> str:
    return f"{parent}.{leaf}" if parent else leaf


def _either(keys: Sequence[str]) -> str:
    return " or ".join(f"'{key}'" for key in keys[:3])
