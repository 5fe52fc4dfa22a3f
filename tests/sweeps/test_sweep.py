"""`deeprl train -m`: all jobs checked before the first, failures reported at once, what became of each on record."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path

import pytest

from deeprl_cli.cli import main
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.sweeps import table as sweep_table


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Stand-ins for what checks and trains, in an empty working directory; the configurations they were given."""
    monkeypatch.chdir(tmp_path)
    runs = []

    def preflight(cfg, seen):
        runs.append(("preflight", cfg))
        if cfg.algo.name == "sac" and "Pendulum" not in cfg.env.id:
            raise ConfigError(f"algo=sac takes Box actions, but {cfg.env.id} has Discrete actions")

    def train(cfg, seen, *, advise):
        assert not advise  # what to type next is the sweep's to say
        runs.append(("train", cfg))
        if cfg.seed == 13:
            raise RuntimeError("diverged")
        if cfg.seed == 14:
            raise UserError("the disk is full")
        if cfg.seed == 15:
            raise SystemExit(130)
        if cfg.seed == 16:
            raise SystemExit(3)
        run = Path(cfg.run_dir)
        run.mkdir(parents=True, exist_ok=True)
        means = {"return_mean": [cfg.seed, cfg.seed + 1.0], "best_return_mean": [9.0, 10.0]}
        seeds = [cfg.seed, cfg.seed + 100]
        (run / "summary.json").write_text(json.dumps({"eval": means, "seeds": seeds, "wall_seconds": 61.04}))
        return run

    checks, trains = types.ModuleType("deeprl_cli.training.preflight"), types.ModuleType("deeprl_cli.training.run")
    checks.preflight, trains.train = preflight, train
    for module in (checks, trains):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return runs


def code(*arguments: str) -> int:
    try:
        main(["train", "-m", *arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def record() -> list[dict]:
    (path,) = Path("runs/sweeps").glob("*/sweep.json")
    return json.loads(path.read_text())["jobs"]


def test_every_job_is_checked_before_the_first_runs(trained, capsys):
    assert code("algo=ppo,dqn", "seed=0,1", "env=Acrobot-v1") == 0
    assert [what for what, _ in trained] == ["preflight"] * 4 + ["train"] * 4
    assert [(cfg.algo.name, cfg.seed) for what, cfg in trained if what == "train"] == [
        ("ppo", 0),
        ("ppo", 1),
        ("dqn", 0),
        ("dqn", 1),
    ]
    assert "[3/4] algo=dqn seed=0 env=Acrobot-v1" in capsys.readouterr().out
    last = record()[3]
    assert Path(last.pop("run")).name == "dqn_seed=1"
    assert last == {
        "overrides": ["algo=dqn", "seed=1", "env=Acrobot-v1"],
        "status": "done",
        "seeds": [1, 101],
        "last_returns": [1, 2.0],
        "best_returns": [9.0, 10.0],
        "return": 1.5,
        "best_return": 9.5,
        "seconds": 61.0,
    }


def test_a_key_of_one_algorithm_only_is_looked_at_in_the_jobs(trained):
    """hydra-ecosystem/hydra #2888: a fixed override isn't checked against the default algorithm."""
    assert code("algo=sac", "env=Pendulum-v1", "algo.lr_actor=0.1", "seed=0,1") == 0
    assert [cfg.algo.lr_actor for what, cfg in trained if what == "train"] == [0.1, 0.1]


def test_jobs_that_cant_run_are_named_and_nothing_is_written(trained, capsys):
    assert code("algo=ppo,sac", "algo.clip_schedule=linear", "seed=0,1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        "deeprl: algo=sac algo.clip_schedule=linear seed=0: unknown key 'algo.clip_schedule': algo=sac doesn't have it"
    )
    assert lines[-1] == "deeprl: 2 of 4 runs can't start, so none was started"
    assert code("algo=ppo,sac", "seed=0") == 2
    assert "algo=sac seed=0: algo=sac takes Box actions" in capsys.readouterr().err
    assert not list(Path().iterdir())
    assert "train" not in [what for what, _ in trained]


def test_what_is_wrong_with_all_jobs_is_said_once(trained, capsys):
    assert code("algo=ppo,dqn", "algo.gama=0.5") == 2
    assert capsys.readouterr().err == "deeprl: unknown key 'algo.gama'; did you mean 'algo.gamma'?\n"


def test_many_refusals_are_counted(trained, capsys):
    assert code("algo=sac,ppo", "seed=range(12)") == 2
    assert "deeprl: … and 2 more" in capsys.readouterr().err.splitlines()


def test_a_failing_job_is_reported_at_once_and_the_others_go_on(trained, capsys):
    assert code("seed=0,13,14,1") == 1
    printed = capsys.readouterr()
    assert [job["status"] for job in record()] == ["done", "failed", "failed", "done"]
    assert record()[1]["error"] == "RuntimeError: diverged"
    lines = printed.err.splitlines()
    assert lines[0] == "deeprl: failed: seed=13"
    assert lines[-2] == "RuntimeError: diverged"
    assert lines[-1] == "deeprl: failed: seed=14: the disk is full"  # what the user can mend needs no traceback
    assert printed.err.count("Traceback") == 1
    assert printed.err.count("RuntimeError: diverged") == 1
    assert not list(Path("runs/ppo").glob("*/*/config.yaml"))
    assert "run" not in record()[1]  # it has left no folder


def test_a_run_that_leaves_with_another_code_has_failed(trained):
    assert code("seed=16,0") == 1
    assert [job["status"] for job in record()] == ["failed", "done"]
    assert record()[0]["error"] == "ended with exit code 3"


def test_an_interruption_ends_the_sweep(trained, capsys):
    assert code("seed=0,15,1") == 130
    assert [job["status"] for job in record()] == ["done", "stopped", "waiting"]
    told = [(row["seed"], row["status"]) for row in table("run")]
    assert told == [("0", "done"), ("15", "stopped"), ("1", "waiting")]
    assert "1 of 3 runs done" in capsys.readouterr().out


# ---- the table


def table(kind: str) -> list[dict]:
    """The rows of sweep.csv that are of a setting, or of a run."""
    (path,) = Path("runs/sweeps").glob("*/sweep.csv")
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["row"] == kind]


def test_the_table_has_a_row_for_each_setting_and_those_of_the_runs_behind(trained, capsys):
    assert code("env=CartPole-v1", "seed=0,13,2", "algo=ppo,a2c") == 1
    settings, runs = table("setting"), table("run")
    assert list(runs[0]) == [
        *("row", "algo", "seed", "seeds", "return", "return_iqm", "return_low", "return_high"),
        *("best_return", "best_return_iqm", "best_return_low", "best_return_high"),
        *("seconds", "verdict", "status", "run", "error"),
    ]
    # of both, seeds 0, 100, 2 and 102 earn 0, 1, 2 and 3
    told = [[row[key] for key in ("algo", "seeds", "return", "return_iqm", "verdict", "status")] for row in settings]
    assert told == [["ppo", "4", "1.5", "1.5", "best", "1 failed"], ["a2c", "4", "1.5", "1.5", "≈ best", "1 failed"]]
    assert [float(settings[0][key]) for key in ("best_return", "seconds")] == [9.5, 122.0]
    assert float(settings[0]["return_low"]) < 1.5 < float(settings[0]["return_high"])
    assert [(row["seed"], row["return"], row["status"]) for row in runs] == [
        ("2", "2.5", "done"),
        ("2", "2.5", "done"),
        ("0", "0.5", "done"),
        ("0", "0.5", "done"),
        ("13", "", "failed"),
        ("13", "", "failed"),
    ]
    assert runs[0]["best_return"] == "9.5"
    assert Path(runs[0]["run"]).name == "seed=2_ppo"
    assert runs[-1]["error"] == "RuntimeError: diverged"
    shown = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(shown) if line.startswith("algo  seeds"))
    assert shown[header + 1].split()[:3] == ["ppo", "4", "1.5"]
    assert shown[header + 3] == "failed: seed=13 ppo: RuntimeError: diverged"
    assert shown[header + 5] == "best: ppo (IQM 1.5 of 4 seeds); can't be told apart from it: a2c"
    (markdown,) = Path("runs/sweeps").glob("*/sweep.md")
    assert "| algo | seeds | return, IQM |" in markdown.read_text()


