"""Composition, any environment id, precedence, and what is said about overrides that can't be taken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from deeprl_cli.algos.registry import algorithm_names, get_algorithm
from deeprl_cli.config import compose as config
from deeprl_cli.config import files as config_files
from deeprl_cli.config import hydra_compose
from deeprl_cli.config.compose import compose_values, config_text, expand_sweep, load_config
from deeprl_cli.config.explain import explain
from deeprl_cli.errors import ConfigError


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of the configurations, to add files to."""
    folder = tmp_path / "configs"
    shutil.copytree(config_files.config_dir(), folder)
    for module in (config, config_files, hydra_compose):
        monkeypatch.setattr(module, "config_dir", lambda: folder)
    return folder


def write(folder: Path, name: str, text: str) -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- composition


@pytest.mark.parametrize("name", algorithm_names())
def test_every_algorithm_composes_into_its_own_typed_config(name):
    run = load_config(name)
    assert type(run.algo) is get_algorithm(name).Config
    assert run.algo.name == name


def test_every_algorithm_has_a_file_and_every_file_an_algorithm():
    assert config.group_options("algo") == algorithm_names()


@pytest.mark.parametrize("group", ["network", "hardware"])
def test_every_option_composes_under_its_own_name(group):
    for name in config.group_options(group):
        assert compose_values([f"{group}={name}"])[group]["name"] == name


@pytest.mark.parametrize("name", config.group_options("env"))
def test_files_of_environments_hold_their_id(name):
    assert compose_values([f"env={name}"])["env"]["id"] == name


def test_load_config_takes_a_name_a_line_or_a_list():
    assert load_config("sac").algo.name == "sac"
    assert load_config("algo=sac seed=3").seed == 3
    assert load_config(["algo=sac", "seed=3", "seeds=2"]).seed_list == [3, 4]
    assert load_config().env.id == "CartPole-v1"


def test_hydra_of_the_callers_own_program_is_left_as_it_was():
    before = GlobalHydra.instance().hydra
    load_config("ppo")
    assert GlobalHydra.instance().hydra is before


@pytest.mark.parametrize(
    "name", ["Acrobot-v1", "ALE/Pong-v5", "my.module:Grid-v0", "my.module:Space/Grid-v12", "my.module:Unversioned"]
)
def test_any_id_is_an_environment_without_a_file(name):
    env = compose_values([f"env={name}"])["env"]
    assert env["id"] == name
    assert env["backend"] == "sync"


def test_atari_ids_bring_their_preprocessing():
    assert compose_values(["env=BreakoutNoFrameskip-v4"])["env"]["atari"]["enabled"] is True
    ale = compose_values(["env=ALE/Breakout-v5"])["env"]
    assert (ale["atari"]["enabled"], ale["frame_stack"], ale["kwargs"]) == (True, 4, {"frameskip": 1})
    assert compose_values(["env=Acrobot-v1"])["env"]["atari"]["enabled"] is False


def test_environment_arguments_take_any_key():
    written = ["env=FrozenLake-v1", "env.kwargs.map_name=8x8", "+env.kwargs.is_slippery=false"]
    assert compose_values(written)["env"]["kwargs"] == {"map_name": "8x8", "is_slippery": False}
    assert compose_values(["env.kwargs={a: 1}"])["env"]["kwargs"] == {"a": 1}
    assert compose_values(["env=ALE/Pong-v5", "~env.kwargs.frameskip"])["env"]["kwargs"] == {}


def test_later_wins(configs):
    write(configs, "env/Odd-v0", "defaults: [/env@_here_, _self_]\nid: Odd-v0\nframe_stack: 2\n")
    write(configs, "tuned/ppo/Odd-v0", "# @package _global_\nalgo: {lr: 0.5, gamma: 0.5}\nenv: {frame_stack: 3}\n")
    write(
        configs,
        "experiment/deck/odd",
        "# @package _global_\ndefaults: [override /algo: ppo, override /env: Odd-v0]\nalgo: {lr: 0.25}\nseeds: 4\n",
    )
    tuned = compose_values(["env=Odd-v0"])
    assert (tuned["algo"]["lr"], tuned["algo"]["gamma"], tuned["env"]["frame_stack"]) == (0.5, 0.5, 3)
    experiment = compose_values(["experiment=deck/odd"])
    assert (experiment["algo"]["lr"], experiment["algo"]["gamma"], experiment["seeds"]) == (0.25, 0.5, 4)
    line = compose_values(["experiment=deck/odd", "algo.lr=0.125", "env.frame_stack=1"])
    assert (line["algo"]["lr"], line["env"]["frame_stack"], line["seeds"]) == (0.125, 1, 4)
    # the command line chooses groups over the experiment, and another pair isn't given this one's tuned values
    other = compose_values(["experiment=deck/odd", "env=Acrobot-v1"])
    assert (other["algo"]["gamma"], other["env"]["id"]) == (0.99, "Acrobot-v1")


