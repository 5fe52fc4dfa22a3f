"""The verbs, their exit codes and single lines of error, completion, and the imports each verb does without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from deeprl_cli import __version__
from deeprl_cli.algos.registry import algorithm_names, get_algorithm
from deeprl_cli.cli import main
from deeprl_cli.commands import VERBS
from deeprl_cli.commands import list as listing
from deeprl_cli.commands.eval import Wanted
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError, UserError
from tests.contract.harness import configured

ROOT = Path(__file__).parent.parent


def deeprl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deeprl_cli", *arguments]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False)


REPORT = {
    "run": "runs/x",
    "algo": "ppo",
    "env": "E-v0",
    "checkpoint": "best",
    "episodes": 1,
    "seeds": [0],
    "return_mean": [1.0],
    "return_std": [0.0],
    "length_mean": [3.0],
    "mean": 1.0,
    "interval": None,
}


def code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Stand-ins for the modules that train and evaluate, in an empty working directory; what they were called with."""
    monkeypatch.chdir(tmp_path)
    made = []
    train = types.ModuleType("deeprl_cli.training.run")
    train.train = lambda run, seen: made.append(run)
    monkeypatch.setitem(sys.modules, "deeprl_cli.training.run", train)

    def evaluated(run, wanted):
        made.append((run, wanted))
        return REPORT, []

    monkeypatch.setattr("deeprl_cli.commands.eval.evaluate_run", evaluated)
    return made


# ---- start-up


def test_help_answers_at_once():
    def seconds() -> float:
        start = time.perf_counter()
        assert deeprl("--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["train", "algo=sac", "--cfg", "hydra"], ["train", "-sc", "query=bash"]],
)
def test_no_torch_where_none_is_needed(arguments):
    program = f"import sys; from deeprl_cli.cli import main; main({arguments}); assert 'torch' not in sys.modules"
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "COMP_LINE": "deeprl train env=Acro"}
    subprocess.run([sys.executable, "-c", program], env=settings, check=True, capture_output=True)


