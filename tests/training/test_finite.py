"""Losses and parameters that are no numbers: who is warned, when a run ends over it, and which checkpoint stands."""

from __future__ import annotations

import re

import pytest
import torch

from deeprl_cli.cli import main
from deeprl_cli.commands.resume import resume
from deeprl_cli.errors import TrainingError
from deeprl_cli.policy import Policy
from deeprl_cli.rl.optimisers import Optimiser, per_seed
from deeprl_cli.runs.checkpoint import load_checkpoint, manifests
from deeprl_cli.runs.folder import read_summary
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.finite import FiniteWatch, bad_metric
from deeprl_cli.training.run import train
from tests.commands.test_resume import left
from tests.contract.harness import ALGORITHMS, short_run

BAD_FROM = 120  # steps


@pytest.fixture
def trainers(monkeypatch):
    """The trainers made from here on."""
    made = []
    build = Trainer.__init__

    def noted(self, *arguments):
        build(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Trainer, "__init__", noted)
    return made


def spoil_gradients(monkeypatch, trainers, seeds) -> None:
    """Gradients of these seeds (indices) are NaN from step BAD_FROM on."""
    step = Optimiser.step

    def spoilt(self, gradients, active=None):
        mask = torch.tensor([s in seeds and trainers[-1].steps >= BAD_FROM for s in range(len(self.lr))])
        if active is not None:
            mask &= active
        return step(self, [torch.where(per_seed(mask, g), torch.nan, g) for g in gradients], active)

    monkeypatch.setattr(Optimiser, "step", spoilt)


def parameters(state) -> list[torch.Tensor]:
    return [t for name, t in state["policy"].items() if name.endswith((".flat", "log_alpha"))]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_ends_where_no_update_is_finite_any_more(name, tmp_path, trainers, monkeypatch, whole_run):
    """At a log, with the tensor and the step; without the poison it goes on from the good checkpoint as if unharmed."""
    whole, _ = whole_run(name)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil_gradients(patch, trainers, {0, 1})
        with pytest.raises(TrainingError) as caught:
            train(short_run(name, run, *whole_run.options))
    told = str(caught.value)
    assert "\n" not in told
    found = re.search(
        r"no update of any seed was finite from step (\d+) on; seed 0: optim/\w+ is nan, first seen at step (\d+); "
        r"stopped at step (\d+), the last whole checkpoint is of step (\d+): look at rewards and learning rates, then "
        rf"`deeprl resume {re.escape(str(run))}`$",
        told,
    )
    assert found, told
    since, first, stopped, kept = map(int, found.groups())
    assert BAD_FROM <= first <= stopped
    assert kept <= since  # none was written while nothing was learned
    assert read_summary(run)["status"] == "failed"
    assert all(count > 0 for count in read_summary(run)["skipped_updates"])
    last = run / "checkpoints" / "last"
    for manifest in manifests(last):
        state = load_checkpoint(last, manifest).state
        assert all(tensor.isfinite().all() for tensor in parameters(state))
    assert load_checkpoint(last).state["steps"] == kept
    resume(run, [])
    if kept < first:  # else an update was left out before it, for good
        assert left(run) == left(whole)
    else:
        assert name not in ("dqn", "ppo", "reinforce", "sac")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_bad_seed_goes_on_being_left_out(name, tmp_path, trainers, monkeypatch, capsys, whole_run):
    """It is named while it trains and at the end; the other one's numbers are those it has without it."""
    whole, said = whole_run(name)
    assert read_summary(whole)["skipped_updates"] == [0, 0]
    assert "updates" not in said
    spoil_gradients(monkeypatch, trainers, {1})
    run = train(short_run(name, tmp_path / "run", *whole_run.options))
    out = capsys.readouterr().out
    assert re.search(r"seed 1: \d+ updates skipped from step \d+ to \d+, they weren't finite: optim/\w+ is nan", out)
    assert "seed 0: " not in out
    good, bad = read_summary(run)["skipped_updates"]
    assert (good, bad > 0) == (0, True)
    assert f"updates left out           {bad} of seed 1" in out
    assert left(run)["tables"]["seed_0"] == left(whole)["tables"]["seed_0"]
    assert load_checkpoint(run / "checkpoints" / "last").state["steps"] == read_summary(run)["total_steps"]


def spoil_state(monkeypatch, change) -> None:
    """`change(policy)` once, after the first iteration from step BAD_FROM on."""
    count = Trainer.learned
    done = []

    def spoilt(self, metrics):
        count(self, metrics)
        if self.steps >= BAD_FROM and not done:
            done.append(True)
            with torch.no_grad():
                change(self.policy)

    monkeypatch.setattr(Trainer, "learned", spoilt)


def nan_weights(policy: Policy) -> None:
    for stack in policy.algorithm.stacks().values():
        stack.flat.fill_(torch.nan)


