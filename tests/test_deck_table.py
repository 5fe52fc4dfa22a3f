"""docs/deck.md: what it names exists. Every option composes, every test is there, all 61 items are listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deeprl_cli.config import load_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "deck.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
COMMANDS = sorted({code for code in re.findall(r"`([^`]+)`", TEXT) if "=" in code and "<" not in code})


def test_deck_table():
    """One row for each item, in order, with tests that exist."""
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 62))
    for name in set(re.findall(r"`(test_\w+)`", TEXT)):
        assert f"def {name}(" in SOURCES, name


@pytest.mark.parametrize("command", COMMANDS)
def test_options_compose(command):
    """What stands in code in the table is a configuration that can be trained: keys, values and their combination."""
    overrides = command.split()
    keys = " ".join(overrides)
    if "algo=" not in keys and "experiment=" not in keys:
        wanted = {"advantage": "a2c", "bootstrap": "a2c", "rho=null": "sac", "features": "dqn", "minibatch": "ppo"}
        overrides += [f"algo={next((algo for word, algo in wanted.items() if word in keys), 'ppo')}"]
    cfg = load_config(overrides)
    assert cfg.algo.name
