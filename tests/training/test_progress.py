"""Progress: plain lines where nobody watches, a live one on a terminal; both say what is going on as they are shown."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deeprl_cli.training import progress as module
from deeprl_cli.training.progress import Position, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def live(monkeypatch: pytest.MonkeyPatch, stream: Terminal, width: int) -> Iterator[Progress]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    with Progress(1000, 1, stream) as progress:
        yield progress


def seen(stream: Terminal, *words: str) -> None:
    """Wait until the line has been drawn with all of them, colours left out."""
    end = time.monotonic() + 20
    while not all(word in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()) for word in words):
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.02)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def at(progress: Progress, *position: Any) -> None:
    """Where the run is from now on."""
    progress._look = lambda: Position(*position)


def test_plain_lines_now_and_then_and_at_the_end(clock: Clock) -> None:
    """Each says where the run is as it is printed, whatever the trainer is busy with."""
    stream = io.StringIO()
    with Progress(1000, 1, stream) as progress:
        progress.tell()  # nothing has begun
        progress.status("compiling")
        progress.status("compiling")
        progress.status("")
        progress.follow(lambda: Position(0))
        for step in (100, 200):
            clock.now += 10
            at(progress, step, 1.25, 10.0)
            progress.tell()
        progress.message("a word [bold]in between[/bold]")
        with progress.stage("evaluating"):
            progress.counted(3, 10)
            progress.tell()
        at(progress, 350, 1.25, 10.0)
    assert stream.getvalue().splitlines() == [
        "compiling",
        "step 100/1000 (10%)  return 1.2  10 steps/s  1:30 left",
        "step 200/1000 (20%)  return 1.2  10 steps/s  1:20 left",
        "a word [bold]in between[/bold]",
        "step 200/1000 (20%)  return 1.2  10 steps/s  1:20 left  evaluating: 3 of 10",
        "step 350/1000 (35%)  return 1.2  10 steps/s  0:37 left",
    ]


def test_what_does_not_move_is_said_less_and_less_often(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(1000, 1, stream) as progress:
        progress.follow(lambda: Position(0))
        progress.status("compiling step")
        for _ in range(16):
            clock.now += 10
            progress.tell()
        at(progress, 1000, 1.25, 10.0)
    waited = [line.rpartition(", ")[2] for line in stream.getvalue().splitlines() if ", " in line]
    assert waited == ["10 s", "20 s", "30 s", "50 s", "90 s"]


def test_a_note_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    with live(monkeypatch, stream, 30) as progress:
        progress.note("100,096 steps instead of 100,000: whole rollouts")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "100,096 steps instead of\n100,000: whole rollouts" in text


def test_plain_lines_come_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PLAIN_INTERVAL", 0.01)
    stream, told = io.StringIO(), threading.Event()
    with Progress(10, 1, stream) as progress:
        progress.follow(lambda: Position(3, 1.0, 2.0, told.set() or ""))
        assert told.wait(10)
    assert stream.getvalue().startswith("step 3/10 (30%)")


def test_a_run_that_never_stepped_prints_nothing() -> None:
    stream = io.StringIO()
    with Progress(10, 1, stream):
        pass
    assert stream.getvalue() == ""


def test_several_seeds_and_no_return_yet() -> None:
    progress = Progress(1000, 4, io.StringIO())
    assert progress.line() == "step 0/1000 (0%)  return - (mean of 4 seeds)  0 steps/s  -:-- left"


def test_a_resumed_run_tells_time_from_its_own_start(clock: Clock) -> None:
    progress = Progress(1000, 2, io.StringIO())
    progress.follow(lambda: Position(800, 0.0, 200.0))
    assert progress.line().endswith("0:02 left")  # nothing seen yet: 200 steps left at 100 steps/s for each seed
    clock.now += 5
    at(progress, 900, 0.0, 200.0)
    assert progress.line().endswith("0:05 left")


def test_compiling_is_no_part_of_the_pace(clock: Clock) -> None:
    progress = Progress(1000, 1, io.StringIO())
    progress.follow(lambda: Position(0))
    clock.now += 1
    at(progress, 100, 0.0, 100.0)
    progress.status("compiling step")
    clock.now += 60
    assert "0:09 left" in progress.line()  # while it lasts, too
    progress.status("")
    clock.now += 4
    at(progress, 500, 0.0, 100.0)
    assert progress.line().endswith("0:05 left")


def test_a_long_run_says_once_how_long_it_will_take(clock: Clock) -> None:
    for total, words in ((10_000, "9,900 steps more, at 10 a second with evaluations: about 16:30"), (5_000, None)):
        stream = io.StringIO()
        progress = Progress(total, 1, stream)
        progress.follow(Position)
        for seconds, step in ((5, 50), (5, 100), (10, 200)):  # the first five say too little
            clock.now += seconds
            at(progress, step)
            progress.forecast()
        told = stream.getvalue().splitlines()
        assert [line.partition(";")[0] for line in told] == ([words] if words else [])


def test_what_it_is_at_is_named_once_it_lasts(clock: Clock) -> None:
    """What comes and goes at every look would only flicker."""
    progress = Progress(1000, 1, io.StringIO())
    at(progress, 0, 0.0, 0.0, "random steps")
    assert progress.line().endswith("left")
    clock.now += 1
    assert progress.line().endswith("left  random steps")


def test_an_old_encoding_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    with Progress(10, 1, io.TextIOWrapper(raw, encoding="ascii")) as progress:
        progress.message("environment ünï…")
        assert raw.getvalue() == b"environment ?n??\n"


def test_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves with the trainer, and names what is under way."""
    stream = Terminal()
    with live(monkeypatch, stream, 100) as progress:
        progress.status("compiling step")
        seen(stream, "compiling step")
        progress.status("")
        at(progress, 500, 12.5, 4321.0)
        progress.message("a word [bold]in between[/bold]")
        seen(stream, "500/1,000", "return 12.5", "4,321 steps/s", "a word [bold]in between[/bold]")
        with progress.stage("evaluating"):
            progress.counted(40, 100)
            seen(stream, "500/1,000  evaluating: 40 of 100")
    text = stream.getvalue()
    assert text.rindex("return 12.5") > text.rindex("evaluating")  # what stays is the run's own line
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


