"""Runs and sweeps found by name, a part of it, or `latest`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deeprl_cli.errors import UserError
from deeprl_cli.runs.catalogue import find, find_any, name_of, runs_below, sweeps_below
from deeprl_cli.runs.lock import held, locked


@pytest.fixture(autouse=True)
def _four_runs_and_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, (folder, name) in enumerate(
        [
            ("runs/ppo/CartPole-v1/2026-01-02_10-00-00", "null"),
            ("runs/sac/Pendulum-v1/2026-01-01_10-00-00", "'my: baseline'"),
            ("runs/sweeps/2026-01-03_10-00-00/lr=0.1_seed=0", "lr=0.1 seed=0"),
            ("runs/sweeps/2026-01-03_10-00-00/lr=0.1_seed=1", "lr=0.1 seed=1"),
        ]
    ):
        run = Path(folder)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"seed: 0\nname: {name}\n")
        os.utime(run / "config.yaml", (1000 - age, 1000 - age))
    Path("runs/sweeps/2026-01-03_10-00-00/sweep.json").write_text("{}")


def test_what_is_below_a_folder():
    assert [run.name for run in runs_below(Path("runs"))] == [
        *("2026-01-02_10-00-00", "2026-01-01_10-00-00", "lr=0.1_seed=0", "lr=0.1_seed=1")
    ]
    assert list(sweeps_below(Path("runs"))) == [Path("runs/sweeps/2026-01-03_10-00-00")]


def test_a_path_a_name_a_part_of_either_or_the_latest():
    path = Path("runs/sac/Pendulum-v1/2026-01-01_10-00-00")
    assert find(path) == find(str(path)) == path
    assert find("my: baseline") == find("baseLINE") == find("sac/") == find("2026-01-01_10-00-00") == path
    assert name_of(path) == "my: baseline"
    assert find("latest") == Path("runs/ppo/CartPole-v1/2026-01-02_10-00-00")
    assert find("latest/seed_3") == Path("runs/ppo/CartPole-v1/2026-01-02_10-00-00/seed_3")
    (path / ".lock").touch()  # trained in since
    assert find("latest") == path
    assert find("seed=1").name == "lr=0.1_seed=1"
    assert find("latest", "sweep") == find("01-03", "sweep") == Path("runs/sweeps/2026-01-03_10-00-00")


def test_what_takes_both_takes_the_sweep_where_no_single_run_is_meant():
    assert find_any("01-03") == Path("runs/sweeps/2026-01-03_10-00-00")
    assert find_any("sac/") == find("sac/")
    assert find_any("latest") == find("latest")
    with pytest.raises(UserError, match="fits 2 runs"):
        find_any("lr=0.1")


def test_an_exact_name_is_meant_though_it_is_a_part_of_others():
    other = Path("runs/ppo/CartPole-v1/2026-01-02_10-00-00_2")
    other.mkdir()
    (other / "config.yaml").write_text("name: null\n")
    assert find("2026-01-02_10-00-00").name == "2026-01-02_10-00-00"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr=0.1", "lr=0.1: fits 2 runs, runs/sweeps/2026-01-03_10-00-00/lr=0.1_seed=0, runs/sweeps/"),
        ("lr=0.2 seed=1", "is called so; did you mean 'lr=0.1 seed=1'?; `deeprl list runs` shows"),
        ("zzz", "zzz: no such folder, and no run below runs/ is called so; `deeprl"),
    ],
)
def test_none_or_several(text, says):
    with pytest.raises(UserError) as told:
        find(text)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_nothing_there(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="latest: no such folder, and there is no run below runs/ here"):
        find("latest")


def test_whether_a_run_is_trained_in(tmp_path):
    assert not held(tmp_path)
    with locked(tmp_path):
        assert held(tmp_path)
    assert not held(tmp_path)
