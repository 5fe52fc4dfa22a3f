"""What comes from outside the tree: an installed package, and a file beside the user. `acme.py` writes the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from gymnasium.spaces import Discrete

from deeprl_cli.algos.registry import algorithm_names, get_algorithm
from deeprl_cli.checks.algorithm import check_algorithm
from deeprl_cli.cli import main
from deeprl_cli.commands.new import new_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.config.ranges import space
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.nets.build import NetworkFactory
from deeprl_cli.plugins import installed
from deeprl_cli.processes import fingerprint
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.sweep_folder import label
from deeprl_cli.training.preflight import preflight
from tests.plugins.acme import write_package

SHORT = ["hardware.compile=false", "hardware.threads=1", "log.every=64", "log.tensorboard=false", "eval.every=128"]
SHORT += ["eval.episodes=2", "eval.final_episodes=2", "tuned=none", "algo.hidden=[8]", "checkpoint.every=64"]


def code(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def forget_modules(folder: Path) -> None:
    """Those that were imported from there."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """`acme` is installed, and so is a package whose entry point leads nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        site = write_package(tmp_path_factory.mktemp("site"))
        patch.syspath_prepend(str(site))
        installed.forget()
        yield
    installed.forget()
    forget_modules(site)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that one works in; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    forget_modules(tmp_path)


# ---- an installed package


def test_what_a_package_adds_is_listed_and_a_broken_one_is_named(package, capsys):
    installed.forget()
    assert code("list", "algos") == code("list", "networks") == 0
    said = capsys.readouterr()
    assert "acme_ac" in said.out
    assert "sines of the observation" in " ".join(said.out.split())
    (line,) = said.err.splitlines()  # once
    assert (
        line == "deeprl: plug-in 'broken' of broken is left out: ModuleNotFoundError: No module named 'no_such_package'"
    )
    assert "acme_ac" in algorithm_names()


def test_a_package_is_trained_resumed_and_evaluated(package, here, capsys):
    """Algorithm, network, environment and callback at once. Installed code needs no leave."""
    parts = ["algo=acme_ac", "network=wavy", "network.waves=5", "env=Acme/Pole-v0", "seeds=2"]
    told = f"callbacks=[{{class:teller,kwargs:{{file:{here / 'told'}}}}}]"
    assert code("train", *parts, *SHORT, told, "log.to=[scribe]", "total_steps=256", "run_dir=part") == 0
    scribe = Path("part/scribe.txt").read_text().splitlines()
    assert scribe[-1] == "finished"
    assert {tuple(line.split()[:2]) for line in scribe[:-1]} == {
        (seed, step) for seed in "01" for step in ("128", "256")
    }
    assert (here / "told").read_text() == "finished at 256"
    config = read_config(Path("part"))
    assert (config["network"]["waves"], config["env"]["max_episode_steps"]) == (5, 25)  # the plug-in's env/<Id>.yaml
    assert config["resolved"]["machine"]["plugins"] == {"acme": "1.0"}
    capsys.readouterr()
    assert code("resume", "part", "total_steps=512") == 0
    assert "it trained with" not in capsys.readouterr().out
    assert code("train", *parts, *SHORT, "total_steps=512", "horizon=256", "run_dir=whole") == 0
    assert Path("part/weights.sha256").read_text() == Path("whole/weights.sha256").read_text()
    assert code("eval", "part", "--episodes", "2") == 0
    assert "acme_ac on Acme/Pole-v0" in capsys.readouterr().out
    file = Path("part/config.yaml")
    file.write_text(file.read_text().replace("acme: '1.0'", "acme: '0.9'\n      gone: '2'"))
    assert code("verify", "part") == 0
    said = capsys.readouterr().out
    assert "it trained with acme 0.9, and this is 1.0: other numbers may come out" in said
    assert "it trained with gone 2, which isn't installed here" in said
    assert code("resume", "part") == 2
    assert "it trained with acme 0.9, and this is 1.0" in capsys.readouterr().out
    assert code("report", "part") == 0
    assert "acme 0.9, gone 2" in Path("part/report.html").read_text()


def test_a_kind_of_exploration_and_a_network_for_a_critic(package, here):
    options = ["algo=ddpg", "env=Pendulum-v1", "algo.exploration.kind=flat", "network=wavy", *SHORT]
    options += ["total_steps=160", "algo.learning_starts=64", "algo.batch_size=16", "env.max_episode_steps=40"]
    assert code("train", *options, "run_dir=run") == 0
    assert read_summary(Path("run"))["status"] == "finished"
    with pytest.raises(ConfigError, match=r"kind=flt: must be one of gaussian, ou, none, flat; did you mean 'flat'"):
        load_config(["algo=ddpg", "algo.exploration.kind=flt"])
    with pytest.raises(ConfigError, match=r"unknown network 'wavyy'; did you mean 'wavy'"):
        load_config(["network=wavyy"])


