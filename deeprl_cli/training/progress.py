"""What a person sees while a run trains: a live line on a terminal, a plain line now and then elsewhere.

rich is imported only on a terminal. A separate thread asks the trainer where it is whenever it draws: a few times a
second on a terminal, every ten seconds elsewhere. So the line moves whatever the trainer is busy with. A plain line
that would say the same again comes less and less often.
"""

from __future__ import annotations

import math
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_PLAIN_INTERVAL = 10.0  # seconds between plain lines
_REDRAWS_PER_SECOND = 5.0
_NEWS = 0.5  # seconds that a stage lasts before the line names it: shorter ones would flicker
_PACE = 10.0  # seconds of training after which the pace is known
_LONG_RUN = 600.0  # seconds: a run that takes longer says so
_LONG = 5.0  # seconds after which the line says how long compiling has taken so far
_ECHO = 4  # columns left free at the line's end: a terminal writes ^C there, and a full line would break
_LONGEST_BAR, _SHORTEST_BAR = 30, 8  # columns
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
STOPPING = "stopping: writing the last checkpoint (once more to quit at once)"


class Position(NamedTuple):
    """Where a run is: environment steps of one seed, the mean return of recent episodes over all seeds (NaN before
    any has ended), steps of all seeds a second, and what it is at where that isn't plain to see."""

    step: int = 0
    return_mean: float = math.nan
    steps_per_second: float = 0.0
    doing: str = ""


