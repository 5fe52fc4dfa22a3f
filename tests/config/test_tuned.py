"""Tuned values: which file a pair takes, how that is told, and that they are those published but for exceptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deeprl_cli.commands import list as listing
from deeprl_cli.config import tuned
from deeprl_cli.config.compose import load_config
from deeprl_cli.config.explain import explain, table
from deeprl_cli.config.files import group_options
from deeprl_cli.config.tuned import find_tuned, tuned_note, tuned_summary
from deeprl_cli.envs.ids import registered_ids
from deeprl_cli.schema.typed import to_plain

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
NEWEST = {  # published for v2 or v4, which differ in rewards and simulation
    f"{name}-v{old}": f"{name}-v5"
    for name in (
        *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
        *("InvertedPendulum", "Reacher", "Swimmer", "Walker2d"),
    )
    for old in (2, 4)
}
ELSEWHERE = {"FetchReach-v1"}  # of gymnasium-robotics, and with hindsight replay, which isn't here

# where the field's keys are in a configuration of ours
KEYS = {
    "steps": ["total_steps"],
    "frame_stack": ["env.frame_stack"],
    "n_envs": ["algo.num_envs"],
    "n_steps": ["algo.rollout_length"],
    "max_grad_norm": ["algo.clip_norm"],
    "buffer_size": ["algo.buffer_capacity"],
    "train_freq": ["algo.train_every"],
    "target_update_interval": ["algo.target_every"],
    "n_epochs": ["algo.epochs"],
    "n_critic_updates": ["algo.epochs"],
    "cg_max_steps": ["algo.cg_iterations"],
    "target_kl": ["algo.max_kl"],
    "layers": ["algo.hidden"],
    "clip_range": ["algo.clip_eps", "algo.clip_schedule"],
    "exploration_fraction": ["algo.epsilon.fraction"],
    "exploration_final_eps": ["algo.epsilon.end"],
    "noise_type": ["algo.exploration.kind"],
    "noise_std": ["algo.exploration.sigma"],
    "use_sde": ["algo.sde.enabled"],
    "sde_sample_freq": ["algo.sde.sample_every"],
    "use_sde_at_warmup": ["algo.sde.warm_up"],
    "sub_sampling_factor": ["algo.sub_sampling"],
    "optimizer": ["algo.optim"],
    "optimizer_eps": ["algo.optim_eps"],
}
RATES = {"sac": ["lr_actor", "lr_critic", "lr_alpha"], "td3": ["lr_actor", "lr_critic"], "trpo": ["lr_critic"]}
RATES["ddpg"] = RATES["td3"]
HOW_STORED = {"optimize_memory_usage"}  # says how a memory is kept, not what is learnt

# ours differ here: pair -> our key -> why
CHOSEN_HERE = "chosen here, on seeds that aren't reported: the file says what is published"
EXCEPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("ppo", "Acrobot-v1"): {"total_steps": "its bar is reached in fewer"},
    ("ddpg", "MountainCarContinuous-v0"): dict.fromkeys(
        ["total_steps", "algo.hidden", "algo.normalize_obs"], CHOSEN_HERE
    ),
    ("td3", "MountainCarContinuous-v0"): {"total_steps": "its bar is reached in fewer"},
    ("trpo", "CartPole-v1"): dict.fromkeys(
        [
            *("total_steps", "algo.num_envs", "algo.rollout_length", "algo.batch_size", "algo.cg_damping"),
            *("algo.gae_lambda", "algo.epochs"),
        ],
        CHOSEN_HERE,
    ),
    ("ppo", "Pendulum-v1"): dict.fromkeys(["algo.sde.enabled", "algo.sde.sample_every"], CHOSEN_HERE),
    ("trpo", "Pendulum-v1"): dict.fromkeys(["algo.sde.enabled", "algo.sde.sample_every"], CHOSEN_HERE),
    ("a2c", "Pendulum-v1"): dict.fromkeys(["algo.sde.enabled", "algo.log_std_init", "algo.orthogonal"], CHOSEN_HERE),
    ("sac", "MountainCarContinuous-v0"): dict.fromkeys(["algo.sde.enabled", "algo.sde.log_std_init"], CHOSEN_HERE),
    ("ppo", "CarRacing-v3"): dict.fromkeys(["algo.hidden", "algo.activation"], "behind convolutions: network.hidden"),
    ("sac", "CarRacing-v3"): {"algo.normalize_obs": "its images are bytes, which networks scale"},
}


def cases() -> list[tuple[str, str, str]]:
    """(algorithm, published for, id here)"""
    pairs = [(algo, env_id) for algo, settings in PUBLISHED["settings"].items() for env_id in settings]
    games = {"atari": "ALE/Pong-v5"}
    return [(a, e, games.get(e) or NEWEST.get(e, e)) for a, e in pairs if e not in ELSEWHERE]


def expected(algo: str, published: dict[str, Any]) -> dict[str, Any]:
    """Published values as ours: dotted key -> value."""
    published = {**PUBLISHED["defaults"][algo], **published}
    ours: dict[str, Any] = {}
    for key, value in published.items():
        if key in HOW_STORED:
            continue
        if key == "learning_rate":
            falls = isinstance(value, dict)
            rates = RATES.get(algo, ["lr"])
            ours |= {f"algo.{rate}": value["falls_from"] if falls else value for rate in rates}
            ours["algo.lr_schedule"] = "linear" if falls else "constant"
        elif key == "clip_range":
            falls = isinstance(value, dict)
            ours["algo.clip_eps"] = value["falls_from"] if falls else value
            ours["algo.clip_schedule"] = "linear" if falls else "constant"
        elif key == "tau":
            ours["algo.rho"] = round(1 - value, 9)
        elif key == "ent_coef" and algo == "sac":
            ours["algo.alpha"] = value
        elif key == "log_std_init":
            ours["algo.sde.log_std_init" if algo == "sac" else "algo.log_std_init"] = value
        elif key == "critic_layers":  # the actor's, in all of them
            assert value == published["layers"]
        elif key == "use_rms_prop":
            ours["algo.optim"] = "rmsprop"
        elif key == "noise_type":
            ours["algo.exploration.kind"] = {"normal": "gaussian", "ornstein-uhlenbeck": "ou"}[value]
        elif key == "train_freq":  # theirs counts calls, each a step of every environment
            ours["algo.train_every"] = value * published.get("n_envs", 1)
        elif key == "gradient_steps" and value == -1:  # as many as there were steps
            ours["algo.gradient_steps"] = published["train_freq"]
        elif key == "batch_size" and "n_steps" in published:  # a minibatch is at most the rollout
            ours["algo.batch_size"] = min(value, published["n_envs"] * published["n_steps"])
        else:
            ours |= dict.fromkeys(KEYS.get(key, [f"algo.{key}"]), value)
    return ours


def at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize(("algo", "published", "env_id"), cases())
def test_values_are_those_published(algo, published, env_id):
    """Each value of RL Zoo's setting, and each that it leaves to SB3's default, but for the exceptions above."""
    cfg = load_config([f"algo={algo}", f"env={env_id}"])
    assert cfg.tuned == f"{algo}/{env_id if published != 'atari' else 'atari'}"
    values, wanted = to_plain(cfg), expected(algo, PUBLISHED["settings"][algo][published])
    different = {key for key, value in wanted.items() if at(values, key) != value}
    assert different == set(EXCEPTIONS.get((algo, env_id), {})), {
        key: (at(values, key), wanted[key]) for key in different
    }


def test_exceptions_are_of_settings_there_are():
    assert set(EXCEPTIONS) <= {(algo, env_id) for algo, _, env_id in cases()}


# ---- which file


@pytest.mark.parametrize(
    ("algo", "env_id", "name"),
    [
        ("ppo", "CartPole-v1", "ppo/CartPole-v1"),
        ("ppo", "CartPole-v0", "ppo/CartPole-v1"),
        ("sac", "HalfCheetah-v4", "sac/HalfCheetah-v5"),
        ("ppo", "Pusher-v5", "ppo/mujoco"),
        ("ppo", "Pusher-v4", "ppo/mujoco"),
        ("ppo", "HumanoidStandup-v4", "ppo/HumanoidStandup-v5"),  # not Humanoid's
        ("dqn", "ALE/Pong-v5", "dqn/atari"),
        ("a2c", "BreakoutNoFrameskip-v4", "a2c/atari"),
        ("ppo", "BabyAI-GoToObj-v0", "ppo/minigrid"),
        ("ppo", "MiniGrid-MultiRoom-N4-S5-v1", "ppo/MiniGrid-MultiRoom-N4-S5-v0"),
        ("td3", "CarRacing-v3", "td3/box2d"),
        ("reinforce", "HalfCheetah-v5", None),  # nothing is published
        ("ppo", "FrozenLake-v1", None),
        ("ppo", "Nothing-v0", None),
        ("ppo", "no.such.module:Thing-v0", None),
        ("nobody", "CartPole-v1", None),
    ],
)
def test_an_ids_own_file_then_another_versions_then_its_familys(algo, env_id, name):
    assert find_tuned(algo, env_id) == name


def test_a_module_of_ones_own_may_register_an_environment_of_a_family(tmp_path, monkeypatch):
    text = "import gymnasium\nentry = 'gymnasium.envs.mujoco.ant_v5:AntEnv'\n"
    (tmp_path / "heavy_ants.py").write_text(text + "gymnasium.register('HeavyAnt-v0', entry_point=entry)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_config(["algo=sac", "env=heavy_ants:HeavyAnt-v0"]).tuned == "sac/mujoco"


def test_every_family_is_of_environments_there_are():
    """No file waits for a family that nobody registers."""
    names = [name.partition("/")[2] for name in group_options("tuned") if name != "none"]
    ids = set(registered_ids())
    assert {name for name in names if name not in tuned.FAMILIES} <= ids


def test_none_refuses_a_familys_values_too():
    cfg = load_config(["algo=ppo", "env=Pusher-v5", "tuned=none"])
    assert (cfg.tuned, cfg.algo.normalize_obs, cfg.total_steps) == (None, False, 100_000)


def test_another_pairs_values_can_be_asked_for():
    cfg = load_config(["algo=ppo", "env=CartPole-v1", "tuned=ppo/mujoco"])
    assert (cfg.tuned, cfg.algo.rollout_length) == ("ppo/mujoco", 2048)


def test_what_is_typed_wins():
    cfg = load_config(["algo=ppo", "env=ALE/Pong-v5", "total_steps=1000", "algo.lr=1e-3"])
    assert (cfg.total_steps, cfg.algo.lr, cfg.algo.epochs) == (1000, 1e-3, 4)


@pytest.mark.parametrize("network", ["linear", "tabular", "transformer", "mlp"])
def test_values_of_a_network_go_with_it(network):
    """Atari's shared convolutions mean nothing to a network without that option."""
    chosen = load_config(["algo=ppo", "env=ALE/Pong-v5", f"network={network}"]).network
    assert getattr(chosen, "share", True) is True


