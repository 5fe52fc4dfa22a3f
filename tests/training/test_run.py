"""A whole run, in this process and as a command: what it leaves, how it ends, and what TensorBoard reads of it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import gymnasium
import pytest

from deeprl_cli.commands.eval import Wanted, evaluate_run
from deeprl_cli.commands.resume import resume
from deeprl_cli.commands.verify import verify
from deeprl_cli.config.changes import changed
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.envs.testing import Chain
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluation.evaluate import evaluate
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.reading import read_run
from deeprl_cli.runs.tensor_files import load_weights
from deeprl_cli.training.farewell import farewell, next_steps, schedule_notes
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.rounding import rounding_note
from deeprl_cli.training.run import episode_notes, train

QUICK = ["hardware.compile=false", "hardware.threads=1", "eval.episodes=2", "eval.final_episodes=3"]
JOBS = {
    "ppo": ["algo=ppo", "env=CartPole-v1", "total_steps=1024", "eval.every=512", "tuned=none", "algo.num_envs=2"],
    "dqn": ["algo=dqn", "env=CartPole-v1", "total_steps=600", "eval.every=300", "tuned=none"],
    "sac": ["algo=sac", "env=Pendulum-v1", "total_steps=300", "eval.every=150", "tuned=none", "algo.hidden=[16]"],
}


@pytest.fixture(scope="module", params=JOBS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return train(load_config([*JOBS[request.param], *QUICK, "seeds=2", "log.every=100", f"run_dir={folder}"]))


def test_summary_has_every_promised_field(run: Path) -> None:
    summary = read_summary(run)
    assert summary["status"] == "finished"
    assert summary["seeds"] == [0, 1]
    assert summary["total_steps"] >= 300
    assert {"algo", "env", "wall_seconds", "startup_seconds", "compile_seconds", "steps_per_second"} <= summary.keys()
    evaluation = summary["eval"]
    assert evaluation["episodes"] == 3
    assert all(len(evaluation[key]) == 2 for key in ("return_mean", "return_std", "best_return_mean"))


def test_steps_of_evaluations_are_counted(run: Path) -> None:
    """On the way, of the last policy, and of the best one where it is another. Episodes of Pendulum have 200 steps."""
    summary, rows = read_summary(run), []
    for seed in (0, 1):
        with (run / f"seed_{seed}" / "metrics.csv").open() as file:
            rows += [row for row in csv.DictReader(file) if row["eval/episodes"]]
    played = sum(float(row["eval/episodes"]) * float(row["eval/length_mean"]) for row in rows)
    if summary["env"] != "Pendulum-v1":
        assert summary["evaluation_steps"] > played
    else:
        alike = summary["eval"]["best_return_mean"] == summary["eval"]["return_mean"]
        assert summary["evaluation_steps"] == played + 2 * 3 * 200 * (1 if alike else 2)


def test_folder_holds_config_checkpoints_and_curves(run: Path) -> None:
    assert read_config(run)["resolved"]["compile"] is False
    state = load_checkpoint(run / "checkpoints" / "last").state
    assert state["steps"] == read_summary(run)["total_steps"]
    for seed in (0, 1):
        tensors, meta = load_weights(run / "checkpoints" / "best" / f"seed_{seed}.safetensors")
        assert tensors
        assert meta["step"] > 0
        with (run / f"seed_{seed}" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert any(row["eval/return_mean"] for row in rows)
        assert any(row["rollout/return_mean"] for row in rows)
        assert list((run / f"seed_{seed}").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_eval_plays_a_run(run: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = Wanted(episodes=2, checkpoint=checkpoint)
    both, _ = evaluate_run(run, wanted)
    assert len(both["return_mean"]) == 2
    assert both["mean"] == pytest.approx(sum(both["return_mean"]) / 2)
    low, high = both["interval"]  # of two seeds: what they earned
    assert [low, high] == pytest.approx(sorted(both["return_mean"]))
    one, _ = evaluate_run(run, dataclasses.replace(wanted, seed=1))
    assert one["seeds"] == [1]
    assert one["interval"] is None
    assert one["return_mean"] == both["return_mean"][1:]  # the same fresh episodes, deterministically
    assert evaluate_run(run, dataclasses.replace(wanted, seed=1, stochastic=True))[0]["stochastic"] is True


def test_the_path_of_a_seed_means_that_seed(run: Path) -> None:
    wanted = Wanted(episodes=1)
    assert evaluate_run(run / "seed_1", wanted)[0]["seeds"] == [1]
    assert evaluate_run(run / "checkpoints" / "best" / "seed_0.safetensors", wanted)[0]["seeds"] == [0]
    assert evaluate_run(run / "seed_1", dataclasses.replace(wanted, seed=1))[0]["seeds"] == [1]
    with pytest.raises(UserError, match=r"--seed 0: .*seed_1 is seed 1"):
        evaluate_run(run / "seed_1", dataclasses.replace(wanted, seed=0))
    with pytest.raises(UserError, match="has no seed 7: this run's are 0, 1"):
        evaluate_run(run, dataclasses.replace(wanted, seed=7))


def test_verbs_take_a_run_by_its_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(run, tmp_path / "runs" / "one")
    assert evaluate_run(Path("latest"), Wanted(episodes=1))[0]["seeds"] == [0, 1]
    with pytest.raises(UserError, match=r"has done all of its [\d,]+ steps: to train further"):
        resume(Path("latest"), [])
    with pytest.raises(UserError, match=r"runs/one.*nothing to verify"):
        verify(Path("latest"), steps=1, trust=False)


def evaluations(run: Path) -> list[tuple[int, float]]:
    with (run / "seed_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("eval/return_mean")]
    return [(int(row["step"]), float(row["eval/return_mean"])) for row in rows]


def test_a_run_shorter_than_an_evaluation_interval_has_a_curve_and_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its final evaluation is the curve's point; where no evaluation has chosen weights, the last are played."""
    run = train(load_config([*JOBS["dqn"], *QUICK, "eval.every=1000", f"run_dir={tmp_path / 'run'}"]))
    assert evaluations(run) == [(600, pytest.approx(read_summary(run)["eval"]["return_mean"][0]))]
    report, notes = evaluate_run(run, Wanted(episodes=3))
    assert report["checkpoint"] == "last"
    assert notes == ["no evaluation during training chose a best checkpoint, so this is the last one"]
    assert report["return_mean"] == read_summary(run)["eval"]["return_mean"]
    with pytest.raises(UserError, match="no evaluation in training has chosen a best checkpoint: give --checkpoint"):
        evaluate_run(run, Wanted(checkpoint="best"))
    resume(run, ["total_steps=1200"])  # what a run of 1200 steps would have: the point at 600 is gone
    assert [step for step, _ in evaluations(run)] == [1000, 1200]