class Progress:
    """A context manager around a training run of `total_steps` environment steps per seed.

    `stream` (standard output by default) decides the form: live on a capable terminal, plain lines otherwise. A `label`
    stands before the line, and leaves out all others: the run is one of many.
    """

    def __init__(self, total_steps: int, seeds: int, stream: TextIO | None = None, label: str = "") -> None:
        self._total, self._seeds, self._label = total_steps, seeds, label
        self._stream = sys.stdout if stream is None else stream
        self._look: Callable[[], Position] | None = None
        self._start = (0, 0.0)  # step and time that the pace counts from: a resumed run starts late
        self._stage, self._count, self._since = "", "", 0.0  # what is under way, how far, since when
        self._doing, self._doing_since = "", 0.0
        self._stopping, self._foretold = False, False
        self._printed_step = -1
        self._printed = ("", 0.0, 0.0)  # the last plain line: where it was, since when, when it may be said again
        self._terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._console: Console | None = None
        self._live: Live | None = None
        self._over = threading.Event()
        self._teller: threading.Thread | None = None  # of plain lines

    def __enter__(self) -> Progress:
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._stream, highlight=False)
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=_REDRAWS_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        else:
            self._teller = threading.Thread(target=self._tell, name="deeprl progress", daemon=True)
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stage, self._stopping, self._doing_since = "", False, math.inf
        self._over.set()
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._teller is not None:
            self._teller.join()
            self._teller = None
            if self._look is not None and self._position().step != self._printed_step and not self._label:
                self._print(self.line())

    def follow(self, look: Callable[[], Position]) -> None:
        """Training begins: `look` says where it is, whenever asked, from another thread."""
        self._start = (look().step, time.monotonic())
        self._look = look

    def message(self, text: str) -> None:
        """One line that stays: above the live line on a terminal."""
        if self._label:
            return
        if self._live is not None and self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            self._print(text)

    def forecast(self) -> None:
        """Once, when the pace is known: how long a run that takes long will take. To be called between two steps."""
        at, now = self._position(), time.monotonic()
        taken, left = now - self._start[1], self._seconds_left(at)
        if self._foretold or taken < _PACE or at.step == self._start[0]:
            return
        self._foretold = True
        if math.isfinite(left) and left > _LONG_RUN:
            pace = (at.step - self._start[0]) / taken
            self.message(
                f"{self._total - at.step:,} steps more, at {pace:,.0f} a second with evaluations: about "
                f"{_clock(left)}; Ctrl-C stops it with its results, deeprl resume goes on"
            )

    def note(self, text: str) -> None:
        """The same for a sentence: a narrow terminal breaks it between words."""
        if self._console is not None:
            text = textwrap.fill(text, self._console.width - 1, break_long_words=False, break_on_hyphens=False)
        self.message(text)

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Name what is under way for as long as this lasts, where somebody looks."""
        self._begin(text)
        yield
        self._begin("")

    def status(self, text: str) -> None:
        """Name the stage under way, such as `compiling`, until the next call; an empty text ends it. Where nobody looks
        it is a line of its own."""
        if text and text != self._stage and not self._terminal and not self._label:
            self._print(text)
        self._begin(text)

    def _begin(self, text: str) -> None:
        now = time.monotonic()
        self._start = (self._start[0], self._start[1] + self._compiling_for(now))
        self._stage, self._count, self._since = text, "", now

    def _compiling_for(self, now: float) -> float:
        """Seconds of the stage under way that are no part of the pace: compiling is done once."""
        return now - self._since if self._stage.startswith("compiling") else 0.0

    def counted(self, done: int, total: int) -> None:
        """How much of the stage under way is done."""
        self._count = f"{done:,} of {total:,}"

    def stopping(self) -> bool:
        """Asked to stop, by a signal that may come at any moment: nothing is drawn here. Whether the line will say so
        itself, as it does on a terminal."""
        self._stopping = True
        return self._live is not None

    def line(self) -> str:
        """The state of the run in one plain line."""
        at = self._position()
        parts = [self._label] if self._label else []
        parts += [f"step {at.step}/{self._total} ({self._fraction(at):.0%})", f"return {self._return_text(at)}"]
        parts += [f"{at.steps_per_second:.0f} steps/s", f"{_clock(self._seconds_left(at))} left"]
        return "  ".join([*parts, *filter(None, [self._stage_text(at)])])

    def _tell(self) -> None:
        while not self._over.wait(_PLAIN_INTERVAL):
            self.tell()

    def tell(self) -> None:
        """The plain line, where training has begun. While nothing moves, the wait for the next one doubles."""
        if self._look is None:
            return
        at, now = self._position(), time.monotonic()
        where, since, again = f"{at.step} {self._stage}{self._count}", now, now
        if where == self._printed[0]:
            since, again = self._printed[1:]
            if now < again:
                return
            again = now + (now - since)
        self._print(self.line())
        self._printed_step, self._printed = at.step, (where, since, again)

    def _print(self, text: str) -> None:
        # A log in an old encoding must not end a run because of one character it lacks.
        encoding = self._stream.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=self._stream, flush=True)

    def _position(self) -> Position:
        return self._look() if self._look is not None else Position()

    def _fraction(self, at: Position) -> float:
        return min(1.0, at.step / self._total)

    def _return_text(self, at: Position) -> str:
        number = "-" if math.isnan(at.return_mean) else f"{at.return_mean:.1f}"
        return number if self._seeds == 1 else f"{number} (mean of {self._seeds} seeds)"

    def _stage_text(self, at: Position) -> str:
        """What is under way beside plain training, once it has lasted a moment."""
        now = time.monotonic()
        if self._stage:
            lasted = self._compiling_for(now)
            taken = f", {lasted:.0f} s" if lasted >= _LONG else ""
            return f"{self._stage}{self._count and f': {self._count}'}{taken}"
        if at.doing != self._doing:
            self._doing, self._doing_since = at.doing, now
        return at.doing if now - self._doing_since >= _NEWS else ""

    def _seconds_left(self, at: Position) -> float:
        """From this process's own pace, evaluations included; infinite before anything can be told."""
        steps_left = max(0, self._total - at.step)
        first_step, first_time = self._start
        if at.step > first_step:
            now = time.monotonic()
            return steps_left * (now - self._compiling_for(now) - first_time) / (at.step - first_step)
        return steps_left * self._seeds / at.steps_per_second if at.steps_per_second > 0 else math.inf

    def _render(self) -> Text:
        """One line that fits the terminal, whatever it says: a line that breaks can't be drawn over."""
        from rich.text import Text

        assert self._console is not None
        at, width = self._position(), self._console.width - _ECHO
        stage = STOPPING if self._stopping else self._stage_text(at)
        spinner = _SPINNER[int(time.monotonic() * _REDRAWS_PER_SECOND) % len(_SPINNER)]
        line = Text(" " if self._over.is_set() else spinner, no_wrap=True)
        steps = f"  {at.step:,}/{self._total:,}"
        if self._label:
            line.append(f" {self._label}", "bold")
        if stage:
            rest = [(f"  {stage}", "yellow")]
        else:
            rest = [
                (f"  return {self._return_text(at)}", "green"),
                (f"  {at.steps_per_second:,.0f} steps/s", "cyan"),
                (f"  {_clock(self._seconds_left(at))} left", "yellow"),
            ]
        used = line.cell_len + 1 + len(steps) + sum(len(text) for text, _ in rest)
        bar = min(_LONGEST_BAR, width - used)
        if bar >= _SHORTEST_BAR:
            full = round(self._fraction(at) * bar)
            line.append(" ").append("━" * full, "green").append("─" * (bar - full), "dim")
        line.append(steps)
        for text, style in rest:
            line.append(text, style)
        line.truncate(width, overflow="ellipsis")
        return line


def _clock(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`; `-:--` for what isn't known."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
