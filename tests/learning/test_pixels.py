"""Learning from images through the path of `deeprl train`: convolutions, stacked frames, several seeds at once."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.training.run import train
from tests.contract.harness import differences, opened_trainer

CATCH = "env=deeprl/PixelCatch-v0"
QUICK = ["hardware.compile=false", "hardware.threads=1", "eval.every=0", "log.tensorboard=false"]
SMALL = ["network=cnn", "network.hidden=[64]"]
JOBS = {
    "dqn": ["algo=dqn", "algo.num_envs=4", "algo.learning_starts=100", "algo.train_every=8", "algo.lr=1e-3"],
    "ppo": ["algo=ppo", "algo.num_envs=4", "algo.rollout_length=32", "algo.batch_size=64", "algo.epochs=2"],
}


def run(folder: Path, *overrides: str) -> Path:
    return train(load_config([*QUICK, *overrides, f"run_dir={folder}"]))


def column(folder: Path, seed: int, name: str) -> list[float]:
    with open(folder / f"seed_{seed}" / "metrics.csv", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.slow
def test_dqn_learns_to_catch_from_pixels(tmp_path: Path) -> None:
    """Random play and every constant action earn -0.6 to -0.7, the best policy 1; seeds 0 to 5 all got it."""
    folder = run(
        tmp_path / "run",
        *("algo=dqn", CATCH, "env.frame_stack=2", *SMALL, "total_steps=3000", "algo.num_envs=8"),
        *("algo.lr=1e-3", "algo.gamma=0.9", "algo.train_every=8", "algo.gradient_steps=2", "algo.learning_starts=500"),
        *("algo.target_every=250", "algo.buffer_capacity=2000", "algo.epsilon.fraction=0.5"),
    )
    assert read_summary(folder)["eval"]["return_mean"][0] > 0.3


@pytest.mark.parametrize("stack", [3, 4])
def test_dqn_trains_on_stacked_frames(stack: int, tmp_path: Path) -> None:
    small_memory = ["algo.buffer_capacity=64", "checkpoint.every=100", "eval.final_episodes=2"]  # wraps many times
    folder = run(tmp_path / "run", *JOBS["dqn"], CATCH, f"env.frame_stack={stack}", "total_steps=300", *small_memory)
    assert read_summary(folder)["status"] == "finished"


def test_dqn_on_stacked_frames_resumes_bit_for_bit(tmp_path: Path) -> None:
    common = [*QUICK, *JOBS["dqn"], CATCH, *SMALL, "env.frame_stack=3", "seeds=2", "algo.buffer_capacity=96"]
    cfg = load_config([*common, "total_steps=400"])
    with opened_trainer(cfg, tmp_path / "whole") as whole:
        whole.run()
    with opened_trainer(cfg, tmp_path / "cut") as cut:
        cut.to.stopping = lambda: cut.steps >= 220
        cut.run()
    saved = load_checkpoint(tmp_path / "cut" / "checkpoints" / "last")
    with opened_trainer(cfg, tmp_path / "cut") as later:
        later.load_state_dict(saved.state, saved.segments)
        later.run()
    ours, theirs = ({key: v for key, v in t.state_dict().items() if key != "clock"} for t in (whole, later))
    assert differences(ours, theirs) == []


@pytest.mark.slow
@pytest.mark.parametrize("algo", JOBS)
def test_two_seeds_through_convolutions_learn_as_each_alone(algo: str, tmp_path: Path) -> None:
    common = [*JOBS[algo], CATCH, *SMALL, "total_steps=512", "log.every=128", "eval.final_episodes=2"]
    together = run(tmp_path / "together", *common, "seeds=2")
    for seed in (0, 1):
        alone = run(tmp_path / f"alone_{seed}", *common, f"seed={seed}")
        for name in ("rollout/return_mean", "optim/grad_norm"):
            expected = column(alone, seed, name)
            assert len(expected) >= 3
            assert column(together, seed, name) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("algo", JOBS)
def test_pong(algo: str, tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    short = ["total_steps=384", "env.max_episode_steps=100", "eval.final_episodes=1", "algo.buffer_capacity=200"]
    folder = run(tmp_path / "run", *JOBS[algo], "env=ALE/Pong-v5", *short[: 4 if algo == "dqn" else 3])
    assert read_summary(folder)["status"] == "finished"
    losses = column(folder, 0, "optim/grad_norm")
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
