"""Successive halving: who goes on, and that a trial which was trained in pieces is what it would have been."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.folder import read_config
from deeprl_cli.runs.group_record import read_group
from deeprl_cli.runs.reading import read_run
from deeprl_cli.tuning.rungs import cost, promotable
from deeprl_cli.tuning.sampler import told_of_rungs
from tests.tuning.test_tune import SMALL, Killed, code, counts, kill, stopped_at, trials

HALVED = [*SMALL, "batch=3", "trials=9", "halving=3", "rungs=2", "total_steps=192", "algo.lr=interval(1e-4,1e-1)"]
HALVED = [word for word in HALVED if word != "total_steps=64"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_share_of_those_that_came_goes_on():
    scores = {number: float(-abs(number - 4)) for number in range(9)}
    assert promotable(scores, [], 3) == [4, 3, 5]
    assert promotable(scores, [4, 3], 3) == [5]
    assert promotable(scores, [0, 8], 3) == [4], "two have gone on before, who would not now"
    assert promotable({1: 3.0, 2: math.nan, 3: 2.0}, [], 3) == [1]
    assert promotable({1: 3.0, 2: 5.0}, [], 3) == []
    assert promotable({1: 3.0, 2: 5.0}, [], 3, least=1) == [2]
    assert promotable({1: 3.0, 2: 5.0}, [2], 3, least=1) == []
    assert cost([100, 300, 900], 3) == 100 + 200 / 3 + 600 / 9


def test_the_sampler_learns_from_trials_that_wait():
    """One with a score at a rung is seen as one that ended there; one that has none is left alone by the liar."""
    study = optuna.create_study(direction="maximize")
    for value in (1.0, 2.0):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(value, 64)
    study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    seen = told_of_rungs(study).trials
    assert [trial.state for trial in seen] == [TrialState.PRUNED] * 2 + [TrialState.RUNNING]
    assert seen[1].intermediate_values == {64: 2.0}
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 3, "nobody has told the study"


@pytest.mark.parametrize("algo", ["ppo", pytest.param("reinforce", marks=pytest.mark.slow)])
def test_halving_killed_in_a_joined_stack(algo, monkeypatch, capsys):
    """Three batches of three, of which the best third goes on as one stack, killed there and gone on with."""
    words = HALVED
    if algo == "reinforce":  # whose runs are not of one age to the step
        words = [word for word in words if not word.startswith(("algo", "algo.rollout_length", "algo.epochs"))]
        words += ["algo=reinforce", "algo.num_envs=2", "algo.episodes_per_update=2", "algo.hidden=[8]"]
        words += ["algo.lr_actor=interval(1e-4,1e-1)"]
    assert code("tune", *words, "study=whole") == 0
    told = capsys.readouterr().out
    assert "trials 6–8 of 9: 6 members, to step 64" in told
    assert "rung 2 of 2: trials " in told
    assert ": 6 members, to step 192" in told
    assert counts("whole") == {"PRUNED": 6, "COMPLETE": 3}
    found = {trial.number: trial for trial in trials("whole")}
    done = [number for number, trial in found.items() if trial.state == TrialState.COMPLETE]
    at_rung = {number: trial.intermediate_values[64] for number, trial in found.items()}
    assert sorted(at_rung[number] for number in done) == sorted(at_rung.values())[-3:]
    assert all(set(found[number].intermediate_values) == {64, 192} for number in done)
    run = Path(f"whole/trials/{done[0]:04}")
    assert len(read_group(*read_run(run))[1]) == 3, "its group is the one that it has joined"
    assert read_config(run)["horizon"] == 192

    with monkeypatch.context() as patch:
        stopped_at(150, patch, kill)
        with pytest.raises(Killed):
            code("tune", *words, "study=s", "checkpoint.every=32")
    assert counts("s") == {"RUNNING": 9}
    assert code("tune", "s") == 0
    assert [(t.params, t.value, t.state) for t in trials("s")] == [(t.params, t.value, t.state) for t in found.values()]
    result = json.loads(Path("s/result.json").read_text())
    assert result["trial"] in done


def test_in_pieces_as_in_one(capsys):
    """What was trained to a rung, and on from there beside others, is what it is when trained at one go."""
    assert code("tune", *HALVED, "study=s", "fresh_seeds=2") == 0
    done = [trial for trial in trials("s") if trial.state == TrialState.COMPLETE]
    own = [word for word in HALVED if word.partition("=")[0] not in ("batch", "trials", "halving", "rungs", "algo.lr")]
    own = [word for word in own if not word.startswith("fresh_seeds")]
    for trial in done[:2]:
        lr = trial.user_attrs["algo.lr"]
        assert code("train", *own, f"algo.lr={lr}", f"run_dir=alone{trial.number}") == 0
        weights = [
            load_checkpoint(Path(run) / "checkpoints" / "last").state["policy"]["algorithm.model.flat"]
            for run in (f"alone{trial.number}", f"s/trials/{trial.number:04}")
        ]
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_few_trials_come_to_the_end():
    """Fewer than would make a share: one goes on at each rung."""
    few = [word for word in HALVED if word.partition("=")[0] not in ("trials", "rungs")]
    assert code("tune", *few, "study=s", "rungs=3", "trials=2") == 0
    assert Counter(trial.state.name for trial in trials("s")) == {"PRUNED": 1, "COMPLETE": 1}
