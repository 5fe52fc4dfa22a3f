"""`stop.…` and `checkpoint.history`: runs that end before their `total_steps`, and weights that are kept for good."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from deeprl_cli.cli import main
from deeprl_cli.commands.eval import Wanted, evaluate_run
from deeprl_cli.commands.resume import resume
from deeprl_cli.commands.verify import verify
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.runs.overview import overview
from deeprl_cli.runs.tensor_files import load_weights
from deeprl_cli.runs.weights import history_path, history_steps
from deeprl_cli.schema.course import NEVER, StopConfig
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.run import train
from deeprl_cli.training.stopping import out_of_time, reached, release
from tests.contract.harness import short_run, trained

EVALUATED = ["eval.every=48", "seeds=2"]
ARGUMENTS = {
    "algo": "ppo",
    "env": "CartPole-v1",
    "tuned": "none",
    "algo.num_envs": 2,
    "algo.rollout_length": 16,
    "algo.batch_size": 16,
    "algo.epochs": 1,
    "algo.hidden": "[8]",
    "hardware.compile": "false",
    "hardware.threads": 1,
    "total_steps": 240,
    "eval.every": 48,
    "eval.episodes": 2,
    "eval.final_episodes": 2,
    "log.every": 48,
    "log.tensorboard": "false",
    "env.max_episode_steps": 30,
}


def stop(**values):
    return StopConfig(**{**NEVER, **values})


def chain(run):
    return (run / "weights.sha256").read_text()


def rows(run):
    with (run / "seed_0" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


# ---- when


@pytest.mark.parametrize(
    ("goal", "evaluations", "said"),
    [
        (stop(), [[500.0]], None),
        (stop(return_=475), [[]], None),
        (stop(return_=475), [[475.0]], "stop.return=475: IQM 475.0"),
        (stop(return_=475), [[500.0, 474.9]], None),
        (stop(return_=475), [[500.0], [450.0]], "stop.return=475: IQM 475.0"),  # of two seeds, the mean
        (stop(return_=90), [[0.0], [100.0], [100.0], [80.0]], "stop.return=90: IQM 90.0"),  # the outermost are cut off
        (stop(return_=1, evaluations=2), [[2.0]], None),
        (stop(return_=1, evaluations=2), [[2.0, 0.0, 3.0]], None),
        (stop(return_=1, evaluations=2), [[0.0, 2.0, 3.0]], "stop.return=1: IQM 3.0 in 2 evaluations in a row"),
        (stop(return_=1), [[float("nan")]], None),
        (stop(plateau=2), [[1.0, 0.0]], None),
        (stop(plateau=2), [[1.0, 0.0, 1.0]], "stop.plateau=2: no IQM above 1.0 in 2 evaluations"),
        (stop(plateau=2), [[1.0, 0.0, 1.1]], None),
        (stop(plateau=1), [[float("nan"), 3.0]], None),
    ],
)
def test_when_a_goal_is_reached(goal, evaluations, said):
    assert reached(goal, evaluations) == said


def test_the_time_is_the_whole_runs():
    assert out_of_time(stop(minutes=0.5), 29.9) is None
    assert out_of_time(stop(minutes=0.5), 30.0) == "stop.minutes=0.5: the time is over"
    assert out_of_time(stop(), 1e9) is None
    assert release("stop.minutes=0.5: the time is over") == "stop.minutes=null"


def test_goals_need_evaluations(tmp_path):
    with pytest.raises(ConfigError, match=r"stop.return=9 needs evaluations, and with eval.every=0 there are none"):
        preflight(short_run("ppo", tmp_path / "run", "stop.return=9", "eval.every=0"))
    with pytest.raises(ConfigError, match=r"stop.minutes=0: must be greater than 0"):
        load_config(["stop.minutes=0"])


# ---- whole runs


@pytest.fixture(scope="module", params=["ppo", "dqn", "reinforce"])
def runs(request, tmp_path_factory):
    """One that ended at its second evaluation, and one that never stopped."""
    folder = tmp_path_factory.mktemp(request.param)
    options = [*EVALUATED, "checkpoint.history=4"]
    whole, _ = trained(short_run(request.param, folder / "whole", *options))
    ended, _ = trained(short_run(request.param, folder / "ended", *options, "stop.return=-1e9", "stop.evaluations=2"))
    return whole, ended


def test_a_run_that_reaches_its_goal_is_finished_and_goes_on_exactly(runs, capsys):
    whole, run = runs
    summary = read_summary(run)
    assert (summary["status"], summary["reason"].partition(":")[0]) == ("finished", "stop.return=-1e+09")
    assert summary["total_steps"] < read_summary(whole)["total_steps"]
    assert len(summary["eval"]["return_mean"]) == 2
    assert len(load_checkpoint(run / "checkpoints" / "last").state["evaluations"][0]) == 2
    assert (overview(run)["status"], overview(run)["reason"]) == ("finished", summary["reason"])
    assert verify(run, steps=None, trust=False) == 0  # a goal is no part of what is trained again
    with pytest.raises(UserError, match=r"ended at step \d+ of 240 \(stop.return=.*give stop.return=null"):
        resume(run, [])


def test_asked_to_go_on_it_is_the_run_that_never_stopped(runs):
    whole, run = runs
    resume(run, ["stop.return=null"])
    assert read_summary(run)["reason"] is None
    assert chain(run) == chain(whole)
    assert rows(run) == rows(whole)
    assert history_steps(run) == history_steps(whole)


def test_weights_kept_for_good_are_played(runs):
    whole, _ = runs
    steps = history_steps(whole)
    assert len(steps) == 4
    assert steps[-1] == read_summary(whole)["total_steps"]
    _, meta = load_weights(history_path(whole, steps[0], 1))
    assert meta["step"] == steps[0]
    report, _ = evaluate_run(whole, Wanted(episodes=1, checkpoint=steps[0]))
    assert report["checkpoint"] == steps[0]
    last = evaluate_run(whole, Wanted(episodes=2, checkpoint="last"))[0]["return_mean"]
    assert evaluate_run(whole, Wanted(episodes=2, checkpoint=steps[-1]))[0]["return_mean"] == last
    with pytest.raises(UserError, match=rf"keeps no weights of step 7: there are {steps[0]}, .* and best or last"):
        evaluate_run(whole, Wanted(episodes=1, checkpoint=7))


def test_the_time_ends_a_run(tmp_path):
    run, _ = trained(short_run("ppo", tmp_path / "run", "stop.minutes=1e-6"))
    summary = read_summary(run)
    assert (summary["status"], summary["reason"]) == ("finished", "stop.minutes=1e-06: the time is over")
    assert summary["total_steps"] < 240
    assert summary["eval"] is not None
    resume(run, ["stop.minutes=60"])
    assert read_summary(run)["total_steps"] == 240


def test_a_run_killed_at_its_goal_ends_there_when_it_goes_on(tmp_path):
    """Its last checkpoint is written, and its last words aren't."""
    run, _ = trained(short_run("ppo", tmp_path / "run", *EVALUATED, "stop.return=-1e9"))
    steps, before = read_summary(run)["total_steps"], chain(run)
    (run / "summary.json").unlink()
    resume(run, [])
    assert (read_summary(run)["status"], read_summary(run)["total_steps"]) == ("finished", steps)
    assert read_summary(run)["reason"].startswith("stop.return")
    assert chain(run) == before


