"""docs/deck.md: what it names exists. Every option composes, every test is there, all 61 items are listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import env_spec

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "deck.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
COMMANDS = sorted({code for code in re.findall(r"`([^`]+)`", TEXT) if "=" in code and "<" not in code})


def test_deck_table():
    """One row for each item, in order, with tests that exist."""
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 62))
    for name in set(re.findall(r"`(test_\w+)`", TEXT)):
        assert f"def {name}(" in SOURCES, name


# the environment that a command needs where CartPole won't do, by a part of it
FITTING = {
    "tabular": "FrozenLake-v1",
    "tiles": "MountainCar-v0",
    "cnn": "deeprl/PixelCatch-v0",
    "transformer": "ArithQA-v0",
    "rho=null": "Pendulum-v1",
    "algo=ddpg": "Pendulum-v1",
    "algo=td3": "Pendulum-v1",
    "algo=sac": "Pendulum-v1",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_options_compose(command):
    """What stands in code in the table is a configuration that can be trained: keys, values and their combination, with
    an environment whose spaces fit."""
    overrides = command.split()
    keys = " ".join(overrides)
    if "algo=" not in keys and "experiment=" not in keys:
        wanted = {"advantage": "a2c", "bootstrap": "a2c", "rho=null": "sac", "features": "dqn", "tail": "reinforce"}
        overrides += [f"algo={next((algo for word, algo in wanted.items() if word in keys), 'ppo')}"]
    if "experiment=" not in keys:
        overrides += [f"env={next((env for word, env in FITTING.items() if word in keys), 'CartPole-v1')}"]
    cfg = load_config(overrides)
    get_algorithm(cfg.algo.name).check(cfg.algo, cfg.network, env_spec(cfg.env))
