"""Progress: plain lines where nobody watches, a live one on a terminal, and cheap either way."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import time

import pytest

from deeprl_cli.training import progress as module
from deeprl_cli.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_lines_every_ten_seconds_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(1000, 1, stream) as progress:
        progress.status("compiling")
        progress.status("compiling")
        progress.status("")
        for step in range(0, 360, 10):
            progress.update(step, 1.25, 10.0)
            clock.now += 1
        progress.message("a word [bold]in between[/bold]")
    assert stream.getvalue().splitlines() == [
        "compiling",
        "step 100/1000 (10%)  return 1.2  10 steps/s  1:30 left",
        "step 200/1000 (20%)  return 1.2  10 steps/s  1:20 left",
        "step 300/1000 (30%)  return 1.2  10 steps/s  1:10 left",
        "a word [bold]in between[/bold]",
        "step 350/1000 (35%)  return 1.2  10 steps/s  1:07 left",
    ]


def test_a_run_that_never_stepped_prints_nothing() -> None:
    stream = io.StringIO()
    with Progress(10, 1, stream):
        pass
    assert stream.getvalue() == ""


def test_several_seeds_and_no_return_yet(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(1000, 4, stream) as progress:
        progress.update(0, None, 0.0)
        assert progress.line() == "step 0/1000 (0%)  return - (mean of 4 seeds)  0 steps/s  -:-- left"
        progress.update(500, math.nan, 4000.0)
        progress.update(500, -3.0, 4000.0)


def test_a_resumed_run_tells_time_from_its_own_start(clock: Clock) -> None:
    progress = Progress(1000, 2, io.StringIO())
    progress.update(800, 0.0, 200.0)
    assert progress.line().endswith("0:02 left")  # nothing seen yet: 200 steps left at 100 steps/s for each seed
    clock.now += 5
    progress.update(900, 0.0, 200.0)
    assert progress.line().endswith("0:05 left")


def test_an_old_encoding_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    with Progress(10, 1, io.TextIOWrapper(raw, encoding="ascii")) as progress:
        progress.message("environment ünï…")
        assert raw.getvalue() == b"environment ?n??\n"


def test_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with Progress(1000, 1, stream) as progress:
        progress.status("compiling")
        time.sleep(0.4)
        assert "compiling" in stream.getvalue()
        progress.status("")
        progress.update(500, 12.5, 4321.0)
        progress.message("a word [bold]in between[/bold]")
        time.sleep(0.4)
    text = stream.getvalue()
    for words in ("500/1,000", "return 12.5", "4,321 steps/s", "a word [bold]in between[/bold]"):
        assert words in text
    assert text.rindex("500/1,000") > text.rindex("compiling")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


def test_the_cursor_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(1000, 1, stream):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in stream.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(10, 1, stream) as progress:
        progress.update(10, 1.0, 1.0)
    assert stream.getvalue() == "step 10/10 (100%)  return 1.0  1 steps/s  0:00 left\n"


def test_rich_is_not_imported_where_it_is_not_shown() -> None:
    code = """
import sys
from deeprl_cli.training.progress import Progress
with Progress(10, 1) as progress:
    progress.update(10, 1.0, 1.0)
sys.exit("rich" in sys.modules or "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("step 10/10")


def test_update_reads_the_clock_once_and_draws_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    progress = Progress(10**9, 1, io.StringIO())
    reads: list[float] = []
    monkeypatch.setattr(clock, "monotonic", lambda: reads.append(clock.now) or clock.now)
    monkeypatch.setattr(progress, "_print", lambda text: pytest.fail("drew"))
    for step in range(1000):
        progress.update(step, 1.0, 1.0)
    assert len(reads) == 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3675, "1:01:15"), (math.inf, "-:--"), (math.nan, "-:--")],
)
def test_clock(seconds: float, text: str) -> None:
    assert module._clock(seconds) == text
