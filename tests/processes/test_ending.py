"""What an environment leaves behind neither silences the program nor holds up its end."""

from __future__ import annotations

import io
import sys
import threading

from deeprl_cli.processes import ending


def test_closing_the_output_ends_nothing(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    ending.outlast_closing()
    sys.stdout.close()
    print("still here")
    out.flush()
    assert out.buffer.getvalue() == b"still here\n"


def test_a_thread_that_does_not_end_is_told_and_left(monkeypatch, capsys):
    left = threading.Event()
    codes = []
    monkeypatch.setattr(ending, "PATIENCE", 0.01)
    monkeypatch.setattr(ending.os, "_exit", lambda code: (codes.append(code), left.set()))
    stays = threading.Thread(target=left.wait, name="simulator")
    stays.start()
    ending.end_in_time(3)
    assert left.wait(10)
    stays.join()
    assert codes == [3]
    assert "deeprl: done, but something that was started here doesn't end (simulator" in capsys.readouterr().err