def test_an_error_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = deeprl("train", "algo=sac", "algo.clip_eps=0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("deeprl: unknown key 'algo.clip_eps'")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_is_no_error():
    program = f"{sys.executable} -m deeprl_cli list envs | head -1"
    done = subprocess.run(
        program, shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert code("list", "runs") == 2
    assert capsys.readouterr().err == "deeprl: the folder you are in is not there any more: change to another (cd)\n"


# ---- verbs


def test_version_and_help(capsys):
    assert code("--version") == 0
    assert capsys.readouterr().out == f"deeprl {__version__}\n"
    assert code() == 0
    assert "deeprl train algo=sac" in capsys.readouterr().out
    assert code("train", "--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in [*algorithm_names(), "cuda", "cnn", "--multirun"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?; there are train, "),
        (["algo=sac"], "deeprl train algo=sac …"),
        (["-m", "algo=sac"], "deeprl train -m …"),
        (["train", "--seed=3"], "keys are written without dashes: seed=3"),
        (["train", "--mulitrun"], "did you mean '--multirun'?"),
        (["train", "--cfg"], "expected one argument"),
        (["train", "--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["train", "--resolve"], "go with --cfg"),
        (["train", "-m", "--cfg", "job"], "leave out -m"),
        (["train", "algo", "ppo"], "'algo ppo': write algo=ppo"),
        (["train", "-m", "algo", "ppo,dqn", "seed=0,1"], "'algo ppo,dqn': write algo=ppo,dqn"),
        (["train", "seed=1", "env", "ALE/Pong-v5"], "'env ALE/Pong-v5': write env=ALE/Pong-v5"),
        (["train", "algo", "seed=1"], "'algo': write algo=…"),
        (["train", "--cfg", "job", "algo.lr=high"], "algo.lr=high: must be a number"),
        (["train", "--cfg", "job", "algo=sac", "algo.batch_size=3e6"], "larger than algo.buffer_capacity"),
        (["train", "-sc", "install=tcsh"], "one of bash, fish, zsh"),
        (["train", "-sc"], "install=SHELL"),
        (["eval"], "required: RUN"),
        (["eval", "runs/x", "--episodes", "0"], "'0' is not a whole number of at least 1"),
        (["eval", "runs/x", "--seed", "-1"], "--seed"),
        (["eval", "runs/x", "--video-episodes", "3"], "goes with --video"),
        (["eval", "runs/x", "--checkpoint", "worst"], "'worst' is not best, last, or a step"),
        (["list"], "required: what"),
        (["list", "algo"], "invalid choice: 'algo'"),
        (["list", "envs", "zzz-nothing"], "no environment contains 'zzz-nothing'"),
    ],
)
def test_what_cant_be_done_is_said_in_one_line(calls, capsys, arguments, says):
    assert code(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deeprl: ")
    assert says in line
    assert calls == []


def test_train_hands_on_the_checked_configuration(calls):
    assert code("train", "algo=sac", "env=Pendulum-v1", "seeds=2") == 0
    (trained,) = calls
    assert (trained.algo.name, trained.seeds) == ("sac", 2)
    assert not list(Path().iterdir())  # Hydra has made no folder of its own


def test_train_shows_its_configuration(calls, capsys):
    assert code("train", "--cfg", "job", "algo=sac", "-p", "algo") == 0
    assert capsys.readouterr().out.startswith("name: sac\n")
    assert calls == []


def test_errors_of_the_preflight_are_lines_and_others_tracebacks(calls, monkeypatch, capsys):
    def refuse(cfg, seen):
        raise ConfigError("algo=dqn takes Discrete actions")

    monkeypatch.setattr(sys.modules["deeprl_cli.training.run"], "train", refuse)
    assert code("train", "algo=dqn") == 2
    assert capsys.readouterr().err == "deeprl: algo=dqn takes Discrete actions\n"

    def fail(cfg, seen):
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["deeprl_cli.training.run"], "train", fail)
    with pytest.raises(ZeroDivisionError):
        main(["train", "algo=dqn"])


def test_interruption_before_training(calls, monkeypatch):
    def interrupt(cfg, seen):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["deeprl_cli.training.run"], "train", interrupt)
    assert code("train") == 130


def test_eval_hands_its_flags_on(calls, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert code("eval", "runs/x", "--episodes", "7", "--seed", "3", "--checkpoint", "last", "--json") == 0
    assert code("eval", "runs/x", "--stochastic") == 0
    film = ["--video", "films", "--video-episodes", "3"]
    assert code("eval", "runs/x", "--stochastic", "--trust", *film) == 0
    assert calls == [
        (Path("runs/x"), Wanted(episodes=7, seed=3, checkpoint="last")),
        (Path("runs/x"), Wanted(stochastic=True)),
        (Path("runs/x"), Wanted(stochastic=True, trust=True, video=Path("films"), filmed=3)),
    ]
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == REPORT


def test_several_runs_make_a_table(calls, monkeypatch, capsys):
    """One that can't be played doesn't keep the others from being shown; the exit code is its."""

    def one_fails(run, wanted):
        if run.name == "bad":
            raise UserError("bad: not a run")
        several = {"seeds": [0, 1], "mean": 2.5, "interval": [2.0, 3.0]} if run.name == "y" else {}
        return {**REPORT, "run": str(run), **several}, []

    monkeypatch.setattr("deeprl_cli.commands.eval.evaluate_run", one_fails)
    assert code("eval", "runs/x", "bad", "runs/y") == 2
    said = capsys.readouterr()
    assert said.err == "deeprl: bad: not a run\n"
    assert [line.split() for line in said.out.splitlines()] == [
        ["run", "algo", "env", "seeds", "checkpoint", "return", "95%", "interval", "over", "seeds"],
        ["runs/x", "ppo", "E-v0", "seed", "0", "best", "1.00"],
        ["runs/y", "ppo", "E-v0", "2", "seeds", "best", "2.50", "[2.00,", "3.00]"],
    ]
    assert code("eval", "runs/x", "runs/y", "--json") == 0
    assert [report["run"] for report in json.loads(capsys.readouterr().out)] == ["runs/x", "runs/y"]
    assert code("eval", "runs/x", "runs/y", "--video", "films") == 2


# ---- list


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_list_algos(wide, capsys):
    assert code("list", "algos") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in algorithm_names())
    row = next(line for line in told.splitlines() if line.startswith("sac"))
    assert all(word in row for word in ("replay", "Box", "vectors", "deck Algorithm 7"))


def test_lists_stay_readable_in_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    assert code("list", "algos") == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 40
    sac = lines[lines.index("sac") : lines.index("td3")]
    assert "  Loop: replay" in sac
    assert "  Actions: Box" in sac
    assert "  Reference: deck Algorithm 7" in sac
    assert "  What it is: Off-policy" in sac[1]
    assert code("list", "networks", "tiles") == 2
    assert code("list", "hardware") == 0
    assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= 40


SPACES = {
    "vectors": spaces.Box(-1.0, 1.0, (3,)),
    "images": spaces.Box(0, 255, (84, 84, 3), np.uint8),
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([4, 4]),
}


@pytest.mark.parametrize("name", algorithm_names())
def test_the_observations_listed_are_those_that_networks_take(name):
    """Each kind is listed exactly where the algorithm accepts some network for it, and so is each network's part."""
    algorithm, cfg = get_algorithm(name), load_config(name)
    action = spaces.Box(-1.0, 1.0, (2,)) if spaces.Box in algorithm.action_spaces else spaces.Discrete(2)
    taken = {}
    for kind, space in SPACES.items():
        for network in sorted({network for readers in listing.READS.values() for network in readers}):
            try:
                algorithm.check(cfg.algo, configured(f"network={network}").network, EnvSpec("e", space, action))
            except ConfigError:
                continue
            taken.setdefault(kind, set()).add(network)
    assert listing.observations(algorithm) == list(taken)
    if name == "ppo":
        assert {kind: set(readers) for kind, readers in listing.READS.items()} == taken


def test_list_envs(wide, capsys):
    assert code("list", "envs") == 0
    assert "classic_control" in capsys.readouterr().out
    assert code("list", "envs", "CartPole-v1") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("CartPole-v1"))
    assert row.split()[1:] == ["Box(4,)", "float32", "Discrete(2)", "500"]
    assert code("list", "envs", "mountaincar") == 0
    told = capsys.readouterr().out
    assert "MountainCarContinuous-v0" in told
    assert "Box(1,) float32 in [-1, 1]" in told


