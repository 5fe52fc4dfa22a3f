"""Threads sleep while they wait, where another program runs; the user's own choice stays."""

from __future__ import annotations

import os

import pytest

from deeprl_cli.processes import waiting


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "x")  # so that what is set here is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(waiting, "_LOADAVG", tmp_path / "loadavg")
    return tmp_path / "loadavg"


@pytest.mark.parametrize(("running", "policy"), [("1", None), ("2", "PASSIVE"), ("9", "PASSIVE")])
def test_what_runs_decides(clean, running, policy):
    clean.write_text(f"3.10 2.00 1.00 {running}/178 4711\n")
    waiting.wait_politely()
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_users_choice_stays(clean, monkeypatch, name):
    clean.write_text("3.10 2.00 1.00 5/178 4711\n")
    monkeypatch.setenv(name, "1")
    waiting.wait_politely()
    assert os.environ[name] == "1"
    assert sum(key in os.environ for key in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")) == 1


@pytest.mark.parametrize("content", [None, "", "0.1 0.2 0.3", "a b c d e"])
def test_where_nothing_is_known_nothing_is_done(clean, content):
    if content is not None:
        clean.write_text(content)
    waiting.wait_politely()
    assert "OMP_WAIT_POLICY" not in os.environ
