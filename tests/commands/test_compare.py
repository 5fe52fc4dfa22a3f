"""`deeprl compare` and `deeprl list runs`, over run folders as training leaves them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from deeprl_cli.cli import main
from deeprl_cli.runs.lock import locked


def make_run(
    folder: str, returns: list[float] | None, env: str = "CartPole-v1", episodes: int = 100, first: int = 0, **keys
) -> Path:
    run = Path(folder)
    run.mkdir(parents=True)
    seeds = list(range(first, first + len(returns or [0])))
    config = {
        "format": 4,
        "algo": {"name": "ppo", "lr": 0.1},
        "env": {"id": env, "kwargs": {}},
        "eval": {"final_episodes": episodes, "max_steps": 10_000},
        "seed": first,
        "seeds": len(seeds),
        "total_steps": 1000,
        "name": None,
        "tags": [],
        **keys,
        "resolved": {},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for seed in seeds:
        (run / f"seed_{seed}").mkdir()
        (run / f"seed_{seed}" / "metrics.csv").write_text(f"step,eval/return_mean\n200,1\n400,{seed}\n600,\n80")
    if returns is not None:
        told = {"return_mean": returns, "best_return_mean": [value + 5 for value in returns]}
        summary = {"status": "finished", "seeds": seeds, "total_steps": 1000, "wall_seconds": 1.0, "eval": told}
        (run / "summary.json").write_text(json.dumps(summary))
    return run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code
    return 0


# ---- compare


def test_a_clear_difference_and_its_picture(capsys):
    make_run("runs/a/1", [10.0, 11.0, 12.0])
    make_run("runs/b/1", [1.0, 2.0, 3.0])
    assert code("compare", "runs/a", "--against", "runs/b", "--out", "new folder/p.svg") == 0
    told = capsys.readouterr().out
    assert "difference of IQM       9 [" in told
    assert "P(first earns more)     1 [1, 1]" in told
    assert "the first earns more (Yuen's test, p = 0.0" in told
    assert Path("new folder/p.svg").read_text().startswith("<?xml")


def test_the_first_is_held_against_the_others_and_json_has_numbers(capsys):
    make_run("runs/a", [10.0, 12.0])
    make_run("runs/b", [9.0], first=0)
    make_run("runs/c", [11.5], first=1)
    assert code("compare", "runs/a", "runs/b", "runs/c", "--json", "--by", "best") == 0
    (one,) = json.loads(capsys.readouterr().out)["environments"]
    assert one["first"]["returns"] == [15.0, 17.0]
    assert one["second"]["returns"] == [14.0, 16.5]  # the seeds of both
    assert one["difference"] == 0.75
    assert one["probability_of_improvement"][0] == 0.75
    assert one["seeds_to_settle"] > 2
    assert not list(Path().glob("*.png"))


def test_a_seed_trained_twice_counts_once_and_one_seed_says_nothing(capsys):
    make_run("runs/a/1", [10.0])
    make_run("runs/a/2", [10.0])
    make_run("runs/b/1", [1.0])
    assert code("compare", "runs/a", "--against", "runs/b", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["environments"]
    assert (one["first"]["returns"], one["p"], one["difference_ci95"]) == ([10.0], None, [None, None])


def test_environments_one_by_one_and_together(capsys):
    for name, shift in (("a", 0.0), ("b", 1.0)):
        make_run(f"runs/{name}/1", [1.0 + shift, 2.0 + shift])
        make_run(f"runs/{name}/2", [10.0 - shift, 20.0 - shift], env="Acrobot-v1")
    make_run("runs/b/3", [1.0], env="Taxi-v3")
    assert code("compare", "runs/a", "--against", "runs/b") == 0
    printed = capsys.readouterr()
    assert "over 2 environments: P(first earns more) 0.4375" in printed.out  # (1/8 + 3/4) / 2
    assert "left out, because only one side has it: Taxi-v3" in printed.err


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"episodes": 10}, "not evaluated alike: eval.final_episodes is 100 and 10"),
        ({"env": "Acrobot-v1"}, "no environment in common: CartPole-v1 against Acrobot-v1"),
    ],
)
def test_what_cannot_be_compared(capsys, other, says):
    make_run("runs/a", [1.0, 2.0])
    make_run("runs/b", [1.0, 2.0], **other)
    assert code("compare", "runs/a", "--against", "runs/b") == 2
    assert says in capsys.readouterr().err


def test_other_arguments_of_the_environment_are_another_protocol(capsys):
    make_run("runs/a", [1.0, 2.0])
    run = make_run("runs/b", [1.0, 2.0])
    text = (run / "config.yaml").read_text().replace("kwargs: {}", "kwargs: {sutton: true}")
    (run / "config.yaml").write_text(text)
    assert code("compare", "runs/a", "runs/b") == 2
    assert "env.kwargs.sutton is null and true" in capsys.readouterr().err


def test_nothing_to_compare(capsys):
    make_run("runs/a", [1.0, 2.0])
    make_run("runs/b", None)
    assert code("compare", "runs/a") == 2
    assert code("compare", "runs/a", "runs/b") == 2
    err = capsys.readouterr().err
    assert "nothing to compare with" in err
    assert "runs/b: no finished run there" in err
    assert code("compare", "runs/a", "runs/a", "--out", "x.gif") == 2


# ---- list runs


def test_list_runs(capsys):
    make_run("runs/ppo/CartPole-v1/2026-01-01_00-00-00", [10.0, 20.0], name="base", tags=["paper"])
    going = make_run("runs/ppo/CartPole-v1/2026-01-02_00-00-00", None)
    make_run("runs/sac/Pendulum-v1/2026-01-03_00-00-00", None, env="Pendulum-v1")
    for age, config in enumerate(sorted(Path("runs").rglob("config.yaml"))):
        os.utime(config, (1000 + age, 1000 + age))
    with locked(going):
        assert code("list", "runs", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert [one["status"] for one in told] == ["running", "killed", "finished"]
        assert (told[0]["steps"], told[0]["return"], told[0]["total_steps"]) == (600, 0.0, 1000)
        assert (told[2]["steps"], told[2]["return"], told[2]["name"], told[2]["tags"]) == (
            1000,
            15.0,
            "base",
            ["paper"],
        )
        assert code("list", "runs", "--sort", "return") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["status", "name", "algo", "env", "seeds", "steps", "return", "age", "run"]
    assert lines[1].split()[:8] == ["finished", "base", "#paper", "ppo", "CartPole-v1", "2", "1,000", "15"]
    assert "600 of 1,000" in lines[2]
    assert code("list", "runs", "paper") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_list_runs_in_a_narrow_terminal(capsys, monkeypatch):
    """Columns are left out before a run's path would break."""
    make_run("runs/ppo/CartPole-v1/2026-01-02_03-04-05", [1.0])
    monkeypatch.setattr("deeprl_cli.commands.list_runs._PIPED_WIDTH", 56)
    assert code("list", "runs") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["status", "return", "run"]
    assert second.split()[-1] == "ppo/CartPole-v1/2026-01-02_03-04-05"


def test_list_runs_where_there_is_none(capsys):
    assert code("list", "runs") == 2
    assert "no run below runs/ here: deeprl train … begins one" in capsys.readouterr().err
    make_run("runs/a", [1.0])
    assert code("list", "runs", "zzz") == 2
    assert code("list", "algos", "--json") == 2
    err = capsys.readouterr().err
    assert "no run contains 'zzz'" in err
    assert "--sort and --json are for runs" in err
