"""The GPU path: runs where there is a GPU, and agrees with the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deeprl_cli.algos.registry import algorithm_names
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.policy import make_policy
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.run import train

ENVS = {"sac": "Pendulum-v1"}  # CartPole for the others
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_gpu_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"hardware=cuda: .*use hardware=cpu"):
        preflight(load_config(["hardware=cuda"]))


@needs_gpu
@pytest.mark.cuda
@pytest.mark.parametrize("compile_", ["false", "true"])
@pytest.mark.parametrize("algo", algorithm_names())
def test_trains_on_the_gpu(algo: str, compile_: str, tmp_path: Path) -> None:
    overrides = [f"algo={algo}", f"env={ENVS.get(algo, 'CartPole-v1')}", "tuned=none", "hardware=cuda", "seeds=2"]
    overrides += [f"hardware.compile={compile_}", "total_steps=2500", "eval.every=1000", "eval.final_episodes=2"]
    run = train(load_config([*overrides, f"run_dir={tmp_path / 'run'}"]))
    assert read_config(run)["resolved"]["device"] == "cuda"
    assert read_summary(run)["status"] == "finished"


@needs_gpu
@pytest.mark.cuda
@pytest.mark.parametrize("algo", algorithm_names())
def test_the_gpu_acts_as_the_processor(algo: str) -> None:
    """The same weights give the same deterministic actions on either device, to float tolerance."""
    cfg = load_config([f"algo={algo}", f"env={ENVS.get(algo, 'CartPole-v1')}", "hardware=cuda", "seeds=2"])
    spec = preflight(cfg)
    policies = [make_policy(cfg, spec).on(device) for device in ("cpu", "cuda")]
    obs = torch.randn(2 * 8, *spec.observation_space.shape).numpy()  # type: ignore[misc]
    on_cpu, on_gpu = (policy.act(obs, None) for policy in policies)
    torch.testing.assert_close(torch.from_numpy(on_gpu), torch.from_numpy(on_cpu), rtol=1e-2, atol=1e-2)
