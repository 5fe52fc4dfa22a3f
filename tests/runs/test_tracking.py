"""`log.to`: what trackers are told, that none of them ends a training or changes a number, and their real stores."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import struct
import sys
import threading
import time

import pytest

from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.runs import tracking
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.run import train

SMALL = ["algo=a2c", "env=CartPole-v1", "tuned=none", "algo.hidden=[8]", "algo.num_envs=2", "hardware.threads=1"]
SMALL += ["hardware.compile=false", "eval.every=100", "eval.episodes=1", "eval.final_episodes=2", "log.every=50"]
SMALL += ["total_steps=200", "seeds=2", "seed=3", "tags=[one,two]", 'name="a <b> name"']


class Told:
    """A tracker that remembers. `fails` raises in the call of that name; `hangs` doesn't come back from it."""

    made: list[Told] = []  # noqa: RUF012
    fails = hangs = ""

    def __init__(self, about):
        self.about, self.calls = about, []
        self.ids = {seed: about.ids.get(seed, f"id of {seed}") for seed in about.seeds}
        Told.made.append(self)
        self._do("begin")

    def _do(self, what, *values):
        self.calls.append((what, *values))
        if what == Told.hangs:
            time.sleep(5)
        if what == Told.fails:
            raise OSError("no <such> host\nand more")

    def log(self, index, step, row):
        self._do("log", index, step, row)

    def video(self, index, step, file):
        self._do("video", index, step, file)

    def end(self, status, step, final, table):
        self._do("end", status, step, final, table)


@pytest.fixture
def told(monkeypatch):
    Told.made, Told.fails, Told.hangs = [], "", ""
    monkeypatch.setattr(tracking, "TRACKERS", {"wandb": Told, "mlflow": Told, "trackio": Told})
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: object())
    return Told


def run(folder, *more):
    return train(load_config([*SMALL, f"run_dir={folder}", *more]))