def test_a_file_of_a_searched_folder_comes_before_ours(tmp_path):
    (tmp_path / "tuned" / "ppo").mkdir(parents=True)
    (tmp_path / "tuned" / "ppo" / "CartPole-v1.yaml").write_text("# @package _global_\nalgo: {lr: 0.5}\n")
    cfg = load_config(["algo=ppo", "env=CartPole-v1", f"hydra.searchpath=[file://{tmp_path}]"])
    assert (cfg.algo.lr, cfg.algo.batch_size, cfg.total_steps) == (0.5, 64, 100_000), "nothing of the file that we have"


def test_files_of_ones_own_come_before_a_familys(tmp_path):
    for place, text in {
        "tuned/ppo/Pusher-v5": "# @package _global_\nalgo: {lr: 0.5}\n",
        "env/Pusher-v5": "defaults: [/env@_here_, _self_]\nid: Pusher-v5\nframe_stack: 2\n",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / f"{place}.yaml").write_text(text)
    cfg = load_config(["algo=ppo", "env=Pusher-v5", f"hydra.searchpath=[file://{tmp_path}]"])
    assert (cfg.tuned, cfg.algo.lr, cfg.algo.normalize_obs, cfg.env.frame_stack) == ("ppo/Pusher-v5", 0.5, False, 2)


