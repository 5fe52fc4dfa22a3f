"""What is composed once and then copied is what Hydra composes each time; and a changed file is seen."""

from __future__ import annotations

import shutil

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from deeprl_cli.config import hydra_compose
from deeprl_cli.config.files import config_dir

LISTS = [
    [],
    ["seed=3"],
    ["algo=sac", "env=Pendulum-v1", "algo.gamma=0.5", "algo.hidden=[8,8]"],
    ["env=Pendulum-v1", "algo=td3", "run_dir='runs/${hydra:job.override_dirname}'", "hardware=multiprocess"],
    ["algo.lr=0.1", "algo=ppo", "++env.kwargs.render_fps=3", "++env.kwargs.deep.er={a:1}", "tags=[a,'b c']"],
    ["env=ALE/Pong-v5", "tuned=none", "experiment=deck/ppo"],
    ["env=PongNoFrameskip-v4", "algo=dqn", "++env.kwargs.mode=1"],
    ["hydra.sweep.dir=/x", "hydra/launcher=joblib", "algo.gamma=0.5"],
    ["env=gymnasium.envs.classic_control:CartPole-v1", "name='a=b'"],
]


@pytest.mark.parametrize("overrides", LISTS, ids=str)
def test_equals_what_hydra_composes(overrides):
    """Hydra's own part too: choices, the overrides it writes down, the sources."""
    whole = OmegaConf.to_container(hydra_compose._compose(tuple(overrides)), resolve=False)
    for _ in range(2):  # made, and taken from what is kept
        assert OmegaConf.to_container(hydra_compose.ask_hydra(overrides), resolve=False) == whole


def test_a_change_of_the_copy_changes_no_other():
    first = hydra_compose.ask_hydra(["algo=ppo"])
    first.algo.gamma = 0.5
    assert hydra_compose.ask_hydra(["algo=ppo"]).algo.gamma != 0.5


def test_hydras_errors_are_the_same():
    for _ in range(2):
        with pytest.raises(ConfigCompositionException, match=r"algo\.gama"):
            hydra_compose.ask_hydra(["algo=ppo", "algo.gama=1"])


def test_a_file_that_changes_is_read_again(tmp_path, monkeypatch):
    """A notebook's process lives on while its user edits a file."""
    folder = shutil.copytree(config_dir(), tmp_path / "configs")
    monkeypatch.setattr(hydra_compose, "config_dir", lambda: folder)
    monkeypatch.setattr(hydra_compose, "config_dirs", lambda: [folder])
    before = hydra_compose.ask_hydra(["algo=ppo", "tuned=none", "seed=1"]).algo.gamma
    file = folder / "algo" / "ppo.yaml"
    file.write_text(file.read_text().replace(f"gamma: {before}", "gamma: 0.123"))
    assert hydra_compose.ask_hydra(["algo=ppo", "tuned=none", "seed=1"]).algo.gamma == 0.123
