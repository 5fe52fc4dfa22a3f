"""How far a command has come, and what it waits for: on a terminal only, and erased at the end."""

import io

from deeprl_cli.commands.counting import counting, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_it_move_and_go(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    with counting("my_run: episodes") as told:
        told(40, 100)
        told(41, 100)  # at once: not drawn
    assert shown.getvalue() == "\r\x1b[Kmy_run: episodes: 40 of 100\r\x1b[K"


def test_a_file_and_a_dumb_terminal_get_nothing(monkeypatch):
    for stream, term in ((io.StringIO(), "xterm"), (Terminal(), "dumb")):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr("sys.stderr", stream)
        with counting("my_run: episodes") as told, waiting("loading torch"):
            told(40, 100)
        assert stream.getvalue() == ""


def test_a_terminal_sees_what_it_waits_for(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    with waiting("loading torch"):
        assert shown.getvalue() == "loading torch …"
    assert shown.getvalue().endswith("\r\x1b[K")
