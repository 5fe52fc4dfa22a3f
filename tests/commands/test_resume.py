"""`deeprl resume`: a run that broke off goes on bit for bit; what it takes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from deeprl_cli.cli import main
from deeprl_cli.commands.resume import resume
from deeprl_cli.config.changes import changed
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.checkpoint import load_checkpoint, manifests
from deeprl_cli.runs.folder import NUMERICS
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.reading import read_run
from deeprl_cli.runs.weights_chain import CHAIN_NAME, WeightsChain
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.replay import ReplayTrainer
from deeprl_cli.training.run import train
from tests.contract.harness import ALGORITHMS, short_run


class CrashError(Exception):
    """What a run breaks off with here."""


def left(run: Path) -> dict:
    """All that a run leaves, times apart."""
    tables = {}
    for path in sorted(run.glob("seed_*/metrics.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        tables[path.parent.name] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "tables": tables,
        "summary": {key: summary[key] for key in ("status", "total_steps", "eval", "seeds")},
        "chain": (run / CHAIN_NAME).read_text(),
        "best": {path.name: path.read_bytes() for path in (run / "checkpoints" / "best").iterdir()},
    }


def break_off(cfg, steps: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train `cfg` until an exception at `steps`; its folder, last written to by a checkpoint before that."""
    run_forward = Trainer.log

    def crash(self: Trainer) -> None:
        run_forward(self)
        if self.steps >= steps:
            raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "log", crash)
        with pytest.raises(CrashError):
            train(cfg)
    return Path(cfg.run_dir)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_that_broke_off_ends_as_if_it_had_not(name, tmp_path, monkeypatch, capsys, whole_run):
    """Curves, evaluations, best weights and the hash chain of all weights are those of the unbroken run."""
    whole, _ = whole_run(name)
    run = break_off(short_run(name, tmp_path / "broken", *whole_run.options), 150, monkeypatch)
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    resume(run, [])
    assert left(run) == left(whole)
    assert "goes on from step" in capsys.readouterr().out


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch, capsys):
    whole = train(short_run("ppo", tmp_path / "whole"))
    run = break_off(short_run("ppo", tmp_path / "broken", "checkpoint.every=0"), 48, monkeypatch)
    resume(run, ["checkpoint.every=100"])
    assert left(run) == left(whole)
    assert "starts again from the first step" in capsys.readouterr().out


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, capsys):
    options = ["checkpoint.every=40", "log.every=16"]
    whole = train(short_run("dqn", tmp_path / "whole", *options))
    run = break_off(short_run("dqn", tmp_path / "broken", *options), 150, monkeypatch)
    last = run / "checkpoints" / "last"
    assert len(manifests(last)) == 2
    newest = json.loads((last / "manifest.json").read_text())["tensors"]
    (last / newest).write_bytes((last / newest).read_bytes()[:-3])
    resume(run, [])
    assert "going on from the checkpoint before it" in capsys.readouterr().out
    assert left(run) == left(whole)


def test_all_checkpoints_damaged(tmp_path, monkeypatch):
    run = break_off(short_run("ppo", tmp_path / "broken", "checkpoint.every=30"), 150, monkeypatch)
    for path in (run / "checkpoints" / "last").glob("manifest*.json"):
        path.write_text("{")
    with pytest.raises(UserError, match="damaged: not valid JSON"):
        resume(run, [])


