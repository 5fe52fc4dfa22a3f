"""How far a verb is: on a terminal only, and gone at the end."""

import io

from deeprl_cli.commands.counting import counting


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
        with counting("my_run: episodes") as told:
            told(40, 100)
        assert stream.getvalue() == ""