def rows_of(folder, seed):
    lines = (folder / f"seed_{seed}" / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    return [
        {name: float(cell) for name, cell in zip(columns, line.split(","), strict=True) if cell} for line in lines[1:]
    ]


# ---- what it is told, and when it fails


def test_a_tracker_hears_all_that_is_logged(told, tmp_path):
    folder = run(tmp_path / "run", "log.to=[wandb]", "log.project=mine")
    (one,) = told.made
    about = one.about
    assert (about.name, about.project, list(about.seeds), list(about.tags)) == (
        "a <b> name",
        "mine",
        [3, 4],
        ["one", "two"],
    )
    assert about.config["algo"]["hidden"] == [8]
    for index, seed in enumerate((3, 4)):
        heard = [{"step": step, **row} for what, i, step, row in one.calls[1:-1] if i == index]
        expected = rows_of(folder, seed)
        assert len(heard) == len(expected)
        for ours, theirs in zip(heard, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)
    _, status, step, final, (columns, rows) = one.calls[-1]
    summary = json.loads((folder / "summary.json").read_text())
    assert (status, step) == ("finished", 200)
    assert columns == ["seed", "return", "return_std", "best_return"]
    assert [row[1] for row in rows] == summary["eval"]["return_mean"]
    assert [values["final/return"] for values in final] == summary["eval"]["return_mean"]
    assert json.loads((folder / "trackers.json").read_text()) == {"wandb": {"3": "id of 3", "4": "id of 4"}}


def test_it_changes_no_number_and_goes_on_where_it_was(told, tmp_path, capsys):
    tracked, plain = run(tmp_path / "a", "log.to=[mlflow]"), run(tmp_path / "b")
    assert (tracked / "weights.sha256").read_bytes() == (plain / "weights.sha256").read_bytes()
    (tracked / "trackers.json").write_text('{"mlflow": {"3": "kept", "4": "kept too"}}')
    main(["resume", str(tracked), "total_steps=300"])
    assert told.made[-1].about.ids == {3: "kept", 4: "kept too"}
    assert next(values[2] for values in told.made[-1].calls if values[0] == "log") > 200
    (tracked / "trackers.json").write_text('{"mlflow": [1')
    main(["resume", str(tracked), "total_steps=400"])
    assert told.made[-1].about.ids == {}


@pytest.mark.parametrize("call", ["begin", "log", "end"])
def test_one_that_fails_is_told_once_and_training_goes_on(told, tmp_path, capsys, call):
    told.fails = call
    folder = run(tmp_path / "run", "log.to=[trackio]")
    said = [line for line in capsys.readouterr().out.splitlines() if "log.to" in line]
    assert said == ["log.to=trackio: OSError: no <such> host; training goes on without it"]
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert sum(what == call for what, *_ in told.made[0].calls) == 1


@pytest.mark.parametrize("call", ["begin", "log", "end"])
def test_one_that_hangs_is_left_behind(told, tmp_path, capsys, monkeypatch, call):
    monkeypatch.setattr(tracking, "END", 0.3)
    told.hangs = call
    folder = run(tmp_path / "run", "log.to=[wandb]")
    assert "log.to=wandb: hasn't kept everything within 0 s; training goes on" in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


def test_one_that_is_too_slow_is_given_up(told, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "WAITING", 3)
    monkeypatch.setattr(tracking, "END", 0.1)
    told.hangs = "log"
    run(tmp_path / "run", "log.to=[wandb]")
    assert "log.to=wandb: is behind by 3 messages; training goes on without it" in capsys.readouterr().out


def test_a_run_without_a_result_has_no_table(told, tmp_path):
    assert tracking._results({"eval": None}, [0, 1]) == ([{}, {}], None)
    final, (_, rows) = tracking._results(
        {"eval": {"return_mean": [1.0, None], "return_std": [float("nan"), 0]}}, [0, 1]
    )
    assert final[1] == {"final/return_std": 0}
    assert rows == [[0, 1.0, None], [1, None, 0]]


@pytest.mark.parametrize(("typed", "to"), [
    ([], ["tensorboard"]),
    (["log.to=[tensorboard,wandb,mlflow,trackio]"], ["tensorboard", "wandb", "mlflow", "trackio"]),
    (["log.to=[wandb]"], ["wandb"]),
    (["log.tensorboard=false"], []),
    (["log.tensorboard=true", "log.to=[wandb]"], ["tensorboard", "wandb"]),
    (["log.tensorboard=false", "log.to=[tensorboard,wandb]"], ["wandb"]),
])  # fmt: skip
def test_tensorboard_is_one_of_them(typed, to):
    log = load_config(typed).log
    assert (log.to, log.tensorboard) == (to, None)
    assert (log.event_files, log.trackers) == ("tensorboard" in to, [name for name in to if name != "tensorboard"])


def test_the_list_is_all_that_is_told(told, tmp_path):
    one, other = run(tmp_path / "a", "log.to=[tensorboard,wandb]"), run(tmp_path / "b", "log.to=[wandb]")
    assert list(one.rglob("events.*"))
    assert not list(other.rglob("events.*"))
    assert (one / tracking.NAME).exists()
    assert (other / tracking.NAME).exists()


def test_no_thread_is_left(told, tmp_path):
    before = set(threading.enumerate())
    run(tmp_path / "run", "log.to=[wandb,mlflow]")
    assert not set(threading.enumerate()) - before


def test_a_library_that_is_missing_is_told_before_the_run(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"log.to=\[mlflow\] needs mlflow: pip install 'deeprl-cli\[mlflow\]'"):
        preflight(load_config([*SMALL, "log.to=[mlflow]"]))


@pytest.mark.parametrize(("typed", "said"), [
    ("log.to=[wandbb]", "must be one of tensorboard, wandb, mlflow, trackio; did you mean 'wandb'?"),
    ("log.to=wandb", "log.to=wandb: must be a list"),
])  # fmt: skip
def test_mistakes(typed, said):
    with pytest.raises(ConfigError) as caught:
        load_config([typed])
    assert said in str(caught.value)


# ---- their real stores; each in a process's own folder


SLOW = pytest.mark.slow  # their libraries take seconds to import, and to make a store


def need(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no API key of whoever runs the tests
    return tmp_path


def leveldb_log(file):
    """The records of LevelDB's log format, in blocks of 32 KiB, each piece behind checksum, length and kind."""
    data, at, record = file.read_bytes(), 7, b""  # 7: W&B's own header
    while at + 7 <= len(data):
        if (left := -at % 32768) < 7 and left:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield record
            record = b""


@SLOW
@need("wandb")
def test_wandb_offline(here, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("NETRC", str(here / "none"))
    folder = run("run", "log.to=[wandb]")
    found = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(found) == 2
    names, steps, summary = set(), set(), {}
    for file in found:
        for data in leveldb_log(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                names.add((record.run.display_name, record.run.run_group, record.run.project))
            for item in record.history.item:
                if (item.key or "/".join(item.nested_key)) == "eval/return_mean":
                    steps.add(record.history.step.num)
            summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    assert names == {(f"a <b> name seed {seed}", "a <b> name", "deeprl") for seed in (3, 4)}
    assert steps == {100, 200}
    assert json.loads(summary["status"]) == "finished"
    assert "final/return" in summary


@SLOW
@need("trackio")
def test_trackio_local(here):
    """In a process of its own: trackio reads its folder's name when it is imported."""
    import os
    import subprocess

    environment = {**os.environ, "TRACKIO_DIR": str(here / "store"), "TRACKIO_PROJECT": "mine"}
    command = [sys.executable, "-m", "deeprl_cli", "train", *SMALL, "run_dir=run", "log.to=[trackio]"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "rackio" not in done.stdout.replace("starting trackio", "")
    with sqlite3.connect(here / "store" / "mine.db") as store:
        rows = store.execute("select run_name, step, metrics from metrics order by step").fetchall()
        (count,) = store.execute("select count(*) from configs").fetchone()
    assert count == 2
    assert len({name for name, _, _ in rows}) == 2
    logged = [json.loads(text) for _, _, text in rows]
    assert {step for (_, step, _), row in zip(rows, logged, strict=True) if "eval/return_mean" in row} == {100, 200}
    assert all(row["status"] == "finished" for row in logged if "status" in row)
    assert sum("returns" in row for row in logged) == 2


@SLOW
@need("mlflow")
def test_mlflow_on_sqlite(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    folder = run("run", "log.to=[mlflow]", "log.project=mine")
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"a <b> name", "a <b> name seed 3", "a <b> name seed 4"}
    seed = runs["a <b> name seed 3"]
    assert seed.data.tags["mlflow.parentRunId"] == runs["a <b> name"].info.run_id
    assert seed.data.params["algo.hidden"] == "[8]"
    assert seed.info.status == "FINISHED"
    summary = json.loads((folder / "summary.json").read_text())
    assert seed.data.metrics["final/return"] == pytest.approx(summary["eval"]["return_mean"][0])
    points = client.get_metric_history(seed.info.run_id, "eval/return_mean")
    assert [point.step for point in points] == [100, 200]
    main(["resume", str(folder), "total_steps=300"])
    points = client.get_metric_history(seed.info.run_id, "eval/return_mean")
    assert [point.step for point in points] == [100, 200, 300]
    assert len(client.search_runs([experiment.experiment_id])) == 3