def test_the_final_evaluation_adds_no_second_point(run: Path) -> None:
    steps = [step for step, _ in evaluations(run)]
    assert len(steps) == len(set(steps)) > 1


def test_evaluations_go_with_the_length_of_the_run(tmp_path: Path) -> None:
    """A twentieth; recorded, so that a run that is trained further keeps its own interval, unless told otherwise."""
    cfg = load_config([*JOBS["dqn"], *QUICK, "eval.every=auto", f"run_dir={tmp_path / 'run'}"])
    assert cfg.eval_every == 30
    assert load_config(["total_steps=7"]).eval_every == 1
    assert load_config(["eval.every=123"]).eval_every == 123
    assert load_config(["eval.every=0"]).eval_every == 0
    with pytest.raises(ConfigError, match=r"eval\.every=often: must be a whole number or one of auto"):
        load_config(["eval.every=often"])
    run = train(cfg)
    assert read_config(run)["eval"]["every"] == 30
    assert [step for step, _ in evaluations(run)] == list(range(30, 601, 30))
    _, before = read_run(run)
    assert changed(before, ["total_steps=6000"]).eval_every == 30
    assert changed(before, ["total_steps=6000", "eval.every=auto"]).eval_every == 300


def test_steps_are_rounded_up_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To whole rollouts, from where a run is; where episodes are waited for, the end says so."""
    small = ["algo.num_envs=2", "algo.rollout_length=8", "algo.batch_size=16", "eval.every=0"]
    run = train(load_config(["algo=ppo", *small, *QUICK, "total_steps=40", f"run_dir={tmp_path / 'run'}"]))
    said = capsys.readouterr().out
    why = "it trains in whole rollouts (algo.num_envs x algo.rollout_length) of 16 steps"
    assert f"48 steps instead of 40: {why}" in said
    assert "finished: 48 steps in" in said
    assert "step 48/48 (100%)" in said
    resume(run, ["total_steps=50"])
    assert f"64 steps instead of 50: {why}" in capsys.readouterr().out
    assert rounding_note(load_config([*JOBS["dqn"]])) == []
    assert rounding_note(load_config([*JOBS["dqn"], "algo.num_envs=7"])) == [
        "602 steps instead of 600: it trains in whole steps of every environment (algo.num_envs) of 7 steps"
    ]
    whole = ["algo=reinforce", "env=CartPole-v1", "tuned=none", "eval.every=0", "total_steps=5"]
    train(load_config([*whole, *QUICK, f"run_dir={tmp_path / 'episodes'}"]))
    assert "steps instead of 5 (episodes were played to their end)" in capsys.readouterr().out


def test_a_run_says_what_to_type_next(run: Path) -> None:
    cfg = load_config(["env=CartPole-v1", "total_steps=600"])
    summary = {**read_summary(run), "status": "finished", "total_steps": 600}
    place = Path("runs/odd place")
    commands = [line.split("  ")[-1].strip() for line in next_steps(place, cfg, summary)]
    assert commands[0] == "tensorboard --logdir 'runs/odd place'"
    assert "deeprl eval 'runs/odd place'" in commands
    assert commands[-1] == "deeprl resume 'runs/odd place' total_steps=1200"
    assert "deeprl resume" in farewell(place, cfg, summary, advise=True)
    assert "deeprl" not in farewell(place, cfg, summary, advise=False)
    stopped = next_steps(place, cfg, {**summary, "status": "interrupted", "total_steps": 300})
    assert stopped[-1].split("  ")[-1].strip() == "deeprl resume 'runs/odd place'"
    assert not any("deeprl eval" in line for line in stopped)


def test_a_learning_rate_that_has_come_to_nothing_is_told() -> None:
    linear = ["algo=ppo", "tuned=none", "algo.lr_schedule=linear", "total_steps=200"]
    (told,) = schedule_notes(load_config([*linear, "horizon=100"]), 0)
    assert told.startswith("nothing will be learned from step 100 on: the learning rate falls to 0 at step 100")
    assert told.endswith("give horizon=200 to stretch it")
    assert schedule_notes(load_config([*linear, "horizon=100"]), 150)[0].startswith(
        "nothing will be learned from step 150 on"
    )
    for others in (linear, [*linear, "horizon=200"], [*linear, "horizon=100", "algo.lr_schedule=constant"]):
        assert schedule_notes(load_config(others), 0) == []


def test_a_stochastic_evaluation_explores_as_the_best_weights_did(tmp_path: Path, monkeypatch) -> None:
    """ε isn't among the weights; it is that of the step they are of, not the schedule's start."""
    schedule = ["algo.epsilon.start=1", "algo.epsilon.end=0.1", "algo.epsilon.fraction=1"]
    folder = train(load_config([*JOBS["dqn"], *QUICK, *schedule, f"run_dir={tmp_path / 'run'}"]))
    explored = []

    def spied(policy, *arguments, **options):
        explored.extend(policy.algorithm.epsilon.tolist())
        return evaluate(policy, *arguments, **options)

    monkeypatch.setattr("deeprl_cli.evaluation.trained.evaluate", spied)
    evaluate_run(folder, Wanted(episodes=1, checkpoint="best", stochastic=True))
    _, meta = load_weights(folder / "checkpoints" / "best" / "seed_0.safetensors")
    assert explored == pytest.approx([1 - 0.9 * meta["step"] / 600])


def test_curves_show_overestimation_where_there_is_a_q(run: Path) -> None:
    with (run / "seed_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/return_mean"]]
    found = [bool(row.get("eval/overestimation") and row.get("eval/discounted_return_mean")) for row in rows]
    assert rows
    assert found == [read_summary(run)["algo"] in ("dqn", "sac")] * len(rows)


def test_last_checkpoint_holds_the_final_policy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`eval --checkpoint last` on the same episodes gives the summary's figure."""
    told, _ = evaluate_run(run, Wanted(episodes=3, checkpoint="last"))
    assert told["return_mean"] == read_summary(run)["eval"]["return_mean"]


