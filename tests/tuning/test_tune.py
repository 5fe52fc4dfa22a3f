"""`deeprl tune`: whole studies, stopped, killed and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.training.base import Trainer
from deeprl_cli.tuning import plan as plans
from deeprl_cli.tuning.store import Store
from deeprl_cli.tuning.verdict import verdict, worse

SMALL = [
    "algo=ppo",
    "env=deeprl/Chain-v0",
    "tuned=none",
    "algo.rollout_length=32",
    "algo.epochs=1",
    "algo.hidden=[8]",
    "hardware.compile=false",
    "hardware.threads=1",
    "total_steps=64",
    "eval.every=32",
    "eval.episodes=1",
    "eval.final_episodes=2",
    "fresh_seeds=2",
    "seeds=2",
    "algo.num_envs=2",
]
RANGES = ["algo.lr=interval(1e-4,1e-1)", "algo.gamma=choice(0.9,0.99)", "algo.batch_size=64,32"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def code(*arguments):
    try:
        main(list(arguments))
    except SystemExit as stop:
        return stop.code
    return 0


def trials(study, url=None):
    storage = url or JournalStorage(JournalFileBackend(str(Path(study) / "journal.log")))
    return optuna.load_study(study_name=Path(study).name, storage=storage).trials


def counts(study):
    return Counter(trial.state.name for trial in trials(study))


def test_a_study_from_ranges_to_tuned_file(capsys):
    """Batches of one structure, the defaults first, a score each; the best on fresh seeds; a file that runs take."""
    assert code("tune", *SMALL, *RANGES, "trials=5", "batch=2", "study=s", "out=mine") == 0
    told = capsys.readouterr().out
    assert "trials 0–1 of 5: 4 members, to step 64" in told
    assert "on fresh seeds 2 to 3" in told
    assert "80% of the trials trained stacked" in told
    found = trials("s")
    assert counts("s") == {"COMPLETE": 5}
    assert found[0].user_attrs["algo.lr"] == 3e-4, "the defaults are tried first, where the ranges hold them"
    assert [trial.params["algo.batch_size"] for trial in found[:2]] == [found[0].params["algo.batch_size"]] * 2
    assert len({trial.params["algo.lr"] for trial in found}) == 5
    for trial in found:
        assert len(trial.user_attrs["scores"]) == 2
        cfg = yaml.safe_load((Path("s/trials") / f"{trial.number:04}" / "config.yaml").read_text())
        for key in ("lr", "gamma", "batch_size"):
            assert cfg["algo"][key] == trial.user_attrs[f"algo.{key}"]
        assert cfg["seeds"] == 2
    result = json.loads(Path("s/result.json").read_text())
    best = max(found, key=lambda trial: trial.value)
    assert result["trial"] == best.number
    assert result["stacked"] == 0.8
    assert len(result["best"]["returns"]) == len(result["defaults"]["returns"]) == 2

    folder = Path("mine").resolve()
    cfg = load_config(["algo=ppo", "env=deeprl/Chain-v0", f"hydra.searchpath=[file://{folder}]"])
    assert cfg.algo.lr == best.user_attrs["algo.lr"]
    assert cfg.algo.hidden == [8], "what was typed belongs to what was found"
    assert cfg.total_steps == 64
    assert "deeprl train algo=ppo env=deeprl/Chain-v0 --config-dir mine" in told
    assert "as a picture: s/study.png" in told
    assert code("plot", "s", "--out", "own.svg") == 0
    assert Path("s/study.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("own.svg").read_text()
    capsys.readouterr()

    assert code("tune", "s") == 0, "it is done: it says the same again"
    again = capsys.readouterr().out
    assert "on fresh seeds 2 to 3" in again
    assert "trials 0" not in again
    assert code("tune", "s", "trials=7") == 0
    assert counts("s") == {"COMPLETE": 7}
    assert code("tune", "s", "algo.lr=1") == 2
    assert "a study goes on as it is" in capsys.readouterr().err


def stopped_at(step, monkeypatch, how):
    """A signal when a trainer first comes to this step, or the end of the process there."""
    happened = []

    def log(self):
        if self.steps >= step and not happened:
            happened.append(self.steps)
            how()
        return original(self)

    original = Trainer.log
    monkeypatch.setattr(Trainer, "log", log)


class Killed(BaseException):
    pass


def kill():
    raise Killed


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


PLAIN = [*SMALL, "batch=2", "algo.lr=interval(1e-4,1e-1)", "trials=4", "log.every=16", "checkpoint.every=32"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The trials of a study that nothing has stopped: their values and scores."""
    folder = tmp_path_factory.mktemp("study") / "s"
    assert code("tune", *PLAIN, f"study={folder}") == 0
    return [(trial.params, trial.value) for trial in trials(folder)]


