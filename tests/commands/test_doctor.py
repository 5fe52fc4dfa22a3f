"""`deeprl doctor`: what it finds, what it mends, and its exit code; on a machine that is made up where need be."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from deeprl_cli.cli import main
from deeprl_cli.commands import doctor
from deeprl_cli.processes.graph_store import MAGIC

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of compiled graphs, empty; no extras, whose import takes seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "EXTRAS", {})
    folder = tmp_path / "cache" / "deeprl"
    (folder / "inductor" / "locks").mkdir(parents=True)
    (folder / "graphs").mkdir(mode=0o700)
    return folder


def told(capsys, *flags):
    """The exit code, and the findings by their names."""
    try:
        main(["doctor", "--json", *flags])
        code = 0
    except SystemExit as stop:
        code = stop.code
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (code == 0)
    return code, {finding["name"]: finding for finding in report["findings"]}, report


def test_it_knows_every_package_and_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "all"}
    names = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    modules = {"hydra-core": "hydra", "PyYAML": "yaml"}
    assert {modules.get(name, name) for name in names} == set(doctor.NEEDED)


def test_a_machine_that_can_train(cache, capsys, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    code, findings, report = told(capsys)
    assert code == 0
    assert list(findings) == ["packages", "torch", "compiler", "GPU", "machine", "cache"]
    assert findings["packages"]["state"] == findings["torch"]["state"] == findings["cache"]["state"] == "ok"
    assert re.search(r"\d+ cores?", findings["machine"]["text"])
    assert report["fixed"] == []
    main(["doctor"])
    assert capsys.readouterr().out.endswith("everything that training needs works\n")


def test_without_a_compiler_all_runs_are_eager(cache, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, findings, _ = told(capsys)
    assert code == 0
    assert findings["compiler"]["state"] == "note"
    assert "install g++" in findings["compiler"]["mend"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_compiler_that_cant_build_what_runs_need_is_broken(cache, tmp_path, capsys, monkeypatch):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\necho 'trial.cpp:1: fatal error: Python.h: No such file' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    code, findings, _ = told(capsys)
    assert code == 1
    assert findings["compiler"]["state"] == "broken"
    assert "Python.h: No such file" in findings["compiler"]["text"]
    assert "python3-dev" in findings["compiler"]["mend"]


def test_a_package_that_is_missing_is_named_and_the_rest_is_looked_at(cache, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)  # importing it fails
    code, findings, _ = told(capsys)
    assert code == 1
    assert re.search(r"can't be imported: gymnasium \(ModuleNotFoundError", findings["packages"]["text"])
    assert findings["torch"]["state"] == "broken"
    assert findings["machine"]["state"] == "ok"
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert capsys.readouterr().out.endswith("broken: packages, torch\n")


def test_damaged_and_half_made_graphs_are_found_and_removed(cache, capsys):
    (cache / "graphs" / "ab").mkdir()
    damaged = cache / "graphs" / "ab" / "step-1.graph"
    damaged.write_bytes(MAGIC + b"cut off")
    building = cache / "inductor" / "cd" / "xyz.main_CxxBuild"
    building.mkdir(parents=True)
    library = building.parent / "xyz.main.so"
    library.write_bytes(b"half")
    whole = cache / "inductor" / "cd" / "other.main.so"
    whole.write_bytes(b"whole")
    code, findings, _ = told(capsys)
    assert code == 0  # a run that meets one mends it itself
    assert "1 of them damaged, 1 half made" in findings["cache"]["text"]
    assert damaged.exists()
    assert library.exists()
    _, findings, report = told(capsys, "--fix")
    assert findings["cache"]["state"] == "ok"
    assert not damaged.exists()
    assert not library.exists()
    assert whole.exists()
    assert [line for line in report["fixed"] if str(damaged) in line]


def test_a_cache_that_is_too_large_is_emptied_on_demand(cache, capsys, monkeypatch):
    (cache / "inductor" / "ab").mkdir()
    (cache / "inductor" / "ab" / "graph.so").write_bytes(bytes(2000))
    monkeypatch.setattr(doctor, "LARGE", 1000)
    _, findings, _ = told(capsys)
    assert findings["cache"]["state"] == "note"
    assert "--fix empties it" in findings["cache"]["mend"]
    _, findings, report = told(capsys, "--fix")
    assert findings["cache"]["state"] == "ok"
    assert "emptied" in report["fixed"][0]
    assert not (cache / "inductor").exists()


def test_a_cache_that_cant_be_written_is_broken(cache, capsys, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: Path(path) != cache)
    code, findings, _ = told(capsys)
    assert code == 1
    assert "XDG_CACHE_HOME" in findings["cache"]["mend"]


def test_extras(cache, tmp_path, capsys, monkeypatch):
    """Here, missing, or here and broken: none of these keeps anything from training."""
    (tmp_path / "broken_extra.py").write_text("print('hello')\nraise OSError('libbox.so: not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    extras = {"here": ("numpy", "numbers"), "gone": ("no_such_module", "nothing"), "bad": ("broken_extra", "boxes")}
    monkeypatch.setattr(doctor, "EXTRAS", extras)
    code, _, report = told(capsys)
    assert code == 0
    here, gone, bad = report["extras"]
    assert here["version"] == sys.modules["numpy"].__version__
    assert not gone["installed"]
    assert bad["error"] == "OSError: libbox.so: not found"
    main(["doctor"])
    said = capsys.readouterr().out
    assert "pip install 'deeprl-cli[gone]' brings what is missing" in said
    assert re.search(r"bad +broken +boxes\n +OSError: libbox.so: not found", said)