@pytest.mark.parametrize("width", [10, 30, 60, 80, 100])
@pytest.mark.parametrize("stage", ["", "compiling step (only once: later runs load it)"])
def test_the_live_line_is_one_line_and_leaves_room_for_an_echo(monkeypatch, width, stage) -> None:
    """A terminal writes ^C where the cursor is: a line that then breaks is drawn over no more."""
    with live(monkeypatch, Terminal(), width) as progress:
        at(progress, 123_456_789, -1234.5, 98765.0)
        progress._stage, progress._seeds, progress._total = stage, 16, 10**10
        drawn = progress._render()
        assert drawn.cell_len <= width - 4
        assert "\n" not in drawn.plain
        assert drawn.no_wrap


def test_a_signal_is_shown_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written between two drawings: elsewhere, the handler writes a line of its own."""
    stream = Terminal()
    with live(monkeypatch, stream, 100) as progress:
        assert progress.stopping()
        seen(stream, "stopping: writing the last checkpoint (once more to quit at once)")
    assert not Progress(10, 1, io.StringIO()).stopping()


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
        progress.follow(lambda: Position(10, 1.0, 1.0))
    assert stream.getvalue() == "step 10/10 (100%)  return 1.0  1 steps/s  0:00 left\n"


def test_rich_is_not_imported_where_it_is_not_shown() -> None:
    code = """
import sys
from deeprl_cli.training.progress import Position, Progress
with Progress(10, 1) as progress:
    progress.follow(lambda: Position(10, 1.0, 1.0))
sys.exit("rich" in sys.modules or "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("step 10/10")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3675, "1:01:15"), (math.inf, "-:--"), (math.nan, "-:--")],
)
def test_clock(seconds: float, text: str) -> None:
    assert module._clock(seconds) == text
