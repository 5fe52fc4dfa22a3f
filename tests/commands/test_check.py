"""`--check` does everything short of training; `--explain` says where each value stands."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest

from deeprl_cli.cli import main
from deeprl_cli.commands.check import Clock, Pace, check, measure, seconds_for
from deeprl_cli.config.compose import load_config
from deeprl_cli.config.explain import Origin, explain, table
from deeprl_cli.envs.look import look
from deeprl_cli.errors import UserError
from deeprl_cli.processes import hardware
from deeprl_cli.training.base import Trainer
from tests.contract.harness import ALGORITHMS, short_run


@pytest.mark.parametrize("name", ALGORITHMS)
def test_check_does_an_update_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deeprl_cli.commands.check.MEASURED", 0.05)
    said = check(short_run(name, tmp_path / "run"))
    assert re.search(r"first update  fine \(loss/", said)
    assert re.search(r"time +about .* for 240 steps", said)
    assert list(tmp_path.iterdir()) == []


def test_check_says_which_values_apply_and_what_was_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("deeprl_cli.commands.check.MEASURED", 0.05)
    cfg = short_run("ppo", tmp_path / "run")
    seen = look(cfg.env)
    seen = dataclasses.replace(seen, notes=[*seen.notes, "the observation is read as a picture"])
    assert check(cfg, seen).splitlines()[-2:] == ["no tuned values, 240 steps", "the observation is read as a picture"]


def test_check_does_not_wait_for_the_random_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("deeprl_cli.commands.check.MEASURED", 0.05)
    said = check(short_run("dqn", tmp_path / "run", "algo.learning_starts=200000", "total_steps=1000000"))
    assert "first update  fine" in said


def test_the_time_is_that_of_what_will_run(tmp_path, monkeypatch):
    """Compiled where the run is, on its threads; compiling itself, and the random steps before learning, apart."""
    compiled = []

    def compile_nothing(self, name, method):
        compiled.append(name)
        return method

    monkeypatch.setattr("deeprl_cli.commands.check.MEASURED", 0.05)
    monkeypatch.setattr(hardware.GraphCompiler, "__call__", compile_nothing)
    monkeypatch.setattr(hardware, "find_compiler", lambda: "g++")
    said = check(short_run("dqn", tmp_path / "run", "hardware.compile=true", "hardware.threads=1"))
    assert "step" in compiled
    assert re.search(r"time +about .* for 240 steps, compiled \([\d,]+ steps/s of each seed\)", said)
    assert "steps, eager (" in check(short_run("dqn", tmp_path / "run"))


def test_random_steps_and_workers_have_a_pace_of_their_own(monkeypatch):
    monkeypatch.setattr(hardware, "available_cores", lambda: 2)
    cfg = load_config("algo=dqn env=CartPole-v1 tuned=none algo.learning_starts=1000 total_steps=11000")
    assert seconds_for(cfg, Pace(50, 0.1), Pace(100, 10.0)) == pytest.approx(2 + 1000)
    assert seconds_for(cfg, Pace(0, 0.0), Pace(100, 10.0)) == pytest.approx(1100)
    workers = load_config("algo=a3c env=CartPole-v1 hardware=multiprocess hardware.workers=8 total_steps=1000")
    assert seconds_for(workers, Pace(0, 0.0), Pace(100, 10.0)) == pytest.approx(50)


def test_compiling_takes_no_time_of_the_pace(monkeypatch):
    class Trainer:
        steps = 0

        def iterate(self):
            self.steps += 7
            compiler.seconds += 5.0
            now[0] += 6.0

    now, compiler = [100.0], SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("deeprl_cli.commands.check.time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert measure(Trainer(), Clock(compiler)) == Pace(28, 4.0)


def test_check_finds_an_update_that_fails(tmp_path, monkeypatch):
    """Rewards too large for the loss: said by name."""
    step = Trainer.env_step

    def huge(self, *arguments):
        result = step(self, *arguments)
        result.reward[:] = 1e30
        return result

    monkeypatch.setattr(Trainer, "env_step", huge)
    with pytest.raises(UserError, match=r"the first update's .* is .*inf"):
        check(short_run("dqn", tmp_path / "run", "algo.loss=mse"))


def test_check_and_explain_are_for_one_run(capsys):
    for flag in ("--check", "--explain"):
        with pytest.raises(SystemExit):
            main(["train", flag, "-m", "seed=1,2"])
        assert "one run" in capsys.readouterr().err


def origins(*overrides):
    return {origin.key: origin for origin in explain(overrides)}


def test_each_value_has_its_origin():
    """The last that names a key: root, algorithm, environment, network, hardware, tuned, experiment, command line."""
    found = origins("algo=dqn", "env=CartPole-v1", "algo.epsilon.end=0.1", "hardware.threads=2")
    assert found["seed"] == Origin("seed", 0, "train", "the first run seed")
    assert found["algo.gamma"].source == "algo/dqn"
    assert found["algo.train_every"].source == found["total_steps"].source == "tuned/dqn/CartPole-v1"
    assert found["algo.epsilon.end"] == Origin("algo.epsilon.end", 0.1, "command line", "algo.epsilon.end=0.1")
    assert found["algo.epsilon.start"].source == "algo/dqn"
    assert found["algo.loss"].comment == "huber | mse | half_mse (the deck's)"
    assert found["hardware.compile"].source == "hardware/cpu"
    assert (found["algo.name"].source, found["env.id"].comment) == ("command line", "env=CartPole-v1")
    assert found["env.frame_stack"].source == "env"
    assert "algo" not in found
    assert "algo.epsilon" not in found


def test_atari_experiments_and_whole_groups():
    assert origins("env=ALE/Pong-v5")["env.frame_stack"].source == "atari"
    assert origins("env=ALE/Pong-v5")["env.kwargs.frameskip"].source == "env=ALE/Pong-v5"
    assert origins("algo=ppo", "tuned=none")["total_steps"].source == "train"
    literal = origins("experiment=deck/q_learning")
    assert literal["algo.target_update"].source == "experiment/deck/q_learning"
    assert origins("algo=dqn", "algo.epsilon={end: 0.2}")["algo.epsilon.end"].source == "command line"


def test_explained_on_the_command_line(capsys):
    main(["train", "--explain", "algo=sac", "env=Pendulum-v1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("values tuned for Pendulum-v1 (tuned=sac/Pendulum-v1), 20,000 steps")
    assert "RL Zoo's values" in lines[1]
    assert lines[3].split() == ["key", "value", "from"]
    assert any(line.startswith("algo.rho ") and "algo/sac" in line and "Polyak" in line for line in lines)
    with pytest.raises(SystemExit):
        main(["train", "--explain", "algo=sac", "algo.rh=1"])
    assert "did you mean" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--explain", "algo=ppo", "env=halfcheetah-v5"])
    assert "unknown environment 'halfcheetah-v5'" in capsys.readouterr().err
    rows = [line.split() for line in table([Origin("a", None, "x", ""), Origin("b", True, "y", "why")]).splitlines()]
    assert rows == [["key", "value", "from"], ["a", "null", "x"], ["b", "true", "y", "why"]]
