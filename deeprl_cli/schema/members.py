"""Members of the seed axis, and which values of a configuration each may have of its own.

A field says so where it stands: `PerMember[…]`, or `Annotated[…, Own(…)]`. Keys are dotted: `algo.kl.coef`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from deeprl_cli.schema.typed import Own

Config = TypeVar("Config")
_KNOWN: dict[type[Any], dict[str, Own]] = {}


@dataclass(frozen=True)
class Member:
    """One learner on the seed axis: its name, its seed (which others may share), and those of its values that are its
    own, by key."""

    id: str
    seed: int
    values: Mapping[str, Any] = field(default_factory=dict)

    def config(self, base: Config, place: str = "algo") -> Config:
        """`base`, the part of a configuration at `place`, with this member's own values."""
        prefix = f"{place}."
        return with_values(base, {k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)})


def as_member(member: Member | int) -> Member:
    """A plain seed is a member without values of its own."""
    return member if isinstance(member, Member) else Member(str(member), member)


def own_keys(config: type[Any]) -> dict[str, Own]:
    """The keys of a dataclass, nested ones included, that members may have values of their own for."""
    if config not in _KNOWN:
        _KNOWN[config] = dict(_own_keys(config))
    return _KNOWN[config]


def _own_keys(config: type[Any]) -> Iterator[tuple[str, Own]]:
    for name, kind in typing.get_type_hints(config, include_extras=True).items():
        marks = [mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, Own)]
        if typing.get_origin(kind) is Annotated and marks:
            yield name, marks[0]
        elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from ((f"{name}.{key}", mark) for key, mark in own_keys(kind).items())


def value_at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def own_values(config: Any) -> dict[str, Any]:
    """The value of each of `own_keys`."""
    return {key: value_at(config, key) for key in own_keys(type(config))}


def is_number(value: Any) -> bool:
    """Whether a member's own value is a tensor of `hp`, and an input of the graphs."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A dataclass with other values at these keys."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        head, dot, rest = key.partition(".")
        if dot:
            nested.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    changes |= {head: with_values(getattr(config, head), inner) for head, inner in nested.items()}
    replaced: Config = dataclasses.replace(config, **changes) if changes else config  # type: ignore[type-var]
    return replaced


def kind(value: Any, mark: Own) -> Any:
    """What members must have in common of a value that is each one's own: that it is a number, or a list of so many;
    else the value itself."""
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        return value
    if isinstance(value, list):
        return [kind(item, mark) for item in value]
    return value if value in mark.apart else "a number"