def test_environments_are_not_compared(trained):
    assert code("env=CartPole-v1,Acrobot-v1", "seed=0,2") == 0
    assert [(row["env"], row["verdict"]) for row in table("setting")] == [
        ("CartPole-v1", "best"),
        ("Acrobot-v1", "best"),
    ]
    assert [(row["env"], row["seed"]) for row in table("run")] == [
        ("CartPole-v1", "2"),
        ("CartPole-v1", "0"),
        ("Acrobot-v1", "2"),
        ("Acrobot-v1", "0"),
    ]


def test_what_rich_takes_for_markup_is_shown_as_it_is(capsys):
    sweep_table.show([{"overrides": ["a=[b]"], "status": "failed", "error": "no [/red] here\nand more"}])
    told = capsys.readouterr().out
    assert "no [/red] here" in told
    assert "and more" not in told


def test_more_configurations_are_found_by_the_jobs_too(trained, tmp_path):
    """hydra.searchpath is Hydra's own setting, and yet part of every job's configuration."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "long.yaml").write_text("# @package _global_\ntotal_steps: 77\n")
    assert code(f"hydra.searchpath=[file://{tmp_path}/mine]", "experiment=long", "seed=0,1") == 0
    assert [cfg.total_steps for what, cfg in trained if what == "train"] == [77, 77]


def test_one_run_dir_for_several_runs_is_refused(trained, capsys):
    assert code("run_dir=here", "seed=0,1") == 2
    assert "run_dir=here would be one folder for 2 runs" in capsys.readouterr().err
    Path("a").mkdir(), Path("b").mkdir()
    assert code("run_dir=a,b") == 0


def test_sweeps_of_one_second_don_t_share_a_folder(trained):
    assert code("seed=0,1", "hydra.sweep.dir=sweeps/x") == 0
    assert code("seed=0,1", "hydra.sweep.dir=sweeps/x") == 0
    assert sorted(path.name for path in Path("sweeps").iterdir()) == ["x", "x_2"]
    left = ["seed=0", "seed=1", "sweep.csv", "sweep.json", "sweep.md"]
    assert sorted(path.name for path in Path("sweeps/x").iterdir()) == [".lock", *left]


def test_an_explicit_launcher_runs_the_same_jobs(trained, capsys):
    assert code("hydra/launcher=basic", "algo=ppo,dqn", "seed=1,13") == 1
    assert [job["status"] for job in record()] == ["done", "failed", "done", "failed"]
    assert Path(record()[2]["run"]).name == "dqn_seed=1"
    assert code("hydra/launcher=basik", "seed=1,2") == 2
    assert "hydra/launcher" in capsys.readouterr().err.splitlines()[-1]