def test_of_runs_that_train_as_one_each_ends_at_its_own_goal(tmp_path, monkeypatch):
    """The one that has reached it is finished, as it would be alone, while the other goes on."""
    monkeypatch.chdir(tmp_path)
    own = [f"{key}={value}" for key, value in ARGUMENTS.items()]
    goal = ["stop.return=1", "checkpoint.history=2"]  # Sutton and Barto's rewards are 0 or -1
    swept = ["env.kwargs.sutton_barto_reward=false,true", "hydra/launcher=stacked", "hydra.sweep.dir=sweep"]
    main(["train", "-m", *own, *goal, *swept])
    jobs = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["done", "done"]
    first, second = (Path(job["run"]) for job in jobs)
    assert (read_summary(first)["status"], read_summary(second)["reason"]) == ("finished", None)
    assert read_summary(first)["total_steps"] < read_summary(second)["total_steps"] == 256
    assert len(history_steps(second)) == 2
    alone = train(load_config([*own, *goal, "env.kwargs.sutton_barto_reward=false", "run_dir=alone"]))
    assert read_summary(alone)["reason"] == read_summary(first)["reason"]
    assert read_summary(alone)["eval"] == read_summary(first)["eval"]
    resume(first, ["stop.return=null"])
    assert read_summary(first)["total_steps"] == 256


def test_a_goal_that_is_reached_at_the_end_ends_nothing(tmp_path):
    run, _ = trained(short_run("ppo", tmp_path / "run", "eval.every=240", "total_steps=240", "stop.return=-1e9"))
    assert read_summary(run)["total_steps"] >= 240
    assert read_summary(run)["reason"] is None


@pytest.mark.slow  # processes that start, and load torch
@pytest.mark.parametrize(
    "options", [["hardware.ranks=2"], ["hardware.workers=2", "algo=a3c"]], ids=["ranks", "workers"]
)
def test_several_processes_end_at_their_goal(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = ARGUMENTS | {"total_steps": 100_000, "checkpoint.history": 5000}
    if "algo=a3c" in options:
        own = {key: value for key, value in own.items() if key not in ("algo.batch_size", "algo.epochs", "algo")}
    goal = ["stop.return=0", "stop.evaluations=2", "hardware=multiprocess", "run_dir=run"]
    main(["train", *(f"{key}={value}" for key, value in own.items()), *options, *goal])
    summary = read_summary(Path("run"))
    assert (summary["status"], summary["reason"].partition("=")[0]) == ("finished", "stop.return")
    assert summary["total_steps"] < 100_000
    kept = history_steps(Path("run"))
    assert kept
    assert kept[-1] <= summary["total_steps"]
