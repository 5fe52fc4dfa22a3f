"""Calls a run's callbacks, so that they can neither change its numbers nor end it.

The global generators of Python, numpy and torch, the working directory, torch's threads, its default type and whether
it tracks gradients are restored after each call. If a callback raises an error, a line says so, and training goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from deeprl_cli.envs.generators import kept_apart
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.settings import settings_kept
from deeprl_cli.errors import ConfigError
from deeprl_cli.evaluation.evaluate import Evaluation
from deeprl_cli.plugins.callback import METHODS, Ended, Evaluated, Event, Logged, Saved
from deeprl_cli.plugins.classes import check_arguments, where_raised
from deeprl_cli.plugins.installed import load_callback
from deeprl_cli.schema.named import Named, class_of


def check_callbacks(entries: Sequence[Named]) -> None:
    """Raise ConfigError for a class that doesn't exist, refuses its arguments, or has no method of a callback."""
    for key, name, made, kwargs in _loaded(entries):
        check_arguments(made, key, kwargs)
        if not any(callable(getattr(made, method, None)) for method in METHODS):
            raise ConfigError(f"{key}={name}: has none of the methods of a callback: {', '.join(METHODS)}")


def make_callbacks(entries: Sequence[Named]) -> list[tuple[str, Any]]:
    """Each callback with its name. Raises ConfigError, one line, if a class refuses its arguments."""
    found = []
    for key, name, made, kwargs in _loaded(entries):
        try:
            with _apart():
                found.append((f"{key}={name}", made(**kwargs)))
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{key}={name}: can't be made: {where_raised(error)}") from error
    return found


def _loaded(entries: Sequence[Named]) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    for number, entry in enumerate(entries):
        (name, kwargs), key = class_of(entry), f"callbacks[{number}]"
        with _apart():
            made = load_callback(name, key)
        yield key, name, made, kwargs


@contextmanager
def _apart() -> Iterator[None]:
    """What is done in here leaves nothing behind that numbers depend on."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    with kept_apart(), staying(), settings_kept():
        try:
            yield
        finally:
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)


class Callbacks:
    """Those of one run, in the order in which they are named; `made` as `make_callbacks` gives them."""

    def __init__(self, made: Sequence[tuple[str, Any]], run: Path, seeds: Sequence[int], say: Any = print) -> None:
        self._made, self._say, self._failures = list(made), say, [0] * len(made)
        self._run, self._seeds = run.absolute(), tuple(seeds)

    def _call(self, method: str, make_event: Any, step: int) -> None:
        for number, (name, callback) in enumerate(self._made):
            if not callable(getattr(callback, method, None)):
                continue
            event: Event = make_event()  # each one's own
            try:
                with _apart():
                    getattr(callback, method)(event)
            except (Exception, SystemExit) as error:
                self._failures[number] += 1
                count = self._failures[number]
                if count & (count - 1) == 0:  # the first, second, fourth, eighth … time
                    times = f" (the {count}th time)" if count > 2 else ""
                    told = f"{method} raised {where_raised(error)} at step {step}{times}"
                    self._say(f"{name}: {told}; training goes on")

    def log(self, step: int, steps: Sequence[int], values: Mapping[str, Sequence[float]]) -> None:
        def event() -> Logged:
            rows = MappingProxyType({name: tuple(map(float, numbers)) for name, numbers in values.items()})
            return Logged(self._run, step, self._seeds, tuple(map(int, steps)), rows)

        self._call("on_log", event, step)

    def evaluation(self, step: int, result: Evaluation, members: slice, best: Sequence[float]) -> None:
        def event() -> Evaluated:
            returns, lengths = (
                tuple(tuple(map(float, row)) for row in array[members]) for array in (result.returns, result.lengths)
            )
            mean = tuple(result.return_mean[members])
            return Evaluated(self._run, step, self._seeds, returns, lengths, mean, tuple(map(float, best)))

        self._call("on_evaluation", event, step)

    def checkpoint(self, step: int, path: Path) -> None:
        self._call("on_checkpoint", lambda: Saved(self._run, step, self._seeds, path.absolute()), step)

    def end(self, step: int, summary: Mapping[str, Any]) -> None:
        def event() -> Ended:
            told = MappingProxyType(_copied(summary))
            return Ended(self._run, step, self._seeds, str(summary["status"]), summary.get("reason"), told)

        self._call("on_end", event, step)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value