@pytest.mark.parametrize("how", [interrupt, kill])
def test_the_same_command_goes_on(how, whole, monkeypatch, capsys):
    """As if nothing had happened: no trial is lost, none counted twice, and all scores are the same."""
    with monkeypatch.context() as patch:
        stopped_at(48, patch, how)
        if how is kill:
            with pytest.raises(Killed):
                code("tune", *PLAIN)
        else:
            assert code("tune", *PLAIN) == 130
            assert "go on with it: deeprl tune runs/tune/ppo/" in capsys.readouterr().out
    (study,) = Path("runs/tune/ppo").glob("*/*/study.json")
    assert counts(study.parent) == {"RUNNING": 2}
    assert code("tune", *PLAIN) == 0
    assert f"goes on with the study {study.parent}" in capsys.readouterr().out
    assert counts(study.parent) == {"COMPLETE": 4}
    assert [(trial.params, trial.value) for trial in trials(study.parent)] == whole
    assert code("tune", *PLAIN, "trials=4") == 0, "a study that is done begins anew"
    assert len(list(Path("runs/tune/ppo").glob("*/*/study.json"))) == 2


def test_killed_between_asking_and_training(whole, monkeypatch):
    """Trials that nobody has begun have failed, and others take their place; a torn line of the journal is none."""
    from deeprl_cli.tuning.store import Store

    with monkeypatch.context() as patch:
        patch.setattr(Store, "open_unit", lambda *arguments: kill())
        with pytest.raises(Killed):
            code("tune", *PLAIN, "study=s")
    with Path("s/journal.log").open("ab") as file:
        file.write(b'{"op_code":')
    assert code("tune", "s") == 0
    assert counts("s") == {"FAIL": 2, "COMPLETE": 4}


def test_a_signal_that_comes_as_a_training_ends_stops_the_study(monkeypatch, capfd):
    """The training has been done by then and asks no more, and whatever runs there may swallow a KeyboardInterrupt: an
    import, a finaliser, a library's callback."""
    from deeprl_cli.tuning import work

    came = []

    def score(*arguments):
        with contextlib.suppress(KeyboardInterrupt):
            if not came:
                came.append(True)
                interrupt()
        return original(*arguments)

    original = work.score
    with monkeypatch.context() as patch:
        patch.setattr(work, "score", score)
        assert code("tune", *PLAIN, "study=s") == 130
    said = capfd.readouterr()
    assert "go on with it: deeprl tune s" in said.out
    assert "stopping: the study can go on (once more to quit at once)" in said.err
    assert counts("s") == {"COMPLETE": 2}
    assert code("tune", "s") == 0
    assert counts("s") == {"COMPLETE": 4}


def test_a_signal_before_a_training_begins_stops_it_at_its_first_step(whole, monkeypatch):
    from deeprl_cli.tuning import work

    def looked_at(jobs):
        interrupt()
        return original(jobs)

    original = work.looked_at
    with monkeypatch.context() as patch:
        patch.setattr(work, "looked_at", looked_at)
        assert code("tune", *PLAIN, "study=s") == 130
    assert counts("s") == {"RUNNING": 2}
    assert code("tune", "s") == 0
    assert [(trial.params, trial.value) for trial in trials("s")] == whole


def test_killed_between_scores(whole, monkeypatch):
    """What was told stays told."""
    from deeprl_cli.tuning import work

    scored = []

    def score(*arguments):
        scored.append(arguments)
        return kill() if len(scored) == 2 else original(*arguments)

    original = work.score
    with monkeypatch.context() as patch:
        patch.setattr(work, "score", score)
        with pytest.raises(Killed):
            code("tune", *PLAIN, "study=s")
    assert counts("s") == {"COMPLETE": 1, "RUNNING": 1}
    assert code("tune", "s") == 0
    assert [(trial.params, trial.value) for trial in trials("s")] == whole


def test_at_the_start_four_trials_have_one_structure_later_a_batch():
    sizes = ["algo.lr=interval(1e-4,1e-1)", "algo.batch_size=64,32,16", "algo.optim=adam,sgd"]
    assert code("tune", *SMALL, *sizes, "trials=24", "batch=8", "startup=16", "study=s") == 0
    units = [json.loads(path.read_text()) for path in sorted(Path("s/units").glob("*/unit.json"))]
    structures = [(trial.params["algo.batch_size"], trial.params["algo.optim"]) for trial in trials("s")]
    assert [len(set(structures[first : first + 4])) for first in range(0, 24, 4)] == [1] * 6
    assert structures[0] == (64, "adam"), "the defaults'"
    assert len(set(structures[:16])) > 2
    assert len(set(structures[16:])) == 1
    assert all(len(stack) >= 4 for unit in units for stack in unit["stacks"])