@pytest.mark.parametrize("name", ["ppo", "dqn", "reinforce", "sac"])
def test_a_checkpoint_without_finite_parameters_is_never_written(name, tmp_path, monkeypatch):
    """Nor is an environment blamed that fails on the actions they give."""
    spoil_state(monkeypatch, nan_weights)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"parameter \w+\.\S+ holds NaN.* last whole checkpoint is of step (\d+)"):
        train(short_run(name, run, "seeds=2", "checkpoint.every=20", "log.every=1000"))
    last = run / "checkpoints" / "last"
    assert manifests(last)
    for manifest in manifests(last):
        state = load_checkpoint(last, manifest).state
        assert all(tensor.isfinite().all() for tensor in parameters(state))
        assert state["steps"] <= BAD_FROM + 40
    assert read_summary(run)["status"] == "failed"


def test_statistics_are_named_before_what_comes_of_them(tmp_path, monkeypatch):
    spoil_state(monkeypatch, lambda policy: policy.obs_statistics.var.fill_(torch.nan))
    cfg = short_run("ppo", tmp_path / "run", "algo.normalize_obs=true", "seeds=2")
    with pytest.raises(
        TrainingError, match=r"seed 0: statistic obs_statistics.var holds NaN, first seen at step 1\d\d"
    ):
        train(cfg)


def test_the_program_ends_with_code_1_and_one_line(tmp_path, monkeypatch, capsys):
    def fail(self):
        raise TrainingError("no update was finite")

    monkeypatch.setattr(Trainer, "log", fail)
    overrides = ["algo=ppo", "env=CartPole-v1", "tuned=none", "total_steps=300", "algo.rollout_length=16"]
    overrides += ["log.every=32", "hardware.compile=false", "hardware.threads=1", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *overrides])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"deeprl: {tmp_path / 'run'}: no update was finite; stopped at step ")
    assert "there is no checkpoint yet" in line


def watched() -> tuple[FiniteWatch, Optimiser]:
    from deeprl_cli.config.compose import load_config
    from deeprl_cli.envs.make import env_spec
    from deeprl_cli.policy import make_policy

    cfg = load_config("algo=ppo env=CartPole-v1 tuned=none seeds=2 algo.accumulate_steps=4")
    policy = make_policy(cfg, env_spec(cfg.env))
    return FiniteWatch(policy, [5, 6]), policy.algorithm.optimisers()[0]


def test_warnings_grow_rare_and_begin_again():
    watch, optimiser = watched()
    lines = []
    for log in range(1, 10):
        optimiser.skipped[1] += 3
        lines.append(len(watch.log(log, [], [])))
    assert lines == [1, 1, 0, 1, 0, 0, 0, 1, 0]
    assert watch.log(10, [], []) == []  # none skipped: forgotten
    optimiser.skipped[1] += 1
    (line,) = watch.log(11, [], [])
    assert line.startswith("seed 6: 1 updates skipped from step 10 to 11")


def test_gradients_that_wait_in_a_sum_count_as_done():
    """Under accumulate_steps a finite gradient needn't move anything yet."""
    watch, optimiser = watched()
    optimiser.accumulated += 1
    optimiser.skipped += 1
    assert not watch.nothing_learned
    assert len(watch.log(1, [], [])) == 2
    optimiser.skipped += 1
    assert watch.nothing_learned
    with pytest.raises(TrainingError):
        watch.log(2, [], [])


def test_it_goes_on_where_a_checkpoint_stood():
    watch, optimiser = watched()
    optimiser.skipped[0] += 1
    watch.log(7, [{"loss/value": torch.tensor([torch.inf, 0.0])}], [4])
    state = watch.state_dict()
    again = FiniteWatch(watch.policy, [5, 6])
    again.load_state_dict(state)
    optimiser.skipped[0] += 1
    (line,) = again.log(9, [], [])
    assert line == (
        "seed 5: 1 updates skipped from step 7 to 9, they weren't finite: loss/value is inf, first seen at step 4"
    )
    again.load_state_dict(None)
    assert again.log(10, [], []) == []


def test_the_first_bad_update_is_found():
    """A loss before the norm of its gradient; what may be NaN in a healthy run isn't looked at."""
    nan, one = torch.tensor([1.0, torch.nan]), torch.ones(2)
    healthy = {"value/explained_variance": nan, "optim/grad_norm": one, "loss/policy": one, "loss/value": one}
    bad = healthy | {"optim/grad_norm": nan, "loss/value": nan}
    assert bad_metric(1, [healthy, bad, bad], [10, 20, 30]) == ("loss/value is nan", 20)
    assert bad_metric(0, [healthy, bad, bad], [10, 20, 30]) is None
    assert bad_metric(0, [], []) is None