# ---- how it is told


def test_the_head_of_a_run_says_whose_values_it_takes():
    assert tuned_note(None, "FrozenLake-v1", 100_000) == "no tuned values, 100,000 steps"
    told = [tuned_note(name, "Ant-v4", 1000) for name in ("sac/Ant-v4", "sac/Ant-v5", "sac/mujoco")]
    assert "tuned for Ant-v4 (tuned=sac/Ant-v4), 1,000 steps" in told[0]
    assert "tuned for Ant-v5, another version of it, (tuned=sac/Ant-v5)" in told[1]
    assert "tuned for MuJoCo (tuned=sac/mujoco)" in told[2]


def test_explain_says_what_tuned_values_replace():
    lines = {origin.key: origin for origin in explain(["algo=ppo", "env=Pusher-v5", "algo.gamma=0.9"])}
    steps, rate, gamma = lines["total_steps"], lines["algo.lr_schedule"], lines["algo.gamma"]
    assert (steps.value, steps.source, steps.comment) == (1_000_000, "tuned/ppo/mujoco", "instead of 100000")
    assert (rate.value, rate.source, rate.comment) == ("linear", "tuned/ppo/mujoco", "instead of constant")
    assert gamma.source == "command line"


@pytest.mark.parametrize(
    ("overrides", "unread"),
    [
        (["env=CartPole-v1"], set()),
        (["env=ALE/Pong-v5"], {"algo.hidden", "algo.activation"}),
        (["env=CarRacing-v3", "tuned=none"], {"algo.hidden", "algo.activation"}),
        (["env=CartPole-v1", "network=linear"], {"algo.hidden", "algo.activation"}),
        (["env=CartPole-v1", "network.hidden=[8]"], {"algo.hidden"}),
    ],
)
def test_explain_shows_what_the_network_never_reads_as_that(overrides, unread):
    origins = explain(["algo=ppo", *overrides])
    assert {origin.key for origin in origins if not origin.read} == unread
    for line in table(origins).splitlines():
        if line.split()[0] in unread:
            assert line.split()[1] == "-"
            assert "not read" in line


