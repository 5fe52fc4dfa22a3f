"""For all verbs: a parser whose errors are one line, and types of flags. It uses only the standard library."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Literal, NoReturn

from deeprl_cli.errors import UserError

Weights = Literal["best", "last"] | int  # which weights of a run: best, last, or those of a step


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` says what there is")

    def takes_run(self, several: bool = False) -> None:
        """Add RUN (with `several`: RUN…, as `runs`) and --trust."""
        name, count = ("runs", "+") if several else ("run", None)
        told = "a run: its folder, its name, a part of either that no other run has, or latest"
        self.add_argument(name, nargs=count, type=Path, metavar="RUN", help=told)
        trust = (
            "run the code that the run names: its environment module:Id, env.wrappers, callbacks, its algorithm's file"
        )
        self.add_argument("--trust", action="store_true", help=trust)

    def takes_checkpoint(self, *also: str) -> None:
        """Add --checkpoint, and its other names."""
        told = "which weights (default: best, if an evaluation chose any, else last); STEP: kept by checkpoint.history"
        self.add_argument("--checkpoint", *also, type=which_weights, metavar="best|last|STEP", help=told)


@contextmanager
def stdout_for(json: bool) -> Iterator[Callable[[str], None]]:
    """A function that prints the result. With JSON, everything else that is printed in the meantime (by environments or
    libraries) goes to standard error, so that standard output holds nothing but JSON."""
    if not json:
        yield print
        return
    sys.stdout.flush()
    kept, stream = os.dup(1), sys.stdout

    def tell(text: str) -> None:
        sys.stdout.flush()
        os.dup2(kept, 1)
        print(text, file=stream, flush=True)

    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield tell
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def which_weights(text: str) -> Weights:
    """`best`, `last`, or a step."""
    if text in ("best", "last"):
        return "best" if text == "best" else "last"
    try:
        return natural(text.replace("_", "").replace(",", ""))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is not best, last, or a step") from None


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
    return int(text)
