"""Classes that a configuration names: `module:Class`, or `{class: module:Class, kwargs: {…}}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True, slots=True)
class NamedClass:
    """A class with arguments by their names."""

    class_: str
    kwargs: dict[str, Any]


Named = str | NamedClass


def class_of(entry: Named) -> tuple[str, dict[str, Any]]:
    """Its name and its arguments."""
    return (entry, {}) if isinstance(entry, str) else (entry.class_, dict(entry.kwargs))


def names_of(entries: Sequence[Named]) -> list[str]:
    return [class_of(entry)[0] for entry in entries]
