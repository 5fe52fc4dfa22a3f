"""`deeprl verify`: what it says of a run that is as it was, of a part of one, and of one whose weights are others."""

from __future__ import annotations

import pytest

from deeprl_cli.commands.verify import verify
from deeprl_cli.training.run import train
from tests.contract.harness import short_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With a hash every sixteen steps, the fourth changed by hand."""
    folder = train(short_run("ppo", tmp_path_factory.mktemp("verify") / "run", "log.every=16"))
    chain = folder / "weights.sha256"
    lines = chain.read_text().splitlines()
    assert len(lines) > 4
    chain.write_text("\n".join([*lines[:3], lines[3][:-8] + "00000000", *lines[4:], ""]))
    return folder, [line.split()[0] for line in lines]


def test_as_far_as_asked(run, capsys):
    folder, steps = run
    assert verify(folder, steps=int(steps[2]), trust=False) == 0
    assert "reproduced: all 3 hashes" in capsys.readouterr().out


def test_other_weights_are_told_with_their_step(run, capsys):
    folder, steps = run
    assert verify(folder, steps=None, trust=False) == 1
    assert (
        f"NOT reproduced: other weights at step {steps[3]}; the same up to step {steps[2]}" in capsys.readouterr().out
    )