def test_same_seed_same_numbers(tmp_path: Path) -> None:
    runs = [train(load_config([*JOBS["dqn"], *QUICK, f"run_dir={tmp_path / name}"])) for name in "ab"]
    tables = [(r / "seed_0" / "metrics.csv").read_text().splitlines() for r in runs]
    drop = {i for i, column in enumerate(tables[0][0].split(",")) if column.startswith("time/")}
    first, second = ([[v for i, v in enumerate(row.split(",")) if i not in drop] for row in t] for t in tables)
    assert first == second
    assert read_summary(runs[0])["eval"] == read_summary(runs[1])["eval"]


def test_failure_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deeprl_cli.algos.dqn import DQN

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(DQN, "update", broken)
    with pytest.raises(RuntimeError, match="boom"):
        train(load_config([*JOBS["dqn"], *QUICK, f"run_dir={tmp_path / 'run'}"]))
    assert read_summary(tmp_path / "run")["status"] == "failed"


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    values = dict(override.split("=", 1) for override in (*JOBS["ppo"], *QUICK, *overrides))  # the later one counts
    job = [f"{key}={value}" for key, value in values.items()]
    command = [sys.executable, "-m", "deeprl_cli", "train", *job, f"run_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """The last checkpoint and the summary are written, and the exit code says which signal it was."""
    folder = tmp_path / "run"
    process = start(folder, "total_steps=100000000", "log.every=16384")
    deadline = time.monotonic() + 120
    table = folder / "seed_0" / "metrics.csv"
    while time.monotonic() < deadline and not (table.exists() and len(table.read_text().splitlines()) > 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "interrupted" in out
    summary = read_summary(folder)
    assert summary["status"] == "interrupted"
    assert load_checkpoint(folder / "checkpoints" / "last").state["steps"] == summary["total_steps"] > 0


@pytest.mark.slow
def test_a_signal_in_the_final_evaluation_ends_it(tmp_path: Path) -> None:
    """An evaluation is not something to wait for: the run ends at once, its last checkpoint is already written."""
    folder = tmp_path / "run"
    process = start(folder, "total_steps=256", "eval.every=128", "eval.final_episodes=1000000")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (folder / "checkpoints" / "last" / "manifest.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    summary = read_summary(folder)
    assert summary["status"] == "interrupted"
    assert summary["eval"]["episodes"] == 2  # the last one made during training


def test_nothing_to_learn_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_starts=5000 leaves nothing"):
        preflight(load_config(["algo=dqn", "total_steps=500", "algo.learning_starts=5000"]))


@pytest.mark.slow
def test_tensorboard_reads_a_run_over_http(tmp_path: Path) -> None:
    """TensorBoard itself, started on the runs folder, serves the curves."""
    run = train(load_config([*JOBS["ppo"], *QUICK, "log.every=256", f"run_dir={tmp_path / 'runs' / 'one'}"]))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "runs"), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = ""
        while "http://" not in line:
            line = server.stderr.readline()
            assert line, "TensorBoard ended before it served"
        address = "http://" + line.split("http://")[1].split()[0].rstrip("/")
        query = f"{address}/data/plugin/scalars/scalars?run=one/seed_0&tag=eval/return_mean"
        points = None
        for _ in range(60):  # it reads event files in the background
            try:
                with urllib.request.urlopen(query) as answer:
                    points = json.load(answer)
                break
            except urllib.error.HTTPError:
                time.sleep(1)
        with (run / "seed_0" / "metrics.csv").open() as file:
            written = [row for row in csv.DictReader(file) if row["eval/return_mean"]]
        assert points is not None
        assert [point[1] for point in points] == [int(row["step"]) for row in written]
        assert [point[2] for point in points] == pytest.approx([float(row["eval/return_mean"]) for row in written])
    finally:
        server.terminate()
        server.wait(timeout=20)


class Endless(Chain):
    """No time limit, and none of deeprl's own."""


if "test/Endless-v0" not in gymnasium.registry:
    gymnasium.register("test/Endless-v0", Endless)


def test_a_run_that_may_wait_for_ever_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only where an update waits for whole episodes, and nothing ends them for certain."""
    endless = ["algo=reinforce", "env=test/Endless-v0"]

    def notes(overrides: list[str]) -> list[str]:
        cfg = load_config(overrides)
        return episode_notes(cfg, look(cfg.env))

    (note,) = notes(endless)
    assert note.startswith("test/Endless-v0 has no time limit, and algo=reinforce waits for every episode to end")
    assert note.endswith("give env.max_episode_steps=…")
    for others in (
        [*endless, "env.max_episode_steps=20"],
        ["algo=reinforce", "env=CartPole-v1"],
        ["algo=ppo", "env=test/Endless-v0"],
        ["algo=reinforce", "env=ArithQA-v0"],
    ):
        assert notes(others) == []
    train(load_config([*endless, *QUICK, "total_steps=8", "eval.every=0", f"run_dir={tmp_path / 'run'}"]))
    assert note in capsys.readouterr().out.replace("\n", " ")


def test_an_environment_that_only_envpool_knows(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    assert "Catch-v0" not in gymnasium.registry
    small = ["algo.num_envs=2", "algo.rollout_length=8", "algo.batch_size=16", "total_steps=32", "eval.every=0"]
    cfg = load_config(
        ["algo=ppo", "env=Catch-v0", "env.backend=envpool", *small, *QUICK, f"run_dir={tmp_path / 'run'}"]
    )
    assert read_summary(train(cfg))["status"] == "finished"