def test_tuned_values_can_be_refused(configs):
    write(configs, "tuned/sac/Ns/Odd-v0", "# @package _global_\nalgo: {gamma: 0.5}\n")
    write(
        configs,
        "experiment/deck/sac",
        "# @package _global_\ndefaults: [override /algo: sac, override /env: Ns/Odd-v0, override /tuned: none]\n",
    )
    assert compose_values(["algo=sac", "env=Ns/Odd-v0"])["algo"]["gamma"] == 0.5
    assert compose_values(["algo=sac", "env=Ns/Odd-v0", "tuned=none"])["algo"]["gamma"] == 0.99
    assert compose_values(["experiment=deck/sac"])["algo"]["gamma"] == 0.99
    assert compose_values(["experiment=deck/sac", "tuned=none"])["algo"]["gamma"] == 0.99
    for overrides in (["experiment=deck/sac", "tuned=sac/Ns/Odd-v0"], ["tuned=sac/Ns/Odd-v0", "experiment=deck/sac"]):
        assert "deck experiments take no tuned values; leave it out" in refusal(*overrides)


def test_deck_experiments_move_to_other_environments_and_values():
    """No tuned values come in with the environment; what is written after the experiment wins."""
    run = load_config(["experiment=deck/ppo", "env=Acrobot-v1", "algo.lr=1e-3"])
    assert (run.env.id, run.algo.lr, run.algo.gae_lambda, run.algo.minibatch) == ("Acrobot-v1", 1e-3, 1.0, "sample")
    assert not run.algo.normalize_obs  # the tuned values of PPO on Acrobot-v1 say otherwise
    jobs = expand_sweep(["experiment=deck/ppo,deck/a2c", "env=CartPole-v1,Acrobot-v1"]).jobs
    chosen = [load_config(job) for job in jobs]
    assert [(run.algo.name, run.env.id) for run in chosen] == [
        (algo, env) for algo in ("ppo", "a2c") for env in ("CartPole-v1", "Acrobot-v1")
    ]


def test_interpolations_are_resolved():
    assert load_config(["algo=ppo", "tuned=none", "algo.batch_size=${algo.rollout_length}"]).algo.batch_size == 256


def test_counts_may_be_written_as_floats():
    assert load_config(["total_steps=1e6"]).total_steps == 1_000_000


def test_config_text_shows_the_whole_or_a_part():
    assert config_text(["algo=sac"], "job", None, False).startswith("seed: 0\n")
    assert config_text(["algo=sac"], "job", "algo", False).startswith("name: sac\n")
    assert config_text(["seed=7"], "job", "seed", False) == "7\n"
    assert "output_subdir: null" in config_text([], "hydra", None, False)
    with pytest.raises(ConfigError, match="did you mean 'network'"):
        config_text([], "job", "netwrok", False)


