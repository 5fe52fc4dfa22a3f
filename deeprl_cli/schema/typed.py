"""Plain mappings to typed dataclasses, every key, type and range checked. The fields themselves are in `run.py`."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.plugins.installed import Part, names_beside
from deeprl_cli.schema.numbers import meant_number


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both inclusive unless said otherwise."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'greater than' if self.open_low else 'at least'} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Own:
    """Marks a value that each member of the seed axis may have of its own (docs/sweeps.md, "Stacked"). Members whose
    values are of another kind (null beside a number, say) aren't trained together, nor those that have one of `apart`
    with those that don't: what is computed differs."""

    apart: tuple[float, ...] = ()


@dataclass(frozen=True)
class Choice:
    """One of these words, or of those that plug-ins add to `part`."""

    own: tuple[str, ...]
    part: Part

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.own, *names_beside(self.part, self.own))


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]

T = TypeVar("T")
PerMember = Annotated[T, Own()]

# of a class whose `name` says which of its subclasses is meant, what each name means
VARIANTS: dict[type, Mapping[str, type]] = {}


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """An instance of dataclass `cls` from a plain mapping, every key and value checked.

    Raises ConfigError naming the full key (`path`.key), the nearest valid key, or the type or range expected.
    """
    names = _fields(typing.cast(type, cls))
    fields = {key: kind for key, (_, kind) in names.items()}
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key '{_join(path, key)}'{did_you_mean(str(key), fields)}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ConfigError(f"missing value for '{_join(path, missing[0])}': give {_join(path, missing[0])}=…")
    return cls(**{name: _value(kind, values[key], _join(path, key)) for key, (name, kind) in names.items()})


@cache
def _fields(cls: type) -> dict[str, tuple[str, Any]]:
    """By key, a field's name and type. A key that Python keeps for itself (`return`, `class`) is a field with an
    underscore behind it."""
    return {name.rstrip("_"): (name, kind) for name, kind in typing.get_type_hints(cls, include_extras=True).items()}


def check(cls: type, values: Mapping[str, Any], path: str = "") -> None:
    """`build` for those of the keys that are there, nothing said of others. Raises ConfigError."""
    for key, (_, kind) in _fields(cls).items():
        if key in values:
            _value(kind, values[key], _join(path, key))


def to_plain(config: Any) -> Any:
    """The inverse of `build`: nested dictionaries, lists and scalars, in field order."""
    return dataclasses.asdict(config, dict_factory=lambda items: {name.rstrip("_"): value for name, value in items})


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)


def _value(kind: Any, value: Any, path: str) -> Any:
    """`value` as `kind`, or ConfigError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        inner = _value(args[0], value, path)
        for limits in args[1:]:
            if isinstance(limits, Range) and inner not in limits:
                raise ConfigError(f"{path}={_show(value)}: must be {limits}")
            if isinstance(limits, Choice) and inner not in limits.own and inner not in limits.words:
                raise _none_of(limits.words, value, path)
        return inner
    if origin in (typing.Union, types.UnionType):
        return _first_fitting(args, value, path)
    if origin is Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
        raise _none_of(list(map(str, args)), value, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value  # built already: an algorithm's own, richer Config
        if not isinstance(value, Mapping):
            example = f"{path}.{_first(kind)}={'0' if value is False else '…'}"
            raise ConfigError(f"{path}={_show(value)}: must be a group of values, for example {example}")
        if kind in VARIANTS:
            kind = VARIANTS[kind][_value(typing.get_type_hints(kind)["name"], value.get("name"), f"{path}.name")]
        return build(kind, value, path)
    if origin is list:
        if not isinstance(value, list):
            fits = isinstance(value, int) or (isinstance(value, str) and str in (args[0], *typing.get_args(args[0])))
            example = f"write '{path}=[{value}]'" if fits else f"for example '{path}=[64,64]'"
            raise ConfigError(f"{path}={_show(value)}: must be a list, {example}")
        return [_value(args[0], item, f"{path}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={_show(value)}: must be a mapping, for example '{path}={{key:value}}'")
        return dict(value)
    return _scalar(kind, value, path)


def _none_of(words: Sequence[str], value: Any, path: str) -> ConfigError:
    meant = did_you_mean(str(value), words)
    return ConfigError(f"{path}={_show(value)}: must be one of {', '.join(words)}{meant}")


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 is a float in YAML and an honest count
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    raise ConfigError(f"{path}={_show(value)}: must be {names.get(kind, str(kind))}{_written(kind, value, path)}")


_SPOKEN = {
    bool: {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"},
    types.NoneType: {"none": "null", "nil": "null", "false": "null"},
}


def _written(kind: Any, value: Any, path: str) -> str:
    """`: write log.tensorboard=true`, where it is clear what was meant."""
    if kind in (int, float):
        meant = meant_number(str(value)) if isinstance(value, str) else None
        if kind is int and isinstance(value, float) and math.isfinite(value):
            meant = str(round(value))
    else:
        meant = _SPOKEN.get(kind, {}).get(str(value).lower())
    return f": write {path}={meant}" if meant else ""


def _first_fitting(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first member of a union that takes `value`; a range error says more than 'none of these'."""
    errors: list[ConfigError] = []
    for option in options:
        try:
            return _value(option, value, path)
        except ConfigError as error:
            errors.append(error)
    ranged = [error for error in errors if "must be at least" in str(error) or "must be in" in str(error)]
    if ranged:
        raise ranged[0]
    kinds = sorted((str(error).rpartition("must be ")[2] for error in errors), key=lambda kind: ": write" in kind)
    raise ConfigError(f"{path}={_show(value)}: must be {' or '.join(kinds)}")


def _first(kind: type) -> str:
    return dataclasses.fields(kind)[0].name.rstrip("_")


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
