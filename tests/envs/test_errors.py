"""Ids and arguments that can't be run: one line each, with what to type instead."""

from __future__ import annotations

import builtins
import sys

import pytest

from deeprl_cli.envs.ids import registered_ids, resolve
from deeprl_cli.envs.make import env_spec, make_vector_env
from deeprl_cli.errors import ConfigError
from tests.envs.conftest import config


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", "unknown environment 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        ("cartpole-v1", "unknown environment 'cartpole-v1'; did you mean 'CartPole-v1'?"),
        ("Pendulum-v0", "unknown environment 'Pendulum-v0'; its newest version is 'Pendulum-v1'"),
        ("Taxi-v3", "unknown environment 'Taxi-v3'; its newest version is 'Taxi-v4'"),
        ("LunarLander-v2", "unknown environment 'LunarLander-v2'; its newest version is 'LunarLander-v3'"),
        ("test/Probe-v2", "unknown environment 'test/Probe-v2'; its newest version is 'test/Probe-v3'"),
        ("CartPole", "unknown environment 'CartPole'; did you mean 'CartPole-v1'?"),
        ("deeprl/PixelCach-v0", "unknown environment 'deeprl/PixelCach-v0'; did you mean 'deeprl/PixelCatch-v0'?"),
        ("qqqqqqqqqqqq-v0", "unknown environment 'qqqqqqqqqqqq-v0'"),
        ("no_such_module:X-v0", "env.id=no_such_module:X-v0: can't import 'no_such_module' (ModuleNotFoundError"),
    ],
)
def test_unknown_ids(env_id, message):
    with pytest.raises(ConfigError) as caught:
        env_spec(config(env_id))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_registered_ids():
    ids = registered_ids()
    assert {"CartPole-v1", "deeprl/Chain-v0"} <= set(ids)
    assert ids == sorted(ids)


def test_module_prefix(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\n"
        "from deeprl_cli.envs.testing import Chain\n"
        "gymnasium.register('Mine-v0', Chain, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("my_envs:Mine-v0").max_episode_steps == 7
    assert env_spec(config("my_envs:Mine-v0")).id == "my_envs:Mine-v0"


@pytest.mark.parametrize("backend", ["sync", "async", "native"])
def test_unknown_argument(backend):
    with pytest.raises(ConfigError) as caught:
        make_vector_env(config("CartPole-v1", backend, sutton_barto_rewrd=True), [0], 1, training=True)
    assert str(caught.value) == (
        "env.kwargs.sutton_barto_rewrd: 'CartPole-v1' doesn't take it; did you mean 'sutton_barto_reward'?"
    )


def test_unknown_argument_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"doesn't take it; it takes g$"):
        env_spec(config("Pendulum-v1", colour=3))
    with pytest.raises(ConfigError, match="doesn't take it; it takes none"):
        env_spec(config("Acrobot-v1", zz=3))


def test_refused_value():
    with pytest.raises(ConfigError, match=r"refuses length=1: length must be at least 2"):
        env_spec(config("deeprl/Chain-v0", length=1))


def _without(monkeypatch, *names):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.split(".")[0] in names:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *args, **kwargs)

    for module in [module for module in sys.modules if module.split(".")[0] in names]:
        monkeypatch.delitem(sys.modules, module)
    for module in [module for module in sys.modules if module.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", blocked)


@pytest.mark.parametrize(
    ("package", "env_id", "backend", "extra"),
    [("Box2D", "LunarLander-v3", "sync", "box2d"), ("envpool", "CartPole-v1", "envpool", "envpool")],
)
def test_missing_packages(monkeypatch, package, env_id, backend, extra):
    _without(monkeypatch, package)
    with pytest.raises(ConfigError, match=rf"pip install 'deeprl-cli\[{extra}\]'"):
        make_vector_env(config(env_id, backend), [0], 1, training=True)


def test_missing_provider(monkeypatch):
    import gymnasium

    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    monkeypatch.setattr("deeprl_cli.envs.ids.registry", {})
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ConfigError, match=r"env.id=ALE/Pong-v5 needs ale_py: pip install 'deeprl-cli\[atari\]'"):
        resolve("ALE/Pong-v5")


def test_old_mujoco_versions():
    with pytest.raises(ConfigError, match="Hopper-v2 can't be built"):
        env_spec(config("Hopper-v2"))


def test_native_needs_a_vector_form():
    with pytest.raises(ConfigError, match="'Pendulum-v1' has no vector form"):
        env_spec(config("Pendulum-v1", "native"))
    with pytest.raises(ConfigError, match=r"takes no env.frame_stack=2"):
        env_spec(config("CartPole-v1", "native", stack=2))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("ALE/Pong-v5", "EnvPool has no environment 'ALE/Pong-v5'; there it is 'Pong-v5'"),
        ("BreakoutNoFrameskip-v4", "EnvPool has no environment 'BreakoutNoFrameskip-v4'; there it is 'Breakout-v5'"),
        ("CartPol-v1", "EnvPool has no environment 'CartPol-v1'; did you mean 'CartPole-v1'?"),
    ],
)
def test_envpool_ids(env_id, message):
    pytest.importorskip("envpool")
    with pytest.raises(ConfigError) as caught:
        env_spec(config(env_id, "envpool"))
    assert str(caught.value) == message


def test_envpool_argument():
    pytest.importorskip("envpool")
    with pytest.raises(ConfigError, match=r"env.kwargs.colour: EnvPool's 'CartPole-v1' doesn't take it"):
        env_spec(config("CartPole-v1", "envpool", colour=1))


def test_atari_preprocessing_of_something_else():
    with pytest.raises(ConfigError, match="is no Atari game"):
        env_spec(config("CartPole-v1", atari={}))
