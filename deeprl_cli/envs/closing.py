"""Closing environments. A run that has finished stays finished, even if one of them hangs or fails as it closes."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol, TypeVar

from deeprl_cli.plugins.classes import said

GRACE = 5.0  # seconds that the environments of a run have to close, all together
LATER = 0.5  # once some environment has taken longer than that


class _Late(BaseException):
    """Raised in the middle of a close() that takes too long."""


_said: set[str] = set()  # of which environments it was said that they don't close


def said_already(env_id: str) -> bool:
    """Whether it was said of an environment that it doesn't close."""
    return env_id in _said


def say_nothing(env_id: str) -> None:
    """Another process says it."""
    _said.add(env_id)


class HasClose(Protocol):
    def close(self) -> object: ...


Closable = TypeVar("Closable", bound=HasClose)


@contextlib.contextmanager
def closing(env: Closable, env_id: str) -> Iterator[Closable]:
    """Hand over `env`, and close it in the end."""
    try:
        yield env
    finally:
        close_all([env.close], env_id)


def close_all(closes: list[Callable[[], object]], env_id: str) -> None:
    """Call each; what raises, or doesn't come back in time, is told in a line, once for each environment id.

    A signal interrupts what waits in Python, in the main thread; elsewhere, and on systems without it, a thread that
    is left to itself calls them.
    """
    problem = ""
    with _limited(LATER if env_id in _said else GRACE) as call:
        for close in closes:
            problem = call(close) or problem
    if problem and env_id not in _said:
        _said.add(env_id)
        print(f"deeprl: {env_id}: {problem}\n", end="", file=sys.stderr, flush=True)  # at once: there may be many of us


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[Callable[[Callable[[], object]], str]]:
    """A function that calls another, and says what went wrong; all its calls together have so many seconds."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield lambda close: _in_a_thread(close, seconds)
        return

    over, inside = False, False

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal over
        over = True
        if inside:
            raise _Late

    def call(close: Callable[[], object]) -> str:
        nonlocal inside
        if over:
            return ""
        try:
            inside = True
            close()
            inside = False
        except _Late:
            return _late(seconds)
        except (Exception, SystemExit) as error:
            return _raised(error)
        finally:
            inside = False
        return ""

    former = signal.signal(signal.SIGALRM, ring)
    # again and again: of several things that close() waits for, it may let each be interrupted, and go on to the next
    signal.setitimer(signal.ITIMER_REAL, seconds, LATER)
    try:
        yield call
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def _in_a_thread(close: Callable[[], object], seconds: float) -> str:
    told: list[str] = []

    def run() -> None:
        try:
            close()
        except (Exception, SystemExit) as error:
            told.append(_raised(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return _late(seconds) if thread.is_alive() else "".join(told)


def _late(seconds: float) -> str:
    return f"its close() hasn't come back for {seconds:g} s and is left to itself"


def _raised(error: BaseException) -> str:
    return f"its close() raises {said(error)}"