# ---- refusals: one line, the mend in it


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["algo=sca"], "unknown algo 'sca'; did you mean 'sac'?; known: "),
        (["network=mpl"], "did you mean 'mlp'"),
        (["hardware=cud"], "did you mean 'cuda'"),
        (["env=cartpole"], "unknown env 'cartpole'; did you mean 'CartPole-v1'?"),
        (["env=LunarLander"], "did you mean 'LunarLander-v3'?"),
        (["tuned=nne"], "unknown tuned 'nne'; did you mean 'none'?"),
        (["experiment=nothing/like/it"], "unknown experiment 'nothing/like/it'"),
        (["algo.gama=0.9"], "unknown key 'algo.gama'; did you mean 'algo.gamma'?"),
        (["gama=0.9"], "did you mean 'algo.gamma'?"),
        (["clip_eps=0.1"], "unknown key 'clip_eps'; did you mean 'algo.clip_eps'?"),
        (["enabled=true"], "did you mean 'algo.sde.enabled' or 'env.atari.enabled'?"),
        (["env.enabled=true"], "did you mean 'env.atari.enabled'?"),
        (["environment=CartPole-v1"], "did you mean 'env'?"),
        (["algorithm=sac"], "did you mean 'algo'?"),
        (["evl.every=3"], "did you mean 'eval.every'"),
        (
            ["algo=sac", "algo.clip_schedule=linear"],
            "'algo.clip_schedule': algo=sac doesn't have it; it belongs to ppo: leave it out",
        ),
        (["algo=sac", "clip_schedule=linear"], "it belongs to ppo"),
        (["algo.xyzzy=1"], "unknown key 'algo.xyzzy'; algo has name, "),
        (["seed.x=1"], "seed is a single value: write seed=…"),
        (["+algo.gama=0.9"], "did you mean 'algo.gamma'"),
        (["+seed=3"], "seed is there already, leave out the '+'"),
        (["++algo.lr=3"], "algo.lr is there already, leave out the '+'"),
        (["+algo=sac"], "leave out the '+'"),
        (["~seed"], "keys can't be deleted; give another value: seed=…"),
        (["~tuned"], "write tuned=none"),
        (["env.id=Acrobot-v1"], "write env=Acrobot-v1"),
        (["algo.name=sac"], "write algo=sac"),
        (["env={id: Acrobot-v1}"], "write env=Acrobot-v1"),
        (["algo=[ppo,sac]"], "algo takes one name"),
        (["algo=3"], "algo takes one name"),
        (["tuned=null"], "tuned=none"),
        (["experiment/deck=ppo"], "write experiment=deck/ppo"),
        (["algo@other=sac"], "write algo=sac"),
        (["algo=ppo,sac"], "several values: add -m"),
        (["algo.hidden=64,64"], "add -m to run one job for each, or write 'algo.hidden=[64,64]' for a list"),
        (["seed=range(3)"], "add -m"),
        (["seed"], "write seed=…, a value with its key"),
        (["sac"], "write algo=sac"),
        (["Acrobot-v1"], "write env=Acrobot-v1"),
        (["=3"], "the key is missing"),
        (["algo.hidden=[64,64"], "close its brackets and quotes"),
        (["run_dir='a b"], "close its brackets and quotes"),
        (["a b=3"], "a key is words joined by dots"),
        (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
        (["hydra.run.dir=x"], "the folder of a single run is run_dir=…"),
        (["hydra.searchpath=[file:///nowhere/at/all]"], "not available"),
        (["seed=x"], "seed=x: must be a whole number"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["total_steps=0"], "total_steps=0: must be at least 1"),
        (["algo.gamma=1.5"], "algo.gamma=1.5: must be in [0, 1]"),
        (["algo.hidden=64"], "algo.hidden=64: must be a list"),
        (["env.backend=synk"], "did you mean 'sync'"),
        (["eval=3"], "eval=3: must be a group of values"),
        (["log.tensorboard=1"], "log.tensorboard=1: must be null or true or false: write log.tensorboard=true"),
    ],
)
def test_refusals_name_the_key_and_the_mend(overrides, says):
    assert says in refusal(*overrides)


def test_a_key_of_the_chosen_algorithm_is_no_stranger_to_the_default_one():
    assert load_config(["algo.lr_actor=0.5", "algo=sac"]).algo.lr_actor == 0.5


def test_broken_files_are_named(configs):
    write(configs, "experiment/broken", "# @package _global_\nalgo: {lr: [1\n")
    assert "experiment/broken.yaml" in refusal("experiment=broken")
    write(configs, "experiment/lost", "# @package _global_\ndefaults:\n  - override /algo: sca\n")
    assert "unknown algo 'sca'" in refusal("experiment=lost")
    write(configs, "experiment/typo", "# @package _global_\nalgo: {gama: 0.9}\n")
    assert "unknown key 'algo.gama'; did you mean 'gamma'?" in refusal("experiment=typo")


# ---- sweeps


def test_sweeps_are_every_combination_in_order():
    sweep = expand_sweep(["algo=ppo,sac", "seed=range(2)", "total_steps=10", "hydra.job.chdir=false"])
    assert sweep.jobs == [
        ["algo=ppo", "seed=0", "total_steps=10"],
        ["algo=ppo", "seed=1", "total_steps=10"],
        ["algo=sac", "seed=0", "total_steps=10"],
        ["algo=sac", "seed=1", "total_steps=10"],
    ]
    assert sweep.hydra == ["hydra.job.chdir=false"]


def test_sweeps_over_lists_globs_and_ids():
    assert [job[0] for job in expand_sweep(["algo.hidden=[64],[64,64]"]).jobs] == [
        "algo.hidden=[64]",
        "algo.hidden=[64,64]",
    ]
    assert [job[0] for job in expand_sweep(["algo=glob(*)"]).jobs] == [f"algo={name}" for name in algorithm_names()]
    jobs = expand_sweep(["env=CartPole-v1,ALE/Pong-v5,my.module:Grid-v0"]).jobs
    assert [compose_values(job)["env"]["id"] for job in jobs] == ["CartPole-v1", "ALE/Pong-v5", "my.module:Grid-v0"]


def test_globs_over_environments_match_files_only():
    jobs = expand_sweep(["env=glob(*)"]).jobs
    assert [job[0] for job in jobs] == [f"env={name}" for name in config.group_options("env")]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["algo.lr=interval(0,1)"], "list them, algo.lr=0.1,0.2"),
        (["algo=glob(nothing*)"], "matches nothing"),
        (["hydra.sweep.dir=a,b"], "can't be swept over"),
        (["hydra/sweeper=optuna"], "to search, deeprl tune"),
        (["env.id=CartPole-v1,Acrobot-v1"], "write env=CartPole-v1,Acrobot-v1"),
    ],
)
def test_sweeps_that_cant_be_expanded(overrides, says):
    with pytest.raises(ConfigError) as caught:
        expand_sweep(overrides)
    assert says in str(caught.value)


