"""Spaces as an algorithm sees them, in both directions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.make import build_env, env_spec, make_single_env, make_vector_env
from deeprl_cli.errors import ConfigError, UserError
from tests.envs.conftest import config


def _probe(env):
    return env._envs[0].unwrapped


@pytest.mark.parametrize("count", [1, 3])
def test_box_rescaled_and_clipped(count):
    view = ActionView("x", spaces.Box(np.float32([0, -4]), np.float32([1, 2])), count)
    assert view.space == spaces.Box(-1, 1, (2,))
    actions = np.array([[-1, -1], [1, 1], [0, 0], [-5, 7]], np.float32)[:count]
    expected = np.array([[0, -4], [1, 2], [0.5, -1], [0, 2]], np.float32)[:count]
    decoded = view.decode(actions)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, expected)
    assert decoded is not actions


def test_rescaled_actions_stay_inside_awkward_bounds():
    low, high = np.float32([0.1, -1e-3, 1e6]), np.float32([0.7, 3.3, 1.1e6])
    space = spaces.Box(low, high)
    view = ActionView("x", space)
    for value in np.linspace(-1, 1, 41, dtype=np.float32):
        assert space.contains(view.decode(np.full((1, 3), value))[0])


def test_partly_bounded_box():
    view = ActionView("x", spaces.Box(np.float32([-np.inf, 0, -2]), np.float32([np.inf, np.inf, 2])))
    assert view.space == spaces.Box(np.float32([-np.inf, 0, -1]), np.float32([np.inf, np.inf, 1]))
    assert np.array_equal(view.decode([[7, -3, 0.5]]), [[7, 0, 1]])


def test_unit_box_passes_bits_through_as_a_copy():
    view = ActionView("x", spaces.Box(-1, 1, (2,)), 1)
    actions = np.array([[0.1, -0.3]], np.float32)
    decoded = view.decode(actions)
    assert decoded.tobytes() == actions.tobytes()
    assert not np.shares_memory(decoded, actions)


@pytest.mark.parametrize(
    ("action", "given", "received", "seen"),
    [
        ("shifted", [2], 7, spaces.Discrete(3)),
        ("multi", [[2, 3]], [2, 3], spaces.MultiDiscrete([3, 4])),
        ("binary", [[1, 0, 1]], [1, 0, 1], spaces.MultiBinary(3)),
        ("matrix", [[1, 0, -1, 0.5]], [[3, 0], [-3, 1.5]], spaces.Box(-1, 1, (4,))),
        ("unbounded", [[9, -9]], [9, -9], spaces.Box(-np.inf, np.inf, (2,))),
    ],
)
@pytest.mark.parametrize("backend", ["sync", "single"])
def test_actions_arrive(backend, action, given, received, seen, opened):
    if backend == "single":
        env = opened(make_single_env(config("test/Probe-v0", action=action), training=True))
        assert env.action_space == seen
        env.reset(seed=0)
        env.step(np.array(given)[0])
        probe = env.unwrapped
    else:
        vector = opened(make_vector_env(config("test/Probe-v0", action=action), [0], 1, training=True))
        assert vector.spec.action_space == seen
        vector.reset()
        vector.step(np.array(given))
        probe = _probe(vector)
    assert np.array_equal(probe.last_action, received)
    assert probe.action_space.contains(probe.last_action)


@pytest.mark.parametrize(("action", "word"), [("nested", "Dict"), ("bytes", "uint8")])
def test_actions_refused(action, word):
    with pytest.raises(ConfigError, match=word):
        env_spec(config("test/Probe-v0", action=action))


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("box", spaces.Box(-10, 10, (6,))),
        ("dict", spaces.Box(np.float32([-1, -1, 0, 0, 0]), np.float32([1, 1, 1, 1, 1]))),
        ("tuple", spaces.Box(0, 1, (4,))),
        ("image", spaces.Box(0, 255, (8, 8, 3), np.uint8)),
        ("gray", spaces.Box(0, 255, (8, 8, 1), np.uint8)),
        ("shifted", spaces.Discrete(4)),
        ("multi", spaces.MultiDiscrete([3, 4])),
    ],
)
def test_observations(kind, seen, opened):
    cfg = config("test/Probe-v0", kind=kind)
    assert env_spec(cfg).observation_space == seen
    sync = opened(make_vector_env(cfg, [0, 1], 1, training=True))
    parallel = opened(make_vector_env(config("test/Probe-v0", "async", kind=kind), [0, 1], 1, training=True))
    single = opened(make_single_env(cfg, training=True))
    assert single.observation_space == seen
    first = sync.reset()
    assert np.array_equal(first, parallel.reset())
    assert first.dtype == np.dtype(seen.dtype)
    for _ in range(3):
        a, b = sync.step(np.zeros((2, 2))), parallel.step(np.zeros((2, 2)))
        assert np.array_equal(a.obs, b.obs)
        assert a.obs.dtype == b.obs.dtype == np.dtype(seen.dtype)
        assert seen.contains(a.obs[0] if seen.shape else np.int64(a.obs[0]))
    alone = single.reset(seed=3)[0]
    assert alone.shape == seen.shape
    assert alone.dtype == np.dtype(seen.dtype)


def test_observations_refused():
    with pytest.raises(ConfigError, match="Text"):
        env_spec(config("test/Probe-v0", kind="text"))


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_lying_observation_space(backend, opened):
    env = opened(make_vector_env(config("test/Probe-v0", backend, kind="liar"), [0], 1, training=True))
    with pytest.raises(UserError, match=r"environment 0 of seed 0 .* of shape \(1,\) as its observation"):
        env.reset()


@pytest.mark.parametrize(
    ("env_id", "shape", "kwargs"),
    [
        ("Pendulum-v1", (9,), {}),
        ("deeprl/PixelCatch-v0", (36, 36, 3), {}),
        ("test/Probe-v0", (8, 8, 9), {"kind": "image"}),
        ("test/Probe-v0", (3, 8, 8), {"kind": "gray"}),
        ("test/Probe-v0", (15,), {"kind": "dict"}),
        ("deeprl/Chain-v0", (3,), {"observation": "index"}),
    ],
)
def test_frame_stack(env_id, shape, kwargs, opened):
    env = opened(make_vector_env(config(env_id, stack=3, **kwargs), [0], 2, training=True))
    assert env.spec.observation_space.shape == shape
    first = env.reset()
    assert first.shape == (2, *shape)
    action = np.zeros((2, *env.spec.action_space.shape), env.spec.action_space.dtype)
    frames = [first] + [env.step(action).next_obs for _ in range(3)]
    axis = 3 if len(shape) == 3 and shape[-1] % 3 == 0 else 1
    parts = [np.split(frame, 3, axis) for frame in frames]
    assert np.array_equal(parts[0][0], parts[0][2])  # the first frame repeated
    assert np.array_equal(parts[2][0], parts[1][1])
    assert np.array_equal(parts[3][0], parts[2][1])
    assert np.array_equal(parts[3][1], parts[2][2])


def test_time_limit_stays_outermost_under_a_stack(opened):
    env = opened(make_vector_env(config("Pendulum-v1", stack=2), [0], 1, training=True))
    assert env._limit == (200,)


def test_blackjack_flattens():
    spec = env_spec(config("Blackjack-v1"))
    assert spec.observation_space.shape == (45,)
    assert spec.observation_space.dtype == np.float32


def test_minigrid_flattens(opened):
    pytest.importorskip("minigrid")
    env = opened(make_vector_env(config("MiniGrid-Empty-5x5-v0"), [0], 1, training=True))
    assert env.reset().dtype == np.float32
    env.step(np.array([2]))


def test_render_env():
    env = make_single_env(config("deeprl/PixelCatch-v0"), training=False, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (288, 288, 3)
    env.close()
    with pytest.raises(ConfigError, match="can't render"):
        make_single_env(config("deeprl/Chain-v0"), training=False, render_mode="rgb_array")


def test_mujoco_observations_become_float32(monkeypatch, tmp_path):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log of warnings where it stands
    env = build_env(config("HalfCheetah-v5"), training=True)
    assert env.observation_space.dtype == np.float64
    env.close()
    assert env_spec(config("HalfCheetah-v5")).observation_space.dtype == np.float32


def test_quick_discrete_is_still_a_discrete(opened):
    env = opened(make_vector_env(config("CartPole-v1"), [0], 1, training=True))
    space = _probe(env).action_space
    assert space == gym.spaces.Discrete(2)
    assert [space.contains(x) for x in (0, 1, 2, -1, np.int64(1), 1.0, True)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_action_is_inside_its_box_whatever_its_width(dtype):
    space = spaces.Box(-1 / 3, 1 / 3, (2,), dtype)
    for action in ([1.0, -1.0], [0.3, 0.7]):
        assert space.contains(ActionView("Any-v0", space).decode([action])[0])