def test_training_on_after_the_end(tmp_path, capsys):
    """A finished run is finished; with more steps it goes on, its schedules where the first end had them."""
    cfg = short_run("ppo", tmp_path / "run", "algo.lr_schedule=linear")
    run = train(cfg)
    with pytest.raises(UserError, match=r"has done all of its 240 steps: to train further, give total_steps=480"):
        resume(run, [])
    resume(run, ["total_steps=300"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["total_steps"], config["horizon"]) == (300, 240)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["total_steps"] >= 300
    with (run / "seed_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {float(row["optim/lr"]) for row in rows if int(row["step"]) > 256 and row["optim/lr"]} == {0.0}
    recorded = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(recorded.replace(f"numerics: {NUMERICS}", "numerics: 1"))
    capsys.readouterr()
    assert main(["resume", str(run), "total_steps=400"]) is None
    assert f"it has numerics version 1, this deeprl has {NUMERICS}" in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["horizon"] == 240


def test_killed_between_the_last_step_and_the_last_word(tmp_path):
    whole = train(short_run("ppo", tmp_path / "whole"))
    run = train(short_run("ppo", tmp_path / "killed"))
    (run / "summary.json").unlink()
    resume(run, [])
    assert left(run) == left(whole)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.lr=1", "algo is what this run is"),
        ("algo=dqn", "algo is what this run is"),
        ("env=Acrobot-v1", "env is what this run is"),
        ("seeds=4", "seeds is what this run is"),
        ("network=linear", "network is what this run is"),
        ("eval.evry=3", "unknown key 'eval.evry': there are eval.every"),
        ("eval=3", "give one of its keys"),
        ("total_steps=x", "total_steps=x: must be a whole number"),
        ("checkpoint.keep=0", "checkpoint.keep=0: must be at least 1"),
        ("eval.every", "write eval.every=…, a value with its key"),
        ("total_steps=1,2", "several values"),
        ("hardware=gpu", "must be one of cpu, cuda"),
    ],
)
def test_what_cannot_change(override, message):
    with pytest.raises(ConfigError, match=message):
        changed(load_config("algo=ppo env=CartPole-v1"), [override])


def test_what_can_change():
    before = load_config("algo=ppo env=CartPole-v1 tuned=none total_steps=1000")
    after = changed(before, ["total_steps=5000", "eval.every=7", "hardware.threads=2", "log.tensorboard=false"])
    assert (after.total_steps, after.horizon, after.eval.every, after.hardware.threads) == (5000, 1000, 7, 2)
    assert not after.log.event_files
    assert after.typed == [*before.typed[:3], "total_steps=5000", "eval.every=7", *after.typed[5:]]
    assert changed(before, ["total_steps=5000", "horizon=5000"]).horizon == 5000
    assert changed(before, ["total_steps=5000", "horizon=null"]).horizon == 1000
    assert changed(after, ["total_steps=9000"]).horizon == 1000
    assert changed(before, []) == before


def test_choices_are_the_runs_own_unless_given(tmp_path, monkeypatch):
    """What `auto` came to is read back, not decided again."""
    run = break_off(short_run("ppo", tmp_path / "run", "hardware.threads=auto"), 150, monkeypatch)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["resolved"]["threads"] = 2
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    seen = []
    monkeypatch.setattr("deeprl_cli.training.run.carry_out", lambda *arguments: seen.append(arguments[4]))
    resume(run, [])
    resume(run, ["hardware.threads=3"])
    assert [hardware.threads for hardware in seen] == [2, 3]
    assert yaml.safe_load((run / "config.yaml").read_text())["resolved"]["threads"] == 3


def test_two_processes_on_one_run(tmp_path, monkeypatch):
    """The second is refused, with the first one's number; a lock whose process is gone holds nobody up."""
    run = break_off(short_run("ppo", tmp_path / "run"), 150, monkeypatch)
    code = "import sys,time; from pathlib import Path; from deeprl_cli.runs.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on .* is training in it"):
            resume(run, [])
    finally:
        holder.kill()
        holder.wait()
    with locked(run):
        pass
    resume(run, [])