# ---- options of other features


@pytest.mark.parametrize(
    ("features", "option", "readers"),
    [
        ("fourier", "network.tilings=4", "tiles"),
        ("poly", "network.bins=[4,4]", "tiles"),
        ("tiles", "network.centres=7", "rbf"),
        ("identity", "network.width=2", "rbf"),
        ("rbf", "network.order=4", "poly or fourier"),
        ("onehot", "network.order=1", "poly or fourier"),
    ],
)
def test_options_that_the_features_dont_read_are_refused(features, option, readers):
    said = refusal("network=linear", f"network.features={features}", option)
    assert said.startswith(f"{option.partition('=')[0]}=")
    assert f"means nothing to network.features={features}" in said
    assert said.endswith(f"choose network.features={readers}")


def test_options_that_the_features_read_are_taken():
    given = {"poly": "order=4", "fourier": "order=4", "rbf": "centres=7 width=2", "tiles": "tilings=4 bins=9"}
    for features, options in given.items():
        chosen = [f"network.{option}" for option in options.split()]
        network = load_config(["network=linear", f"network.features={features}", *chosen]).network
        for option in options.split():
            key, _, value = option.partition("=")
            assert getattr(network, key) == float(value)
    assert load_config(["network=linear", "network.features=fourier", "network.tilings=8"])  # its default: no harm


@pytest.fixture
def own_configs(tmp_path):
    """A folder of configurations beside deeprl's, with values for an environment of one's own."""
    (tmp_path / "env").mkdir()
    (tmp_path / "experiment").mkdir()
    values = "defaults:\n  - /env@_here_\n  - _self_\nid: Mine-v0\nmax_episode_steps: 7  # short\n"
    (tmp_path / "env" / "Mine-v0.yaml").write_text(values)
    (tmp_path / "experiment" / "quick.yaml").write_text("# @package _global_\nalgo:\n  gamma: 0.5  # hasty\n")
    return tmp_path


def test_an_environment_of_a_module_takes_the_values_of_its_id(own_configs):
    search = f"hydra.searchpath=[file://{own_configs}]"
    env = compose_values(["env=some.module:Mine-v0", search])["env"]
    assert (env["id"], env["max_episode_steps"]) == ("some.module:Mine-v0", 7)
    assert compose_values(["env=some.module:Other-v0", search])["env"]["max_episode_steps"] is None
    assert compose_values(["env=some.module:anything", search])["env"]["id"] == "some.module:anything"
    assert compose_values(["env=gymnasium:CliffWalking-v1"])["env"]["max_episode_steps"] == 200
    assert compose_values(["env=ale_py:ALE/Pong-v5"])["env"]["kwargs"] == {"frameskip": 1}


def test_explain_names_files_of_other_folders(own_configs):
    search = f"hydra.searchpath=[file://{own_configs}]"
    found = {o.key: o for o in explain(["env=some.module:Mine-v0", "experiment=quick", search])}
    assert found["env.max_episode_steps"].source == str(own_configs / "env" / "Mine-v0.yaml")
    assert found["env.max_episode_steps"].comment == "short"
    assert found["algo.gamma"].source == str(own_configs / "experiment" / "quick.yaml")
    assert found["env.backend"].source == "env"


def test_hydras_own_words_in_a_runs_folder():
    """`${hydra:…}` and `${now:…}`, of a run and of each job of a sweep; another program's HydraConfig stays its own."""
    assert load_config(["run_dir=runs/${hydra:job.num}"]).run_dir == "runs/0"
    assert load_config(["run_dir=runs/${hydra:job.num}"], job=3).run_dir == "runs/3"
    assert re.fullmatch(r"runs/20\d\d-ppo", load_config(["run_dir=runs/${now:%Y}-${algo.name}"]).run_dir)
    assert load_config(["run_dir=runs/${hydra:runtime.choices.algo}"]).run_dir == "runs/ppo"
    with pytest.raises(ConfigError, match=r"run_dir: .*Hydra has no job\.nmu"):
        load_config(["run_dir=runs/${hydra:job.nmu}"])
    with pytest.raises(Exception, match="HydraConfig was not set"):  # a program of the caller's has its own again
        OmegaConf.to_container(OmegaConf.create({"a": "${hydra:job.num}"}), resolve=True)
    shown = config_text(["run_dir=runs/${hydra:job.num}"], "job", None, True)
    assert "run_dir: runs/0" in shown
    assert "hydra" not in shown
