"""A whole run, in this process and as a command: what it leaves, how it ends, and what TensorBoard reads of it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import gymnasium
import pytest

from deeprl_cli.commands.eval import evaluate_run
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.envs.testing import Chain
from deeprl_cli.errors import ConfigError
from deeprl_cli.evaluation.evaluate import evaluate
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.tensor_files import load_weights
from deeprl_cli.training.preflight import preflight
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
    options = {"episodes": 2, "checkpoint": checkpoint, "as_json": True, "video": None}
    both = json.loads(evaluate_run(run, seed=None, stochastic=False, **options))
    assert len(both["return_mean"]) == 2
    one = json.loads(evaluate_run(run, seed=1, stochastic=False, **options))
    assert one["seeds"] == [1]
    assert one["return_mean"] == both["return_mean"][1:]  # the same fresh episodes, deterministically
    assert json.loads(evaluate_run(run, seed=1, stochastic=True, **options))["stochastic"] is True


def test_a_stochastic_evaluation_explores_as_the_best_weights_did(tmp_path: Path, monkeypatch) -> None:
    """ε isn't among the weights; it is that of the step they are of, not the schedule's start."""
    schedule = ["algo.epsilon.start=1", "algo.epsilon.end=0.1", "algo.epsilon.fraction=1"]
    folder = train(load_config([*JOBS["dqn"], *QUICK, *schedule, f"run_dir={tmp_path / 'run'}"]))
    explored = []

    def spied(policy, *arguments):
        explored.extend(policy.algorithm.epsilon.tolist())
        return evaluate(policy, *arguments)

    monkeypatch.setattr("deeprl_cli.evaluation.evaluate.evaluate", spied)
    evaluate_run(folder, episodes=1, seed=None, checkpoint="best", stochastic=True, as_json=True, video=None)
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
    told = evaluate_run(run, episodes=3, seed=None, checkpoint="last", stochastic=False, as_json=True, video=None)
    assert json.loads(told)["return_mean"] == read_summary(run)["eval"]["return_mean"]


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
    command = [sys.executable, "-m", "deeprl_cli", "train", *JOBS["ppo"], *QUICK, *overrides, f"run_dir={folder}"]
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
    assert note.startswith("test/Endless-v0 has no time limit, and algo=reinforce waits for every episode's end")
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