MEMBERS = {
    "classic_control": "MountainCar-v0",
    "box2d": "CarRacing-v3",
    "mujoco": "Pusher-v5",
    "atari": "ALE/Pong-v5",
    "minigrid": "BabyAI-GoToObj-v0",
}


FILES = [name for name in group_options("tuned") if name != "none"]
COMPARED = {f"{algo}/{env_id}" for algo, _, env_id in cases()}


@pytest.mark.parametrize("name", [name for name in FILES if name not in COMPARED])
def test_the_other_files_compose_for_their_pair(name):
    algo, _, env_id = name.partition("/")
    member = MEMBERS.get(env_id, env_id)
    own = tuned.tuned_path(f"{algo}/{member}").is_file()
    asked = [f"tuned={name}"] if member != env_id and own else []
    assert load_config([f"algo={algo}", f"env={member}", *asked]).tuned == name


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_where_it_is_from_and_how_long_it_trains(name):
    steps, comment = tuned_summary(name)
    assert steps
    assert comment.endswith(".")
    content = yaml.safe_load(tuned.tuned_path(name).read_text(encoding="utf-8"))
    assert set(content) <= {"total_steps", "algo", "env", "network", "eval", "log", "checkpoint"}


def test_list_shows_what_is_tuned(capsys):
    rows = {row[0]: row for row in listing.tuned().rows}
    assert "HalfCheetah-v5" in rows["sac"][1]
    assert rows["dqn"][2] == "classic control, Box2D, Atari"
    (row,) = listing.tuned("ppo/atari").rows
    assert row[1] == "10,000,000"
    assert "CleanRL" in row[2]
