"""What a study searches: for each key, the values that may be tried."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Scale = Literal["linear", "log", "one_minus"]
DIGITS = 4  # significant ones of a number that was drawn: what is shown is what was trained with


@dataclass(frozen=True)
class Domain:
    """The values of one key, as `typed`: numbers from `low` to `high`, or `choices`.

    A number is drawn evenly (`linear`), evenly in its logarithm (`log`), or evenly in the logarithm of 1 less itself
    (`one_minus`: of discounts, 0.9, 0.99 and 0.999 are as far apart). `whole` numbers are rounded.
    """

    key: str
    typed: str
    low: float = 0.0
    high: float = 0.0
    scale: Scale = "linear"
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """What Optuna calls it: the number that is drawn evenly or by its logarithm."""
        return f"1 - {self.key}" if self.scale == "one_minus" else self.key

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the number that Optuna draws."""
        return (1 - self.high, 1 - self.low) if self.scale == "one_minus" else (self.low, self.high)

    @property
    def labels(self) -> list[Any]:
        """The choices as Optuna takes them: lists and mappings as text."""
        return [json.dumps(choice) if isinstance(choice, list | dict) else choice for choice in self.choices]

    def drawn(self, unit: float) -> Any:
        """What Optuna would draw at `unit` in [0, 1)."""
        if self.choices:
            return self.labels[int(unit * len(self.choices))]
        low, high = self.bounds
        if self.whole:
            return int(low + math.floor(unit * (high - low + 1)))
        if self.scale == "linear":
            return low + unit * (high - low)
        return math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))

    def unit(self, value: Any) -> float:
        """Where a value lies in [0, 1], the lowest at 0."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        if self.scale == "linear":
            return float((value - self.low) / (self.high - self.low))
        low, high, at = (math.log(number) for number in (*self.bounds, self.number(value)))
        place: float = (at - low) / (high - low)
        return 1 - place if self.scale == "one_minus" else place

    def value(self, drawn: Any) -> Any:
        """The value of the key that a drawn one stands for."""
        if self.choices:
            return self.choices[self.labels.index(drawn)]
        if self.whole:
            return int(drawn)
        rounded = float(f"{drawn:.{DIGITS}g}")
        within = min(max(rounded, self.bounds[0]), self.bounds[1])
        return round(1 - within, 12) if self.scale == "one_minus" else within

    def number(self, value: Any) -> Any:
        """The inverse of `value`."""
        if self.choices:
            return self.labels[self.choices.index(value)]
        return 1 - value if self.scale == "one_minus" else value

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values of which all are valid where every value is."""
        kind = int if self.whole else float
        return self.choices or (kind(self.low), kind(self.high))
