"""`deeprl bench`: suites read and refused, rows run once, stopped, run again when they change, and the verdicts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from deeprl_cli.bench import plan as bench_plan
from deeprl_cli.bench import report as bench_report
from deeprl_cli.bench import runner as bench
from deeprl_cli.bench.suite import choose, load_suite
from deeprl_cli.cli import main
from deeprl_cli.config.files import suite_names
from deeprl_cli.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = ["hardware.compile=false", "tuned=none", "eval.every=100", "algo.num_envs=2", "algo.rollout_length=32"]
ROW = {
    "name": "ppo-small",
    "algo": "ppo",
    "env": "CartPole-v1",
    "overrides": SMALL,
    "steps": 128,
    "seeds": 2,
    "episodes": 2,
    "policy": "final",
    "bar": 5,
    "source": "any policy",
}


def code(*arguments: str) -> int:
    try:
        main(["bench", *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def suite(*rows: dict, path: str = "mine.yaml") -> str:
    Path(path).write_text(yaml.safe_dump({"rows": list(rows)}))
    return path


def results(out: str = "runs/bench/mine") -> dict:
    return json.loads(Path(out, "results.json").read_text())


def statuses(out: str = "runs/bench/mine") -> dict[str, str]:
    return {row["name"]: row["status"] for row in results(out)["rows"]}


# ---- suites


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_are_sound(name):
    rows = load_suite(name).rows
    assert rows
    for row in rows:
        if name == "ablation":
            assert (row.seeds, row.policy, row.bar) == (5, "final", None)  # the end shows what became unstable
        elif name != "smoke":
            assert row.episodes == (1000 if row.env == "FrozenLake-v1" else 100)
            assert row.seeds == 5 or (row.seeds == 1 and row.steps >= 1_000_000)  # of those that take hours
            on_policy = row.algo in ("bc", "reinforce", "actor_critic", "a2c", "a3c", "ppo", "trpo", "grpo")
            assert row.policy == ("final" if on_policy else "best")


def test_defaults_and_protocol_fill_a_row(folder):
    row = {key: ROW[key] for key in ("name", "algo", "env", "bar", "source")}
    text = yaml.safe_dump({"defaults": {"steps": 1000, "policy": "best"}, "rows": [row]})
    Path("s.yaml").write_text(text.replace("steps: 1000", "steps: 1e3"))  # a number here, as on the command line
    (read,) = load_suite("s.yaml").rows
    assert (read.steps, read.seeds, read.episodes, read.policy, read.overrides) == (1000, 5, 100, "best", [])
    assert load_suite("s.yaml", seeds=3).rows[0].seeds == 3
    assert read.command == (
        "deeprl train algo=ppo env=CartPole-v1 total_steps=1000 seeds=5 eval.final_episodes=100 eval.episodes=10"
    )


def test_another_version_of_the_environments(folder):
    """Without the bar, which is the other version's, and in a folder of its own; an id without a version stays."""
    rows = [{**ROW, "env": "HalfCheetah-v4", "source": "a paper"}, {**ROW, "name": "other", "env": "my_module:Mine"}]
    Path("v.yaml").write_text(yaml.safe_dump({"rows": rows}))
    read = load_suite("v.yaml", env_version="v5")
    assert read.name == "v-v5"
    assert [row.env for row in read.rows] == ["HalfCheetah-v5", "my_module:Mine"]
    assert (read.rows[0].bar, read.rows[0].source) == (None, "of v4: a paper")
    assert read.rows[1].bar is not None
    same = load_suite("v.yaml", env_version="v4").rows[0]
    assert (same.env, same.bar) == ("HalfCheetah-v4", ROW["bar"])
    with pytest.raises(UserError, match="write v5"):
        load_suite("v.yaml", env_version="5")
    with pytest.raises(UserError, match="--env-version v9: unknown environment 'HalfCheetah-v9'"):
        load_suite("v.yaml", env_version="v9")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stesp": 5}, "mine.yaml: unknown key 'ppo-small.stesp'; did you mean 'steps'?"),
        ({"steps": "many"}, "mine.yaml: ppo-small.steps=many: must be a whole number"),
        ({"seeds": 0}, "mine.yaml: ppo-small.seeds=0: must be at least 1"),
        ({"policy": "last"}, "ppo-small.policy=last: must be one of final, best"),
        ({"bar": "high"}, "ppo-small.bar=high: must be a number or null"),
        ({"bar": float("inf")}, "ppo-small.bar=inf: must be a finite number"),
        ({"direction": "at most"}, "ppo-small.direction=at most: must be one of at least"),
        ({"overrides": "network=mlp"}, "ppo-small.overrides=network=mlp: must be a list"),
        ({"overrides": ["seeds=3"]}, "'seeds=3': leave it out, write `seeds: …` in the row"),
        ({"overrides": ["seed=3"], "together": False}, "'seed=3': leave it out, seeds apart count from 0"),
        ({"overrides": ["run_dir=x"]}, "'run_dir=x': leave it out, the bench chooses the folder"),
        ({"overrides": ["--multirun"]}, "'--multirun': must be key=value"),
        ({"name": "a/b"}, "'a/b' can't name a folder"),
        ({"name": None}, "mine.yaml: row 1 has no name"),
        ({"init_from": "ppo-small"}, "ppo-small.init_from=ppo-small: no row above has this name"),
        ({"source": ...}, "ppo-small.source is missing: write `source: …` in row 'ppo-small'"),
    ],
)
def test_a_wrong_row_is_refused_in_one_line(folder, capsys, change, says):
    row = {key: value for key, value in {**ROW, **change}.items() if value is not ...}
    assert code(suite(row)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deeprl: ")
    assert says in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rows: [", "s.yaml: not valid YAML at line 1"),
        ("- a\n", "s.yaml: not a suite"),
        ("rows: []\n", "s.yaml: has no rows"),
        ("rowz: []\n", "s.yaml: unknown key 'rowz'; did you mean 'rows'?"),
        ("rows: !!python/object/apply:os.getcwd []\n", "s.yaml: not valid YAML at line 1"),
        ("defaults: [1]\nrows: [{name: a}]\n", "s.yaml: defaults=[1]: must be keys and values"),
    ],
)
def test_broken_files_are_named(folder, capsys, text, says):
    Path("s.yaml").write_text(text)
    assert code("s.yaml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.slow
def test_seeds_one_after_the_other(folder):
    """`together: false`: a run for each seed, one row in the table; those done aren't run again."""
    mine = suite({**ROW, "together": False})
    (row,) = load_suite(mine).rows
    assert row.command.startswith("deeprl train -m algo=ppo env=CartPole-v1 ")
    assert row.command.endswith(" seed=0,1")
    assert "seeds=" not in row.command
    assert code(mine) == 0
    (record,) = results()["rows"]
    assert (record["name"], record["seeds"], record["status"]) == ("ppo-small", 2, "pass")
    folders = [Path("runs/bench/mine/ppo-small", f"seed_{k}") for k in (0, 1)]
    summaries = [json.loads((seed / "run" / "summary.json").read_text()) for seed in folders]
    assert [summary["seeds"] for summary in summaries] == [[0], [1]]
    assert record["final"]["returns"] == [summary["eval"]["return_mean"][0] for summary in summaries]
    assert record["wall_seconds"] == pytest.approx(sum(summary["wall_seconds"] for summary in summaries))
    (folders[1] / "run" / "summary.json").write_text(json.dumps({**summaries[1], "status": "interrupted"}))
    written = (folders[0] / "train.log").stat().st_mtime_ns
    assert code(mine, "--only", "ppo-*") == 0
    assert (folders[0] / "train.log").stat().st_mtime_ns == written
    assert statuses() == {"ppo-small": "pass"}


def test_a_row_of_seeds_apart_without_one_of_them(folder):
    """It has no result, and says which seed lacks one."""
    mine = suite({**ROW, "together": False})
    (row,) = load_suite(mine).rows
    done = {"run": "x", "final": {"returns": [9.0]}, "best": {"returns": [9.0]}, "steps_per_second": 1.0}
    parts = [{**done, "name": "ppo-small/seed_0", "wall_seconds": 1.0}]
    parts.append(bench_report.unfinished(row.parts()[1], bench_report.CRASHED, "exit code 1"))
    record = bench_report.joined(row, parts, Path("x"))
    assert (record["name"], record["status"], record["reason"]) == ("ppo-small", "crashed", "seed_1: exit code 1")
    assert "run" not in record


def test_weights_of_seeds_apart_start_nothing(folder):
    first = {**ROW, "together": False}
    with pytest.raises(UserError, match="needs together: true"):
        load_suite(suite(first, {**ROW, "name": "second", "init_from": "ppo-small"}))


def test_two_rows_of_one_name_are_refused(folder):
    with pytest.raises(UserError, match="two rows are called 'ppo-small'"):
        load_suite(suite(ROW, ROW))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["clasic"], "unknown suite 'clasic'; did you mean 'classic'?; there are ablation, box2d, classic,"),
        (["none.yaml"], "none.yaml: no such file"),
        ([], "required: SUITE"),
        (["smoke", "--only", "dqn-cartpol"], "fits no row; did you mean 'dqn-cartpole'?; there are ppo-cartpole"),
        (["smoke", "--jobs", "0"], "'0' is not a whole number"),
    ],
)
def test_usage(folder, capsys, arguments, says):
    assert code(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_patterns_choose_rows():
    smoke = load_suite("smoke")
    assert [row.name for row in choose(smoke, ["dqn-*"])] == ["dqn-cartpole"]
    assert len(choose(smoke, ["dqn-*", "*cartpole"])) == len(smoke.rows) == len(choose(smoke, []))


# ---- verdicts


@pytest.mark.parametrize(
    ("returns", "bar", "verdict"),
    [
        ([100, 100, 100, 100, 100], 100, True),
        ([110, 110, 110, 90, 80], 100, True),  # mean 100, the fifth may be anywhere
        ([130, 130, 130, 89, 89], 100, False),  # mean above, but two seeds are too far below
        ([99, 99, 99, 99, 99], 100, False),
        ([-150, -160, -219, -200, -200], -200, True),  # 10% of |bar| below -200 is -220
        ([-150, -160, -221, -221, -200], -200, False),
        ([500, 500, 500, 500, float("nan")], 100, False),
        ([100.0], 100, True),
        ([100, 120, 70], 90, False),  # of three seeds, all: 80% rounded up
        ([0.0, 0.0], 0.0, True),
    ],
)
def test_the_pass_rule(returns, bar, verdict):
    assert bench_report.passes(returns, bar) is verdict


def test_a_return_that_is_not_finite_has_no_mean():
    found = bench_report.estimates([1.0, None])
    assert found == {"returns": [1.0, None], "mean": None, "mean_ci95": [None] * 2, "iqm": None, "iqm_ci95": [None] * 2}


# ---- running


def test_a_real_row(folder, capsys):
    out = "runs here/it's"
    assert code(suite(ROW), "--out", out, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == results(out)
    assert "[1/1] ppo-small: deeprl train algo=ppo env=CartPole-v1" in printed.err
    summary = json.loads(Path(out, "ppo-small", "run", "summary.json").read_text())
    (row,) = results(out)["rows"]
    assert row["final"]["returns"] == summary["eval"]["return_mean"]
    assert row["best"]["returns"] == summary["eval"]["best_return_mean"]
    assert row["final"]["mean_ci95"][0] <= row["final"]["mean"] <= row["final"]["mean_ci95"][1]
    assert (row["status"], row["near"], row["near_needed"], row["seeds"]) == ("pass", 2, 2, 2)
    assert f"`{row['command']}`" in Path(out, "results.md").read_text()
    assert "step 128/128" in Path(out, "ppo-small", "train.log").read_text()


# in place of `deeprl train`: a run whose seed k returns (10 + k) for the final policy, (20 + k) for the best
STAND_IN = """
import json, pathlib, sys, time
values = dict(argument.split("=", 1) for argument in sys.argv[1:])
if "env.kwargs.nonsense" in values:
    sys.exit("ZeroDivisionError: diverged")
if values["algo"] == "dqn":
    print("deeprl: algo=dqn takes Discrete actions", file=sys.stderr)
    sys.exit(2)
run = pathlib.Path(values["run_dir"].strip("'"))
run.mkdir(parents=True)
(run / "arguments.json").write_text(json.dumps(values))
seeds = range(int(values["seeds"]))
evaluation = {"return_mean": [10 + k for k in seeds], "best_return_mean": [20 + k for k in seeds]}
summary = {"status": "finished", "eval": evaluation, "steps_per_second": 5.0, "wall_seconds": time.time()}
(run / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def stand_in(folder, monkeypatch):
    (folder / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(bench, "TRAIN", (sys.executable, str(folder / "stand_in.py")))
    monkeypatch.setattr(bench, "POLL", 0.02)


def started(capsys) -> list[str]:
    """The rows that were trained since this was last asked."""
    told = capsys.readouterr().out.splitlines()
    return [line.split()[1].rstrip(":") for line in told if line.startswith("[")]


@pytest.mark.usefixtures("stand_in")
def test_a_row_runs_once_and_again_when_it_has_changed(capsys):
    rows = [
        {**ROW, "bar": 11},
        {**ROW, "name": "high", "bar": 21, "policy": "best"},
        {**ROW, "name": "none", "bar": None},
    ]
    assert code(suite(*rows), "--only", "ppo-*", "high") == 1
    assert started(capsys) == ["ppo-small", "high"]
    assert statuses() == {"ppo-small": "miss", "high": "miss", "none": "not run"}
    assert "| **miss** |" in Path("runs/bench/mine/results.md").read_text()
    rows[0]["bar"], rows[1]["bar"] = 10, 20.5  # bars are judged anew, nothing is trained
    assert code(suite(*rows), "--only", "ppo-*", "high") == 0
    assert started(capsys) == []
    assert code(suite(*rows)) == 0
    assert started(capsys) == ["none"]
    assert (results()["counts"], results()["rows"][2]["near"]) == ({"pass": 2, "no bar": 1}, None)
    path = Path("runs/bench/mine/ppo-small/row.json")  # as an older deeprl left it, which had no such keys
    older = json.loads(path.read_text())
    del older["config"]["eval"]["max_steps"], older["config"]["env"]["generators"]
    path.write_text(json.dumps(older))
    assert code(suite(*rows)) == 0
    assert started(capsys) == []
    rows[0]["steps"] = 192
    assert code(suite(*rows)) == 0
    told = capsys.readouterr().out
    assert "ppo-small: changed since it ran (total_steps: 128 -> 192): running it again" in told
    assert told.count("(done before)") == 2
    assert code(suite(*rows), "--seeds", "3", "--only", "none") == 0
    assert started(capsys) == ["none"]
    assert code(suite(*rows), "--fresh", "--only", "ppo-*") == 0
    assert started(capsys) == ["ppo-small"]


@pytest.mark.usefixtures("stand_in")
def test_rows_side_by_side_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)), raising=False)
    own = {**ROW, "name": "own", "overrides": [*SMALL, "hardware.threads=7"]}
    assert code(suite(ROW, own), "--jobs", "2") == 0
    threads = [
        json.loads(Path("runs/bench/mine", row, "run", "arguments.json").read_text())["hardware.threads"]
        for row in ("ppo-small", "own")
    ]
    assert threads == ["4", "7"]


@pytest.mark.usefixtures("stand_in")
def test_a_row_starts_from_one_above_it(folder, capsys):
    rows = [dict(ROW), {**ROW, "name": "second", "init_from": "ppo-small"}]
    assert code(suite(*rows), "--only", "second", "--jobs", "2") == 0
    assert started(capsys) == ["ppo-small", "second"]
    arguments = json.loads(Path("runs/bench/mine/second/run/arguments.json").read_text())
    assert arguments["init_from"] == f"'{folder / 'runs/bench/mine/ppo-small/run'}'"
    assert code(suite(*rows)) == 0
    assert started(capsys) == []
    rows[0]["steps"] = 192
    assert code(suite(*rows), "--only", "ppo-small") == 0
    assert statuses() == {"ppo-small": "pass", "second": "not run"}
    capsys.readouterr()
    assert code(suite(*rows)) == 0
    assert "second: the run it starts from is another now: running it again" in capsys.readouterr().out
    rows[0]["overrides"] = ["algo.gama=1"]
    assert code(suite(*rows), "--fresh") == 1
    assert "second: refused: ppo-small, which it starts from, has no result" in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_rows_that_cant_be_run_dont_keep_the_others(capsys):
    rows = [
        {**ROW, "name": "misspelt", "overrides": [*SMALL, "algo.gama=1"]},
        {**ROW, "name": "unfit", "env": "Pendulum-v1", "algo": "dqn", "overrides": []},
        {**ROW, "name": "broken", "overrides": [*SMALL, "env.kwargs.nonsense=1"]},
        {**ROW, "name": "no-best", "policy": "best", "overrides": [*SMALL[:2], "eval.every=0"]},
        ROW,
    ]
    assert code(suite(*rows), "--seeds", "1") == 1
    told = capsys.readouterr().out
    assert list(statuses().values()) == ["refused", "refused", "crashed", "refused", "pass"]
    assert "misspelt: refused: unknown key 'algo.gama'; did you mean 'algo.gamma'?" in told
    assert "unfit: refused: algo=dqn takes Discrete actions" in told
    assert "broken: crashed: exit code 1: ZeroDivisionError: diverged" in told
    assert "no-best: refused: policy: best needs evaluations" in told
    assert results()["rows"][4]["final"]["mean_ci95"] == [None, None]  # of one seed
    assert code(suite(*rows), "--seeds", "1", "--only", "broken") == 1
    assert "broken: has not come to its end: running it again" in capsys.readouterr().out


def test_a_folder_that_is_not_a_bench_s_is_left_alone(folder, capsys):
    Path("runs/bench/mine/ppo-small/run").mkdir(parents=True)
    assert code(suite(ROW)) == 2
    assert "no bench made this folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals and locks")
def test_ctrl_c_ends_the_row_and_the_next_time_goes_on(folder):
    slow = {**ROW, "name": "slow", "steps": 1_000_000}
    name = suite(slow, {**ROW, "name": "later"})
    command = [sys.executable, "-m", "deeprl_cli", "bench", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = Path("runs/bench/mine/slow/run/seed_0/metrics.csv")
    end = time.monotonic() + 60
    while time.monotonic() < end and not metrics.exists():
        time.sleep(0.1)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another deeprl bench is at work here" in second.stderr
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert statuses() == {"slow": "stopped", "later": "not run"}
    assert json.loads(Path("runs/bench/mine/slow/run/summary.json").read_text())["status"] == "interrupted"
    (row,) = choose(load_suite(name), ["slow"])
    folder, plan = Path("runs/bench/mine/slow"), bench_plan.plan_of(row, Path())
    assert bench_plan.stale(folder, plan) == "interrupted last time"
    assert bench_plan.half_done(folder, plan)
    assert not bench_plan.half_done(folder, {**plan, "config": {**plan["config"], "total_steps": 7}})

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log, end = folder / "train.log", time.monotonic() + 60
    while time.monotonic() < end and "goes on from step" not in log.read_text():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert "slow: interrupted last time: going on with it" in told
    assert "goes on from step" in log.read_text()


def test_another_version_s_result_does_not_count(folder):
    plan = bench_plan.plan_of(load_suite(suite(ROW)).rows[0], Path())
    Path("row").mkdir()
    Path("row/row.json").write_text(json.dumps({**plan, "deeprl": "0.0.1"}))
    assert bench_plan.stale(Path("row"), plan).startswith("its result is of deeprl 0.0.1, this is ")
    Path("row/row.json").write_text("{")
    assert bench_plan.stale(Path("row"), plan) == ""


# ---- the command line around it


def test_suites_are_no_group_of_the_configuration(capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "deeprl train b")
    main(["-sc", "query=bash"])
    assert "bench" not in capsys.readouterr().out
    monkeypatch.setenv("COMP_LINE", "deeprl bench s")
    main(["-sc", "query=bash"])
    assert capsys.readouterr().out.strip() == "smoke"
    main(["train", "--help"])
    assert "bench" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "bench=smoke"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_torch_in_the_benching_process():
    modules = "deeprl_cli.bench.runner, deeprl_cli.reports.picture"
    program = f"import sys; import {modules}; assert not {{'torch', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
