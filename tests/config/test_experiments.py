"""Experiments: all compose; the deck's take nothing tuned; an ablation changes what it is named for, and no more."""

from __future__ import annotations

import pytest

from deeprl_cli.config.compose import compose_choices, load_config
from deeprl_cli.config.files import group_options
from deeprl_cli.config.messages import dotted_keys
from deeprl_cli.schema.typed import to_plain

EXPERIMENTS = group_options("experiment")
DECK = [name for name in EXPERIMENTS if name.startswith("deck/")]
CHANGED = {
    "ablation/no_replay": {"buffer_capacity", "batch_size", "train_every", "gradient_steps"},
    "ablation/no_target": {"target_update"},
    "ablation/single_q": {"critics"},
    "ablation/no_clip": {"objective"},
    "ablation/no_baseline": {"baseline", "normalize_advantage"},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_valid_configuration(name):
    """As it stands, with its own environment."""
    load_config([f"experiment={name}"])


@pytest.mark.parametrize("name", DECK)
def test_the_decks_refuse_tuned_values(name):
    """Whatever the pair: what the file doesn't say is the algorithm's default."""
    assert compose_choices([f"experiment={name}"])[1]["tuned"] == "none"


@pytest.mark.parametrize("name", CHANGED)
def test_an_ablation_changes_nothing_else(name):
    """Beside the tuned run that it is to be compared with, only the algorithm's values named here differ."""
    ours = to_plain(load_config([f"experiment={name}"]))
    theirs = to_plain(load_config([f"algo={ours['algo']['name']}", f"env={ours['env']['id']}"]))
    assert {key: value for key, value in ours.items() if key not in ("algo", "typed")} == {
        key: value for key, value in theirs.items() if key not in ("algo", "typed")
    }
    different = {key for key in dotted_keys(ours["algo"]) if _at(ours["algo"], key) != _at(theirs["algo"], key)}
    assert different == CHANGED[name]


def _at(values, key):
    for part in key.split("."):
        values = values[part]
    return values