def test_a_database_instead_of_the_journal(monkeypatch, capsys):
    """It is found from another folder, too; opening it, or a journal, unpickles nothing; a lost one is no new study."""
    assert code("tune", *PLAIN, "study=s", "storage=sqlite:///optuna.db") == 0
    assert not Path("s/journal.log").exists()
    assert [trial.state.name for trial in trials("s", "sqlite:///optuna.db")] == ["COMPLETE"] * 4
    assert sqlite3.connect("optuna.db").execute("select count(*) from trials").fetchone() == (4,)
    study, database = Path("s").absolute(), Path("optuna.db").absolute()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, lambda *_, **__: pytest.fail("unpickled"))
        assert len(Store(plans.read(study)).trials()) == 4
        shutil.copytree(study, "journal")
        record = json.loads(Path("journal/study.json").read_text())
        record["settings"]["storage"] = None
        Path("journal/study.json").write_text(json.dumps(record))
        assert not Store(plans.read(Path("journal"))).trials()
        assert Store(plans.read(Path("journal"))).ask(1) == [0]
        assert len(Store(plans.read(Path("journal"))).trials()) == 1
    database.unlink()
    assert code("tune", str(study)) == 2
    assert "can't be opened" in capsys.readouterr().err
    assert not database.exists()


def test_budgets(capsys):
    """Steps of all seeds of all trials: two trials of two seeds and 64 steps are 256."""
    plain = [word for word in PLAIN if not word.startswith("trials")]
    assert code("tune", *plain, "study=steps", f"steps={3 * 128 + 100}") == 0
    assert len(trials("steps")) == 3
    assert code("tune", *plain, "study=minutes", "minutes=1e-6") == 0
    assert len(trials("minutes")) == 2, "what is under way is trained to its end"
    assert code("tune", *plain, "study=none", "steps=100") == 2
    assert "steps=100" in capsys.readouterr().err


def test_trials_that_fail(capsys):
    """A setting that can't be trained is worse than all others; where all fail, the study ends."""
    broken = ["env=tests.tuning.breaking:Breaking-v0", "env.kwargs.breaks_at=choice(0,20)"]
    words = [word for word in SMALL if not word.startswith("env=")]
    assert code("tune", *words, *broken, "trials=4", "batch=4", "study=s") == 0
    states = {trial.user_attrs["env.kwargs.breaks_at"]: trial.state.name for trial in trials("s")}
    assert states == {0: "COMPLETE", 20: "PRUNED"}
    assert "failed: " in capsys.readouterr().out
    assert code("tune", "s") == 2, "a module that the study names, and nobody typed"
    assert "its environment tests.tuning.breaking:Breaking-v0 imports" in capsys.readouterr().err
    assert code("tune", *words, *broken, "trials=4", "batch=4", "study=s") == 0, "typed"
    assert code("tune", "s", "--trust") == 0
    broken[1] = "env.kwargs.breaks_at=choice(19,20)"
    assert code("tune", *words, *broken, "trials=4", "study=all") == 2
    assert "every trial so far has failed" in capsys.readouterr().err


def test_without_optuna(monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else find(name, *rest)
    )
    assert code("tune", *SMALL) == 2
    assert "pip install 'deeprl-cli[tune]'" in capsys.readouterr().err


def test_what_cannot_be_begun(capsys):
    Path("full").mkdir()
    Path("full/file").touch()
    for words, told in (
        (["nowhere"], "nowhere: no study there"),
        (["algo=ppo", "study=full"], "not empty"),
        (["algo=sac", "env=CartPole-v1"], "algo=sac"),
        (["algo=ppo", "storage=sqlite:////nowhere/x.db"], "can't be opened"),
        (["algo=ppo", "storage=postgresql://me:secret@host/db"], "storage=postgresql:…: a study is kept in a file"),
        (["algo=ppo", "storage='sqlite:///x.db?plugin=mine'"], "storage=sqlite:…: a study is kept in a file"),
        (["algo=ppo", "storage=study.db"], "a study is kept in a file: storage=sqlite:///PATH"),
    ):
        assert code("tune", *words) == 2
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1


def test_where_the_defaults_are_better_it_says_so():
    assert worse({"p": 0.01, "difference": -3.0})
    assert not worse({"p": 0.2, "difference": -3.0})
    assert verdict({"p": 0.01, "difference": -3.0}) == "the defaults earn more (Yuen's test, p = 0.01): keep them"
    assert "can't be told apart" in verdict({"p": 0.2, "difference": -3.0})
    assert "the best earns more than the defaults" in verdict({"p": 0.01, "difference": 3.0})