def test_a_network_that_cant_read_the_observation_is_said_in_one_line(package):
    cfg = load_config(["network=wavy"])
    with pytest.raises(ConfigError, match=r"network=wavy can't be made: IndexError: .*\(parts.py:\d+\)"):
        NetworkFactory(Discrete(3), cfg.network, [8], "tanh")


def test_two_that_add_the_same_name_add_nothing(package, monkeypatch, capsys):
    plugin = installed.plugins()["acme"]
    monkeypatch.setattr(installed, "plugins", lambda: {"acme": plugin, "other": plugin})
    installed.names.cache_clear()
    try:
        assert "acme_ac" not in installed.names("algorithms")
        assert "plug-ins acme, other both add algorithms/acme_ac: neither is used" in capsys.readouterr().err
    finally:
        installed.names.cache_clear()


# ---- a file beside the user


@pytest.mark.slow  # a dozen short runs
def test_new_writes_what_trains_and_passes_its_check(here, capsys):
    assert code("new", "algorithm", "my_first") == 0
    assert "deeprl train algo=./my_first.py env=CartPole-v1" in capsys.readouterr().out
    assert code("check-algorithm", "./my_first.py", "--env", "CartPole-v1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("ok ") for line in lines)
    compile(Path("test_my_first.py").read_text(), "test_my_first.py", "exec")
    assert set(load_config(["algo=./my_first.py", "tuned=none"]).algo.__slots__) <= {
        "gae_lambda",
        "normalize_advantage",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a3c", "dqn", "bc"])  # a loop each
def test_deeprls_own_pass_the_check(name):
    assert {told: problem for told, problem in check_algorithm(name) if problem} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("target = value.detach() + advantage", "target = value.detach() + torch.rand(())", "draw from the noise"),
        ("self.config.normalize_advantage:", "self.config.normalize_advantage:\n            self.seen = None", ""),
        ("gain = self", "torch._dynamo.graph_break()\n        gain = self", "graph"),
        ("advantage = normalise(advantage, weight)", "advantage = advantage - advantage.mean()", "lead with the seed"),
    ],
)
def test_a_check_finds_what_breaks_the_contract(before, after, said, here):
    new_algorithm("my_broken", here)
    path = here / "my_broken.py"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    found = {told: problem for told, problem in check_algorithm("./my_broken.py", "CartPole-v1") if problem}
    assert bool(found) == bool(said)
    assert said in " ".join(found.values())


def test_a_file_is_called_by_its_name_not_by_its_place(here):
    new_algorithm("my_own", here)
    cfg = load_config(f"algo={here / 'my_own.py'} env=CartPole-v1 hardware=multiprocess hardware.workers=2")
    with pytest.raises(ConfigError, match=r"algo=my_own is synchronous"):
        preflight(cfg)
    assert label({"algo": "/somewhere/my_own.py", "algo.lr": "1e-3"}) == "my_own lr=1e-3"


