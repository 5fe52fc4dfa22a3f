"""Callbacks: what they are told, that no number depends on them, and that none of them ends a run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from deeprl_cli.commands.resume import resume
from deeprl_cli.commands.verify import verify
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.testing import Chain
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.training.callbacks import check_callbacks
from tests.contract.harness import short_run, trained

TOLD: list[tuple[str, object]] = []
HERE = __name__


class Draws(Chain):
    """Its noise comes from the process's generator of numpy."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + float(np.random.normal()), *rest


if "test/DrawsForCallbacks-v0" not in gymnasium.registry:
    gymnasium.register("test/DrawsForCallbacks-v0", Draws, max_episode_steps=12)


class Meddler:
    """Draws from every generator, changes the directory and torch's settings; and takes down what it is told."""

    def __init__(self, word: str = "heard"):
        self.word = word

    def _hear(self, event):
        random.random()
        np.random.rand()
        torch.rand(3)
        torch.manual_seed(7)
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.chdir("/")
        TOLD.append((self.word, event))

    on_log = on_evaluation = on_checkpoint = on_end = _hear


class Raises:
    def on_log(self, event):
        raise RuntimeError("the tracker is down")

    def on_evaluation(self, event):
        raise SystemExit(3)


class Nothing:
    """No callback at all."""


@pytest.fixture(autouse=True)
def nothing_told():
    TOLD.clear()


def run_with(folder: Path, *options: str):
    shared = ["env=test/DrawsForCallbacks-v0", "env.generators=shared", "seeds=2"]
    np.random.seed(3)
    torch.manual_seed(3)
    return trained(short_run("ppo", folder, *shared, *options))[0]


def chain(run):
    return (run / "weights.sha256").read_text()


def test_what_a_callback_does_changes_no_number(tmp_path):
    """Its draws come between those of an environment that shares the process's generators."""
    plain = run_with(tmp_path / "plain")
    here, threads = os.getcwd(), torch.get_num_threads()
    meddled = run_with(tmp_path / "meddled", f"callbacks=[{HERE}.Meddler]")
    assert len(TOLD) > 6
    assert chain(meddled) == chain(plain)
    assert (os.getcwd(), torch.get_num_threads(), torch.get_default_dtype()) == (here, threads, torch.float32)
    assert torch.is_grad_enabled()
    assert read_config(meddled)["callbacks"] == [f"{HERE}.Meddler"]


def test_the_same_callback_without_protection_would_change_them(tmp_path, monkeypatch):
    """What the test above would show if the generators weren't put back."""
    from contextlib import nullcontext

    from deeprl_cli.training import callbacks

    plain = run_with(tmp_path / "plain")
    monkeypatch.setattr(callbacks, "kept_apart", nullcontext)
    assert chain(run_with(tmp_path / "meddled", f"callbacks=[{HERE}.Meddler]")) != chain(plain)


def test_what_a_callback_is_told(tmp_path):
    run = run_with(tmp_path / "run", f"callbacks=[{{class:{HERE}:Meddler,kwargs:{{word:psst}}}}]")
    assert {word for word, _ in TOLD} == {"psst"}
    events = [event for _, event in TOLD]
    kinds = [type(event).__name__ for event in events]
    assert kinds[-1] == "Ended"
    assert {"Logged", "Evaluated", "Saved"} == set(kinds[:-1])
    assert all((event.run, event.seeds) == (run, (0, 1)) for event in events)
    row = next(event for event in events if type(event).__name__ == "Logged")
    assert len(row.values["rollout/return_mean"]) == 2
    with pytest.raises(TypeError):
        row.values["rollout/return_mean"] = (0.0, 0.0)
    evaluated = [event for event in events if type(event).__name__ == "Evaluated"]
    assert [len(of_seed) for of_seed in evaluated[0].returns] == [2, 2]
    assert evaluated[-1].best == tuple(max(event.return_mean[s] for event in evaluated) for s in (0, 1))
    assert (events[-1].status, events[-1].reason) == ("finished", None)
    assert events[-1].summary["eval"] == read_summary(run)["eval"]
    assert next(event for event in events if type(event).__name__ == "Saved").path == run / "checkpoints" / "last"


def test_one_that_raises_ends_no_run(tmp_path, capsys):
    cfg = short_run("ppo", tmp_path / "run", f"callbacks=[{HERE}.Raises,{HERE}.Meddler]")
    from deeprl_cli.training.run import train

    run = train(cfg)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("callbacks[0]")]
    assert "on_log raised RuntimeError: the tracker is down (test_callbacks.py:" in said[0]
    assert said[0].endswith("training goes on")
    assert len(said) < sum(type(event).__name__ in ("Logged", "Evaluated") for _, event in TOLD)  # not each time
    assert read_summary(run)["status"] == "finished"
    assert type(TOLD[-1][1]).__name__ == "Ended"  # the other one heard all of it


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("nomodule", r"callbacks\[0\]=nomodule: name a class with its module"),
        ("no_such_module_here:X", r"can't import 'no_such_module_here'.*start where no_such_module_here.py lies"),
        (f"{HERE}:Medler", r"has no 'Medler'; did you mean 'Meddler'"),
        (f"{HERE}:HERE", r"is no class, but a str"),
        (f"{HERE}:Nothing", r"has none of the methods of a callback: on_log, on_evaluation"),
        (f"{{class:{HERE}:Meddler,kwargs:{{wrd:1}}}}", r"callbacks\[0\].kwargs: .*'wrd'; its arguments are word"),
    ],
)
def test_what_is_no_callback_is_said_in_one_line(entry, said):
    with pytest.raises(ConfigError, match=said):
        check_callbacks(load_config([f"callbacks=[{entry}]"]).callbacks)


def test_a_run_that_goes_on_makes_them_with_leave_only(tmp_path):
    run, _ = trained(short_run("ppo", tmp_path / "run", f"callbacks=[{HERE}.Meddler]"))
    assert verify(run, steps=None, trust=False) == 0  # which makes none
    TOLD.clear()
    with pytest.raises(UserError, match=r"its callbacks import .*Meddler, which runs code.*--trust"):
        resume(run, ["total_steps=300"])
    resume(run, ["total_steps=300", "callbacks=[]"])
    assert not TOLD
    resume(run, ["total_steps=340", f"callbacks=[{HERE}.Meddler]"])  # named by who resumes
    assert TOLD
    resume(run, ["total_steps=400"], trust=True)
    assert read_summary(run)["total_steps"] >= 400