def test_list_networks_and_hardware(wide, capsys):
    assert code("list", "networks") == 0
    assert "cnn" in capsys.readouterr().out
    assert code("list", "hardware") == 0
    told = capsys.readouterr().out
    assert "torch threads" in told
    assert "cuda" in told


def test_an_environment_that_cant_be_made_says_why():
    assert listing._described("GymV21Environment-v0")[0].startswith("can't be built: ")


# ---- shell completion


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("deeprl ", " ".join(VERBS)),
        ("deeprl l", "list"),
        ("deeprl list ne", "networks"),
        ("deeprl eval ru", ""),
        ("deeprl train hardware=", "hardware=cpu hardware=cuda hardware=multiprocess"),
        ("deeprl train algo=sac algo.lr_c", "algo.lr_critic="),
        ("deeprl train -m env=Acro", "env=Acrobot-v1"),
        ("deeprl train --some-flag seed", "seed= seeds="),
    ],
)
def test_completion(monkeypatch, capsys, line, offered):
    monkeypatch.setenv("COMP_LINE", line)
    assert code("-sc", "query=bash") == 0
    assert capsys.readouterr().out.strip() == offered


def test_completion_script(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/deeprl"])
    assert code("train", "-sc", "install=bash") == 0
    assert capsys.readouterr().out.rstrip().endswith("-F hydra_bash_completion deeprl")
