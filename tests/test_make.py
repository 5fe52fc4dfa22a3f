"""The Makefile: what it offers, what it says to an old Python, what it reinstalls and what it leaves alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(folder, *arguments, **environment):
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "AFTER_CHECK", "PYTHON", "ARGS")  # of `make test`
    settings = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "-C", str(folder), "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**settings, **environment}, check=False)


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tree(tmp_path):
    """What the Makefile reads, in a folder of its own."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_help_is_the_default_and_names_every_target(tree):
    shown = make(tree).stdout
    targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split()
    assert {"setup", "train", "test", "check", "tensorboard", "clean", "distclean", "help"} <= set(targets)
    assert all(f"make {target} " in shown for target in targets)


def test_old_python_is_refused_in_words(tree):
    old = program(tree / "old", 'case "$1" in --version) echo Python 3.10.4;; *) exit 1;; esac')
    done = make(tree, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"needs Python 3.11 or newer, and {old} is Python 3.10.4" in done.stderr
    assert "no-such-python is missing" in make(tree, "setup", "PYTHON=no-such-python").stderr
    assert not (tree / ".venv").exists()


def test_setup_installs_once_and_again_when_requirements_change(tree):
    program(tree / ".venv" / "bin" / "python", 'echo "$@" >> calls; echo noise')
    first = make(tree, "setup")
    assert first.returncode == 0, first.stderr
    assert "noise" not in first.stdout  # pip's output
    calls = (tree / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["torch", ".[dev]"]
    assert all("-c constraints.txt" in call for call in calls)
    make(tree, "setup")
    assert (tree / "calls").read_text().splitlines() == calls
    later = time.time() + 5
    os.utime(tree / "constraints.txt", (later, later))
    make(tree, "setup")
    assert len((tree / "calls").read_text().splitlines()) == 4


def test_failing_pip_is_heard_and_tried_again(tree):
    program(tree / ".venv" / "bin" / "python", "echo no wheel for you; exit 1")
    for _ in range(2):
        done = make(tree, "setup")
        assert done.returncode != 0
        assert "no wheel for you" in done.stderr


def test_clean_keeps_runs_and_the_environment(tree):
    kept = [tree / "runs" / "ppo" / "__pycache__", tree / ".venv" / "lib" / "__pycache__"]
    gone = [tree / "deeprl_cli" / "__pycache__", tree / ".pytest_cache", tree / "build", tree / "dist"]
    for folder in kept + gone:
        folder.mkdir(parents=True)
    assert make(tree, "clean").returncode == 0
    assert all(folder.exists() for folder in kept)
    assert not any(folder.exists() for folder in gone)
    make(tree, "distclean")
    assert not (tree / ".venv").exists()
    assert (tree / "runs").exists()


@pytest.mark.parametrize(("setting", "selection"), [({}, ""), ({"AFTER_CHECK": "1"}, "-m slow")])
def test_all_tests_run_unless_the_fast_ones_have_just_passed(tree, setting, selection):
    command = make(tree, "-n", "test", **setting).stdout.splitlines()[-1]
    assert command.split("pytest -n 3")[1].strip() == selection


def test_ci_runs_check_and_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert re.search(r"^make check$", text, re.MULTILINE)
    assert re.search(r"^AFTER_CHECK=1 make test$", text, re.MULTILINE)
