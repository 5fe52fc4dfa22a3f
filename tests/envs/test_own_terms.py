"""An environment's own observations and actions, and what an algorithm sees of them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import make_single_env
from deeprl_cli.envs.own_terms import FrameMemory, own_terms
from deeprl_cli.errors import UserError

ATARI = "algo=dqn env=ALE/Pong-v5 env.atari.enabled=true env.frame_stack=3 env.atari.noop_max=0"
ENVIRONMENTS = {
    "vector": "algo=ppo env=Pendulum-v1",
    "stacked vector": "algo=ppo env=CartPole-v1 env.frame_stack=3",
    "choice": "algo=ppo env=FrozenLake-v1",
    "stacked choice": "algo=ppo env=FrozenLake-v1 env.frame_stack=2",
    "tuple": "algo=ppo env=Blackjack-v1",
    "dictionary of texts": "algo=ppo env=MiniGrid-Empty-5x5-v0",
}


def configured(overrides):
    return load_config(f"{overrides} tuned=none").env


@pytest.mark.parametrize("overrides", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_own_observations_are_seen_as_in_training(overrides):
    """gymnasium's observations, one by one with a memory, against what the run's environment hands over."""
    cfg = configured(overrides)
    terms, seen_env = own_terms(cfg), make_single_env(cfg, training=False)
    bare = gym.make(cfg.id, **cfg.kwargs)
    assert terms.observation_space == bare.observation_space or "MiniGrid" in cfg.id  # whose spaces hold functions
    memory = FrameMemory(terms.stack)
    (seen, _), (own, _) = seen_env.reset(seed=4), bare.reset(seed=4)
    seen_env.action_space.seed(1)
    for _ in range(6):
        given = terms.read(own, None)
        assert (given.form, given.many) == ("own", False)
        np.testing.assert_array_equal(terms.seen(memory.push(terms.frames(given)))[0], seen)
        action = seen_env.action_space.sample()
        own_action = terms.acted([action], many=False)
        assert bare.action_space.contains(own_action)
        (seen, _, over, cut, _), (own, *_) = seen_env.step(action), bare.step(own_action)
        if over or cut:
            break


@pytest.mark.parametrize("overrides", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_batches_are_read_row_by_row(overrides):
    """What gymnasium's vector environments hand over."""
    cfg = configured(overrides)
    terms, vector = own_terms(cfg), gym.make_vec(cfg.id, 3, vectorization_mode="sync", **cfg.kwargs)
    observations, _ = vector.reset(seed=[1, 2, 3])
    given = terms.read(observations, batch=True)
    assert given.many
    together = terms.seen(FrameMemory(terms.stack).push(terms.frames(given)))
    bare = gym.make(cfg.id, **cfg.kwargs)
    for row, seed in zip(together, (1, 2, 3), strict=True):
        frames = terms.frames(terms.read(bare.reset(seed=seed)[0], batch=False))
        np.testing.assert_array_equal(row, terms.seen(FrameMemory(terms.stack).push(frames))[0])


def test_a_stack_is_told_by_its_shape():
    terms = own_terms(configured(ENVIRONMENTS["stacked vector"]))
    one, stack = np.zeros(4, np.float32), np.zeros((3, 4), np.float32)
    for obs, batch, form, many in [
        (one, None, "own", False),
        (stack, None, "stack", False),
        (stack, True, "own", True),  # of three environments, not of three moments
        (stack[:2], None, "own", True),
        (np.stack([stack] * 5), None, "stack", True),
    ]:
        given = terms.read(obs, batch)
        assert (given.form, given.many) == (form, many)
    with pytest.raises(UserError, match=r"shape \(5,\) is not one or a batch of"):
        terms.read(np.zeros(5), None)
    with pytest.raises(UserError, match="is not a batch of"):
        terms.read(one, True)


@pytest.mark.parametrize(
    ("name", "obs", "told"),
    [
        ("choice", 16, r"16 is outside Discrete\(16\)"),
        ("choice", [3, -1], "-1 is outside"),
        ("choice", 1.5, r"the number 1\.5 \(float\) as its observation"),
        ("vector", [0, np.nan, 0], "NaN"),
        ("tuple", (40, 1, 0), "40 is outside"),
        ("vector", np.zeros((0, 3)), "a batch of no observations"),
        ("tuple", [(1, 1, 0), (2, 2, 0)], "a batch of them is one of arrays"),
    ],
)
def test_what_is_no_observation_gets_one_line(name, obs, told):
    terms = own_terms(configured(ENVIRONMENTS[name]))
    with pytest.raises(UserError, match=told) as raised:
        terms.frames(terms.read(obs, None))
    assert len(str(raised.value).splitlines()) == 1


def test_frames_are_remembered_by_environment():
    memory = FrameMemory(3)
    a, b, c = (np.array([value]) for value in (1, 2, 3))
    assert [stack.ravel().tolist() for stack in memory.push([a, b])] == [[1, 1, 1], [2, 2, 2]]
    assert [stack.ravel().tolist() for stack in memory.look([c, c])] == [[1, 1, 3], [2, 2, 3]]
    assert [stack.ravel().tolist() for stack in memory.push([b, c])] == [[1, 1, 2], [2, 2, 3]]
    memory.reset([False, True])
    assert [stack.ravel().tolist() for stack in memory.push([c, a])] == [[1, 2, 3], [1, 1, 1]]
    with pytest.raises(UserError, match="1 observations, and the policy remembers frames of 2:"):
        memory.push([a])
    memory.reset()
    assert [stack.ravel().tolist() for stack in memory.push([b])] == [[2, 2, 2]]


def test_atari_screens_frames_and_stacks():
    """The emulator's screen in grey or in colour, gymnasium's small frames, and stacks of them come to one thing."""
    pytest.importorskip("ale_py")
    cv2 = pytest.importorskip("cv2")
    terms = own_terms(configured(ATARI))
    grey = np.random.default_rng(0).integers(256, size=(210, 160), dtype=np.uint8)
    frame = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)
    for obs, form in [(grey, "own"), (np.stack([grey] * 3, -1), "own"), (frame, "frame")]:
        given = terms.read(obs, None)
        assert (given.form, given.many) == (form, False)
        np.testing.assert_array_equal(terms.frames(given)[0], frame)
    (stack,) = FrameMemory(3).push([frame])
    assert terms.read(stack, None).form == "stack"
    assert terms.seen([stack]).shape == (1, 3, 84, 84)


def test_parts_of_other_names_are_no_observation():
    terms = own_terms(configured("algo=ppo env=MiniGrid-Empty-5x5-v0"))
    with pytest.raises(UserError, match=r"an observation of the parts picture is not one or a batch of Dict"):
        terms.read({"picture": np.zeros(3)}, None)