def test_without_its_replay_memory_a_run_fills_it_first(tmp_path, monkeypatch):
    """checkpoint.replay=false: no update before the memory holds again what learning once started with."""
    options = ["checkpoint.replay=false", "algo.learning_starts=100", "algo.buffer_capacity=200", "checkpoint.every=48"]
    run = break_off(short_run("dqn", tmp_path / "run", *options), 180, monkeypatch)
    sizes = []
    update = ReplayTrainer.minibatches

    def noted(self, count):
        sizes.append(len(self.memory))
        return update(self, count)

    monkeypatch.setattr(ReplayTrainer, "minibatches", noted)
    resume(run, ["total_steps=400"])
    assert sizes[0] >= 100
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_kill_and_resume_with_real_processes(tmp_path):
    """SIGKILL in mid-run, from outside; the resumed run's chain of weights is the unbroken one's."""
    options = ["algo=ppo", "env=CartPole-v1", "tuned=none", "algo.num_envs=2", "algo.rollout_length=64"]
    options += ["total_steps=6000", "eval.every=1000", "eval.episodes=2", "eval.final_episodes=2", "log.every=200"]
    options += ["checkpoint.every=200", "hardware.threads=1", "hardware.compile=false"]
    whole = train(load_config([*options, f"run_dir={tmp_path / 'whole'}"]))
    run = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "deeprl_cli", "train", *options, f"run_dir={run}"], stdout=subprocess.DEVNULL
    )
    while not (run / "checkpoints" / "last" / "manifest-2.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "summary.json").exists()
    resume(run, [])
    assert left(run) == left(whole)


def test_chain_goes_on_where_a_checkpoint_stood(tmp_path):
    """Lines after the checkpoint are cut; each hash depends on all before it."""
    import torch

    weights = torch.ones(3)
    first = WeightsChain(tmp_path)
    first.extend(1, [weights])
    state = first.state_dict()
    first.extend(2, [weights])
    expected = (tmp_path / CHAIN_NAME).read_text()
    again = WeightsChain(tmp_path, state)
    assert len((tmp_path / CHAIN_NAME).read_text().splitlines()) == 1
    again.extend(2, [weights])
    assert (tmp_path / CHAIN_NAME).read_text() == expected
    other = WeightsChain(tmp_path / "..")
    other.extend(2, [weights])
    assert (tmp_path / ".." / CHAIN_NAME).read_text().split()[1] != expected.split()[3]


def test_not_a_run(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        resume(tmp_path / "none", [])
    with pytest.raises(UserError, match="not a run"):
        resume(tmp_path, [])
    run = train(short_run("ppo", tmp_path / "run"))
    assert read_run(run / "checkpoints" / "last")[0] == run


def test_a_full_disk_stops_the_run_at_its_last_whole_checkpoint(tmp_path, monkeypatch):
    """Said in one line, with the step to go on from; with room again it ends as if nothing had happened."""
    import errno

    from deeprl_cli.training import share

    options = ["seeds=2", "checkpoint.every=60"]
    whole = train(short_run("dqn", tmp_path / "whole", *options))
    saves = []

    def refused(*arguments, **keywords):
        saves.append(None)
        if len(saves) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(*arguments, **keywords)

    save = share.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(share, "save_checkpoint", refused)
        with pytest.raises(
            UserError, match=r"No space left .*stopped at step 120, the last whole checkpoint is of step 6"
        ):
            train(short_run("dqn", tmp_path / "run", *options))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    resume(tmp_path / "run", [])
    assert left(tmp_path / "run") == left(whole)


@pytest.mark.parametrize("options", [[], ["env=deeprl/PixelCatch-v0", "env.frame_stack=2"]])
def test_a_resumed_run_has_the_memory_of_one_that_was_longer_from_the_start(options, tmp_path):
    """The memory is as large as a run can fill it; given more steps, it is larger and holds the same."""
    fixed = ["horizon=240", "log.every=120", "eval.every=0", *options]
    run = train(short_run("dqn", tmp_path / "run", *fixed))
    assert load_checkpoint(run / "checkpoints" / "last").state["memory"]["capacity"] == 240
    resume(run, ["total_steps=480"])
    whole = train(short_run("dqn", tmp_path / "whole", *fixed, "total_steps=480"))
    assert (run / CHAIN_NAME).read_text() == (whole / CHAIN_NAME).read_text()
