"""Each algorithm learns something in seconds, through the path of `deeprl train`; margins wide enough not to flake."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprl_cli.config import load_config
from deeprl_cli.run_folder import read_summary
from deeprl_cli.train import train

JOBS = {
    # random play earns about -1230 on Pendulum, a still pendulum hanging down -1600; a solved one -150
    "sac": (
        -500.0,
        ["env=Pendulum-v1", "total_steps=4000", "algo.hidden=[64,64]", "algo.batch_size=64", "eval.every=1000"],
    ),
    # random play lasts about 22 steps on CartPole
    "ppo": (150.0, ["env=CartPole-v1", "total_steps=20000", "eval.every=10000"]),
    "dqn": (150.0, ["env=CartPole-v1", "total_steps=10000", "eval.every=1000"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("algo", JOBS)
def test_learns(algo: str, tmp_path: Path) -> None:
    """The best policy of two seeds, evaluated afresh, is far above random play."""
    bar, overrides = JOBS[algo]
    common = ["seeds=2", "hardware.compile=false", "hardware.threads=1", "eval.final_episodes=20"]
    run = train(load_config([f"algo={algo}", *overrides, *common, f"run_dir={tmp_path / 'run'}"]))
    returns = read_summary(run)["eval"]["best_return_mean"]
    assert len(returns) == 2
    assert min(returns) > bar, returns