def test_a_run_of_a_file_is_opened_with_leave_alone(here, capsys):
    new_algorithm("my_own", here)
    assert (
        code("train", "algo=./my_own.py", "env=CartPole-v1", "env.max_episode_steps=20", *SHORT, "total_steps=256") == 0
    )
    (run,) = Path("runs/my_own/CartPole-v1").iterdir()
    config = read_config(run)
    assert config["algo"]["name"] == str(here / "my_own.py")
    assert list(config["resolved"]["code"]) == [str(here / "my_own.py")]
    forget_modules(here)
    capsys.readouterr()
    for verb in (["eval"], ["resume"], ["verify"]):
        assert code(*verb, str(run)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"its algorithm is {here / 'my_own.py'} (sha256 " in line
        assert line.endswith("which runs code: where you trust it, give --trust")
    assert "my_own" not in sys.modules
    assert code("resume", str(run), "--trust", "total_steps=384") == 0
    assert code("eval", str(run), "--trust", "--episodes", "1") == 0
    assert "has changed since" not in capsys.readouterr().err
    (here / "my_own.py").write_text((here / "my_own.py").read_text() + "\n# a word more\n")
    assert code("eval", str(run), "--trust", "--episodes", "1") == 0
    assert f"{here / 'my_own.py'} has changed since: what it does now isn't what was trained" in capsys.readouterr().err
    (here / "my_own.py").unlink()
    forget_modules(here)
    assert code("eval", str(run), "--trust") == 2
    assert "my_own.py: no such file" in capsys.readouterr().err


def test_a_module_of_a_package_with_values_elsewhere(here):
    (here / "lab").mkdir()
    (here / "lab" / "__init__.py").touch()
    new_algorithm("deep_ac", here / "lab")
    (here / "values" / "algo").mkdir(parents=True)
    (here / "lab" / "deep_ac.yaml").rename(here / "values" / "algo" / "deep_ac.yaml")
    own = ["env=CartPole-v1", "env.max_episode_steps=20", *SHORT, "total_steps=128", "run_dir=run"]
    sys.path.insert(0, str(here))
    assert code("train", "algo=lab.deep_ac", *own) == 2
    assert code("train", "--config-dir", "values", "algo=lab.deep_ac", *own) == 0
    assert read_config(Path("run"))["algo"]["name"] == "lab.deep_ac"
    values = yaml.safe_load((here / "values" / "algo" / "deep_ac.yaml").read_text())
    assert load_config([f"hydra.searchpath=[file://{here / 'values'}]", "algo=lab.deep_ac"]).algo.lr == values["lr"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "algo=./none.py"], "it has no file of values: write none.yaml beside it"),
        (["train", "algo=./empty.py"], "empty defines no class that is a deeprl_cli.algorithm.Algorithm"),
        (["train", "algo=./random.py"], "there is another module 'random'"),
        (["train", "algo=./raises.py"], "can't import 'raises' (ZeroDivisionError: division by zero)"),
        (["train", "algo=no_such_package.algo"], "it has no file of values: write algo.yaml beside it"),
        (["train", "--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["new", "algorithm", "ppo"], "an algorithm or a module has this name already: take for example my_ppo"),
        (["new", "algorithm", "My-Algo"], "must be a Python name in small letters, for example my_algo"),
        (["new", "algorithm", "empty"], "empty.py: exists already"),
        (["check-algorithm", "ppoo"], "unknown algorithm 'ppoo'; did you mean 'ppo'?"),
    ],
)
def test_what_cant_be_is_said_in_one_line(arguments, said, here, capsys):
    for name, text in (("empty", ""), ("random", ""), ("raises", "1 / 0\n")):
        (here / f"{name}.py").write_text(text)
        (here / f"{name}.yaml").write_text(f"name: {name}\nnum_envs: 1\n")
    assert code(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_names_of_new_algorithms_are_refused_before_a_file_is_written(here):
    with pytest.raises(UserError):
        new_algorithm("torch.nn", here)
    assert not list(here.iterdir())


# ---- compiled graphs


def test_a_changed_file_is_another_graph(here):
    """The algorithm's file, and a file beside it that it imports by name: the key of stored graphs holds both."""
    new_algorithm("keyed", here)
    text = (here / "keyed.py").read_text()
    (here / "keyed_helper.py").write_text("def scale(x):\n    return 2 * x\n")
    (here / "keyed.py").write_text(text.replace("import torch\n", "import torch\nfrom keyed_helper import scale\n"))

    def key() -> str:
        fingerprint.source_of.cache_clear()
        forget_modules(here)
        algorithm = get_algorithm(str(here / "keyed.py"))
        return "\n".join(fingerprint._Walk()._code("self", algorithm))

    first = key()
    assert key() == first
    (here / "keyed_helper.py").write_text("def scale(x):\n    return 3 * x\n")
    second = key()
    assert second != first
    (here / "keyed.py").write_text((here / "keyed.py").read_text().replace("value.detach() + advantage", "advantage"))
    assert key() not in (first, second)


def test_a_study_of_a_plug_ins_algorithm_has_its_space(package):
    assert [one.key for one in space("acme_ac")] == ["algo.lr"]


def test_a_study_of_a_file_leaves_values_that_its_runs_take(here, capsys):
    new_algorithm("my_tuned", here)
    own = ["algo=./my_tuned.py", "env=CartPole-v1", *SHORT, "env.max_episode_steps=20", "total_steps=256"]
    study = ["algo.lr=choice(2e-3,4e-3)", "trials=2", "seeds=1", "fresh_seeds=2"]
    assert code("tune", *own, *study) == 0
    (folder,) = Path("runs/tune/my_tuned/CartPole-v1").glob("2*")
    found = yaml.safe_load((folder / "tuned/my_tuned/CartPole-v1.yaml").read_text())
    assert found["algo"]["lr"] in (2e-3, 4e-3)
    search = f"hydra.searchpath=[file://{folder.resolve()}]"
    cfg = load_config(["algo=./my_tuned.py", "env=CartPole-v1", "tuned=my_tuned/CartPole-v1", search])
    assert cfg.algo.lr == found["algo"]["lr"]
