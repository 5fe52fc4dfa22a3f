"""Errors for the user: one line that says what is wrong, where, and what to type instead."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. Printed as one line; the process exits with code 2."""

    code = 2


class ConfigError(UserError):
    """A configuration value, key or combination that can't be run."""


class TrainingError(UserError):
    """A run that came to numbers it can't go on with. Printed as one line; the process exits with code 1."""

    code = 1


def text_of(error: BaseException) -> str:
    """The first line of what an exception says, "" where it says nothing, or fails at that."""
    try:
        return (str(error).strip().splitlines() or [""])[0]
    except Exception:
        return ""


def warn(text: str) -> None:
    """Lines that are no error, beside a result."""
    for line in text.splitlines():
        print(f"deeprl: {line}", file=sys.stderr)


def nearest(word: str, candidates: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The candidates most like `word` (case-insensitive), best first; empty when none is close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(word.lower(), list(by_lower), n=count, cutoff=cutoff)
    return [by_lower[match] for match in matches]


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'gamma'?`, or nothing when no candidate is close."""
    matches = nearest(word, candidates)
    return f"; did you mean '{matches[0]}'?" if matches else ""
