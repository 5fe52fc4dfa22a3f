"""What a person sees while a run trains: a live line on a terminal, a plain line now and then elsewhere.

rich is imported only on a terminal. `update` is called every step of the loop, so it stores four numbers and returns;
drawing happens a few times a second (terminal, from rich's own thread) or every ten seconds (plain).
"""

from __future__ import annotations

import math
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.spinner import Spinner

_PLAIN_INTERVAL = 10.0  # seconds between plain lines
_REDRAWS_PER_SECOND = 4.0


class Progress:
    """A context manager around a training run of `total_steps` environment steps per seed.

    `stream` (standard output by default) decides the form: live on a capable terminal, plain lines otherwise.
    """

    def __init__(self, total_steps: int, seeds: int, stream: TextIO | None = None) -> None:
        self._total, self._seeds = total_steps, seeds
        self._stream = sys.stdout if stream is None else stream
        self._step, self._return_mean, self._steps_per_second = 0, math.nan, 0.0
        self._start: tuple[int, float] | None = None  # step and time of the first update: a resumed run starts late
        self._stage = ""
        self._last_line = -math.inf
        self._printed_step = -1
        self._terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._console: Console | None = None
        self._live: Live | None = None
        self._spinner: Spinner | None = None  # kept between frames: a fresh one would always show its first picture

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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stage = ""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif not self._terminal and self._step != self._printed_step and self._start is not None:
            self._print(self.line())

    def update(self, step: int, return_mean: float | None, steps_per_second: float) -> None:
        """Where the run is. `step` counts one seed's steps; `return_mean` is the mean over seeds, None or NaN while
        no episode has ended; `steps_per_second` counts all seeds."""
        now = time.monotonic()
        self._step, self._steps_per_second = step, steps_per_second
        self._return_mean = math.nan if return_mean is None else return_mean
        if self._start is None:
            self._start = (step, now)
            self._last_line = now  # the first plain line comes when there is something to tell
        elif not self._terminal and now - self._last_line >= _PLAIN_INTERVAL:
            self._print(self.line())
            self._last_line, self._printed_step = now, step

    def message(self, text: str) -> None:
        """One line that stays: above the live line on a terminal."""
        if self._live is not None and self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            self._print(text)

    def status(self, text: str) -> None:
        """Name the stage under way, such as `compiling`, until the next call; an empty text ends it."""
        if text and text != self._stage and not self._terminal:
            self._print(text)
        self._stage = text

    def line(self) -> str:
        """The state of the run in one plain line."""
        parts = [f"step {self._step}/{self._total} ({self._fraction():.0%})", f"return {self._return_text()}"]
        parts += [f"{self._steps_per_second:.0f} steps/s", f"{_clock(self._seconds_left())} left"]
        return "  ".join(parts)

    def _print(self, text: str) -> None:
        # A log in an old encoding must not end a run because of one character it lacks.
        encoding = self._stream.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=self._stream, flush=True)

    def _fraction(self) -> float:
        return min(1.0, self._step / self._total)

    def _return_text(self) -> str:
        number = "-" if math.isnan(self._return_mean) else f"{self._return_mean:.1f}"
        return number if self._seeds == 1 else f"{number} (mean of {self._seeds} seeds)"

    def _seconds_left(self) -> float:
        """From this process's own pace, evaluations included; infinite before anything can be told."""
        steps_left = max(0, self._total - self._step)
        if self._start is not None and self._step > self._start[0]:
            first_step, first_time = self._start
            return steps_left * (time.monotonic() - first_time) / (self._step - first_step)
        return steps_left * self._seeds / self._steps_per_second if self._steps_per_second > 0 else math.inf

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 2, 0, 0), expand=True)
        row.add_column(ratio=1)
        for _ in range(4):
            row.add_column(no_wrap=True)
        row.add_row(
            ProgressBar(total=self._total, completed=self._step),
            Text(f"{self._step:,}/{self._total:,}"),
            Text(f"return {self._return_text()}", style="green"),
            Text(f"{self._steps_per_second:,.0f} steps/s", style="cyan"),
            Text(f"{_clock(self._seconds_left())} left", style="yellow"),
        )
        if not self._stage:
            self._spinner = None
            return row
        if self._spinner is None:
            self._spinner = Spinner("dots")
        self._spinner.update(text=Text(self._stage))
        return Group(self._spinner, row)


def _clock(seconds: float) -> str:
    """`75` -> `1:15`, `3675` -> `1:01:15`; `-:--` for what isn't known."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
