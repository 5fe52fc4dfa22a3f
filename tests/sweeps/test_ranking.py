"""Settings ranked and judged, the answer in words, and `deeprl sweep`, also of one that still runs."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from deeprl_cli.cli import main
from deeprl_cli.errors import UserError
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.sweep_folder import label, read_sweep, settings, short_names
from deeprl_cli.sweeps import table
from deeprl_cli.sweeps.ranking import answer, ranked


def job(text, returns, seeds=None, status="done", **more):
    """A job of sweep.json whose last and best policies earn these returns."""
    seeds = list(range(len(returns))) if seeds is None else seeds
    found = {"seeds": seeds, "last_returns": returns, "best_returns": returns} if returns else {}
    return {"overrides": text.split(), "status": status, "seconds": 2.0, **found, **more}


CLEAR = [job("lr=1", [10.0, 11.0, 12.0]), job("lr=2", [1.0, 2.0, 3.0]), job("lr=3", [8.0, 10.0, 12.0])]


def test_seeds_of_separate_runs_are_put_together_and_a_seed_counts_once():
    jobs = [job(f"lr=1 seed={k}", [float(k)], [k]) for k in (0, 1, 1)] + [job("lr=2 seed=0", [5.0], [0])]
    one, other = settings(jobs)
    assert one.values == {"lr": "1"}
    assert one.returns("last") == {0: 0.0, 1: 1.0}
    assert other.returns("best") == {0: 5.0}
    assert one.seconds == 6.0


def test_the_best_is_first_and_what_cannot_be_told_apart_is_marked():
    rows = ranked(CLEAR)
    assert [(row.name, row.verdict) for row in rows] == [("lr=1", "best"), ("lr=3", "≈ best"), ("lr=2", "less")]
    assert rows[2].p < 0.05 < rows[1].p
    first, second = answer(rows)
    assert first.startswith("best: lr=1 (IQM 11 of 3 seeds); can't be told apart from it: lr=3 (")
    assert second.startswith("(in brackets: how many seeds of each would show")
    assert answer(ranked(CLEAR[:2])) == ["best: lr=1 (IQM 11 of 3 seeds); the other earns less, and not by chance"]


def test_many_comparisons_find_a_difference_by_luck_less_easily():
    alone = ranked([CLEAR[0], job("lr=2", [7.0, 8.0, 9.0])])
    among = ranked([CLEAR[0], job("lr=2", [7.0, 8.0, 9.0]), *(job(f"lr={k}", [10.0, 11.0, 11.9]) for k in range(3, 9))])
    assert alone[1].verdict == "less"
    assert {row.verdict for row in among[1:]} == {"≈ best"}


def test_settings_that_hardly_differ():
    same = [job("lr=1", [1.0, 2.0, 3.0]), job("lr=2", [1.0, 2.0, 2.9999])]
    assert answer(ranked(same))[1].startswith("they hardly differ")


def test_one_seed_says_what_cannot_be_known():
    rows = ranked([job("lr=1", [10.0]), job("lr=2", [20.0])])
    assert [(row.name, row.verdict) for row in rows] == [("lr=2", "highest"), ("lr=1", "?")]
    first, second = answer(rows)
    assert first == "highest: lr=2 (20, one seed)"
    assert "better or only luckier. seeds=5" in second


def test_the_best_by_the_best_policy():
    jobs = [job("lr=1", [1.0, 2.0]) | {"best_returns": [9.0, 9.5]}, job("lr=2", [5.0, 6.0])]
    assert [row.name for row in ranked(jobs, "last")] == ["lr=2", "lr=1"]
    assert [row.name for row in ranked(jobs, "best")] == ["lr=1", "lr=2"]


def test_each_environment_has_its_best_and_what_has_no_result_is_behind():
    jobs = [
        job("env=A lr=1", [1.0, 2.0]),
        job("env=B lr=1", [], status="failed", error="no disk"),
        job("env=B lr=2", [100.0, 101.0]),
        job("env=A lr=2", [50.0, 51.0]),
    ]
    told = [(row.name, row.verdict) for row in ranked(jobs)]
    assert told == [("A lr=2", "best"), ("A lr=1", "less"), ("B lr=2", "best"), ("B lr=1", "")]
    assert len(answer(ranked(jobs))) == 1  # there is nothing to hold B's against


def test_labels():
    assert label({"algo": "ppo", "algo.lr": "'0.1'", "seed": "1"}) == "ppo lr=0.1 seed=1"
    assert short_names(["algo.tau", "algo.kl.tau", "algo.lr"]) == {
        "algo.tau": "algo.tau",
        "algo.kl.tau": "algo.kl.tau",
        "algo.lr": "lr",
    }


# ---- deeprl sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep's folder, whose third job was under way."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/sweeps/2026-01-01_00-00-00")
    (folder / "lr=3").mkdir(parents=True)
    third = job("lr=3", [], status="running", run=str(folder / "lr=3"))
    record = {"began": time.time() - 20, "jobs": [*CLEAR[:2], third, job("lr=4", [], status="waiting")]}
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder


def code(*arguments):
    try:
        main(["sweep", *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_of_a_sweep_that_still_runs_what_is_left(sweep, capsys):
    with locked(sweep):
        assert code() == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:2] == ["lr", "seeds"]
    assert [line.split()[0] for line in told[1:5]] == ["1", "2", "3", "4"]
    assert told[3].endswith("1 running")
    assert "2 of 4 runs done, 1 running, 1 waiting: about 0:20 left" in told
    assert sorted(path.name for path in sweep.iterdir()) == [".lock", "lr=3", "sweep.json"]


def test_of_one_that_was_killed_and_a_run_of_it_resumed(sweep, capsys):
    summary = {
        "status": "finished",
        "seeds": [0, 1, 2],
        "wall_seconds": 5.0,
        "eval": {"return_mean": [50.0, 51.0, 52.0], "best_return_mean": [50.0, 51.0, None]},
    }
    (sweep / "lr=3" / "summary.json").write_text(json.dumps(summary))
    assert code(str(sweep)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split()[:3] == ["3", "3", "51"]
    assert told[4].endswith("1 never begun")
    assert "3 of 4 runs done, 1 never begun; runs/sweeps/2026-01-01_00-00-00/sweep.csv" in told
    with (sweep / "sweep.csv").open() as file:
        assert next(csv.DictReader(file))["verdict"] == "best"


def test_a_sweep_that_was_moved_has_its_runs_inside(sweep):
    (sweep / "lr=3" / "summary.json").write_text(json.dumps({"status": "finished", "wall_seconds": 1, "eval": None}))
    moved = sweep.rename(sweep.parent / "elsewhere")
    assert [found["status"] for found in read_sweep(moved).jobs] == ["done", "done", "done", "never begun"]


def test_json(sweep, capsys):
    assert code("2026-01", "--json", "--by", "best") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jobs"] == {"done": 2, "killed": 1, "never begun": 1}
    assert told["settings"][0]["values"] == {"lr": "1"}
    assert told["settings"][0]["best"]["iqm"] == 11.0
    assert told["running"] is False


def test_what_is_no_sweep(sweep):
    with pytest.raises(UserError, match=r"runs: not a sweep \(no sweep.json there\)"):
        read_sweep(Path("runs"))
    for text in ("[]", "{", '{"jobs": [{"status": 1}]}', '{"jobs": 3}', '{"jobs": [{"status": "done"}]}'):
        (sweep / "sweep.json").write_text(text)
        with pytest.raises(UserError, match="damaged: not the record of a sweep"):
            read_sweep(sweep)


def test_a_sweep_over_seeds_alone_is_one_setting(capsys):
    table.show([job(f"seed={k}", [float(k)], [k]) for k in range(4)])
    told = capsys.readouterr().out.splitlines()
    assert told[1].split()[:2] == ["4", "1.5"]
    assert len(told) == 2
