"""Images and numbers together: a Dict or Tuple as one row, of which the network reads the images as images."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from deeprl_cli.api.runs import load
from deeprl_cli.commands.resume import resume
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import env_spec, make_single_env, make_vector_env
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.nets.build import NetworkFactory, resolve_name
from deeprl_cli.nets.modules import Convolutions, Joined
from deeprl_cli.rl.normalisers import RunningStatistics
from deeprl_cli.training.run import train

SPACES = {
    "dict": spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (40, 36, 3), np.uint8),
            "goal": spaces.Box(-1, 1, (2,), np.float64),
            "map": spaces.Box(0, 2, (5, 4), np.uint8),
            "turn": spaces.Discrete(3),
        }
    ),
    "tuple": spaces.Tuple([spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (6, 6), np.uint8)]),
    "floats": spaces.Box(0, 1, (3, 36, 40), np.float32),
}


class Several(gym.Env):
    """The reward is for the action that a part of the observation names: to be read off the image alone."""

    def __init__(self, kind="dict", wrong=None):
        self.wrong = wrong
        self.observation_space, self.action_space = SPACES[kind], spaces.Discrete(2)
        self.observation_space.seed(0)
        self.kind = kind

    def _see(self):
        observation = self.observation_space.sample()
        self.told = int(self.np_random.integers(2))
        if self.kind == "dict":
            observation["camera"][:] = 255 * self.told
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action):
        reward, observation = float(action == self.told), self._see()
        if self.wrong == "missing":
            del observation["goal"]
        elif self.wrong:
            observation |= WRONG[self.wrong][0]
        return observation, reward, False, bool(self.np_random.random() < 0.1), {}


gym.register("Several-v0", Several)


def config(kind, *options):
    return load_config(["env=Several-v0", f"env.kwargs.kind={kind}", "tuned=none", *options])


def space_of(kind, *options):
    return make_single_env(config(kind, *options).env, training=True).observation_space


def test_the_row_says_where_its_images_are():
    """In the order of the space's parts: 4,320 pixels, 2 numbers, 20 squares, 3 of a choice."""
    camera, board = space_of("dict").pictures
    assert (camera.name, camera.starts, camera.shape, camera.brightest) == ("camera", (0,), (40, 36, 3), 255.0)
    assert (board.name, board.starts, board.shape, board.brightest) == ("map", (4322,), (5, 4, 1), 2.0)
    assert space_of("dict").shape == (4345,)
    assert np.flatnonzero(~space_of("dict").is_pixel()).tolist() == [4320, 4321, 4342, 4343, 4344]
    (stacked, _) = space_of("dict", "env.frame_stack=2").pictures
    assert stacked.starts == (0, 4345)
    (floats,) = space_of("floats").pictures
    assert (floats.shape, floats.channels_last, floats.brightest) == ((3, 36, 40), False, 1.0)


def test_the_network_reads_each_image_by_convolutions_and_the_rest_as_it_is():
    """What the encoder makes of the row is what a convolution makes of the image, and behind it the numbers."""
    space = space_of("dict", "env.frame_stack=2")
    assert resolve_name(space, "auto") == "cnn"
    assert resolve_name(space_of("tuple"), "auto") == "mlp"  # a board
    factory = NetworkFactory(space, config("dict").network, [64], "tanh")
    encoder = factory.encoder()
    assert isinstance(encoder, Joined)
    first, second = (SPACES["dict"].sample() for _ in range(2))
    row = torch.from_numpy(np.concatenate([spaces.flatten(SPACES["dict"], one) for one in (first, second)])).float()
    got = encoder(row[None])
    camera, board = encoder.encoders
    assert isinstance(camera, Convolutions)
    both = torch.from_numpy(np.concatenate([first["camera"], second["camera"]], 2))[None]
    maps = torch.from_numpy(np.stack([first["map"], second["map"]], 2))[None]
    rest = [np.concatenate([one["goal"], np.eye(3)[one["turn"]]]) for one in (first, second)]
    expected = torch.cat([camera(both)[0], board(maps)[0], torch.from_numpy(np.concatenate(rest)).float()])
    torch.testing.assert_close(got[0], expected)


WRONG = {
    "turned": ({"camera": np.zeros((36, 40, 3), np.uint8)}, "uint8 of shape (40, 36, 3), at 'camera'"),
    "wide": ({"map": np.full((5, 4), 300)}, "returned pixels from 300 to 300"),
    "floats": ({"map": np.full((5, 4), 0.5)}, "an array of float64 of shape (5, 4)"),
    "nothing": ({"goal": None}, "returned None as its observation"),
    "spread": ({"goal": 0.0}, "the number 0.0 (float) as its observation"),
    "below": ({"turn": -1}, "returned -1, which isn't of Discrete(3), at 'turn'"),
    "above": ({"turn": 3}, "returned 3, which isn't of Discrete(3), at 'turn'"),
}


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("wrong", [*WRONG, "missing"])
def test_each_part_is_held_against_its_own_space(wrong, backend, opened):
    """Flattened, another shape, a choice that there isn't and a wide number would pass for what is due."""
    if backend == "async" and wrong not in ("turned", "missing"):
        pytest.skip("the same check in a process of its own")
    cfg = config("dict", f"env.backend={backend}", f"env.kwargs.wrong={wrong}").env
    cfg = dataclasses.replace(cfg, generators="shared", origin=None)
    envs = opened(make_vector_env(cfg, [4], 1, training=True))
    envs.reset()
    told = WRONG[wrong][1] if wrong in WRONG else "a dictionary of camera, map, turn as its observation"
    with pytest.raises(UserError) as refused:
        envs.step(np.zeros((1,), np.int64))
    assert told in str(refused.value)
    assert str(refused.value).startswith("environment 0 of seed 4 (Several-v0), episode 0, step 0: ")


@pytest.mark.parametrize("kind", ["dict", "floats"])
def test_where_the_channels_are_can_be_said(kind):
    """Where it can't be seen by the shape, or is seen wrongly: in a Dict, of floats, and stacked."""
    for channels, last in (("first", False), ("last", True)):
        for stack in (1, 2):
            space = space_of(kind, f"env.channels={channels}", f"env.frame_stack={stack}")
            assert space.pictures[0].channels_last == last
    with pytest.raises(ConfigError, match=r"env\.channels=last: env\.backend=native says by itself"):
        env_spec(config(kind, "env.channels=last", "env.backend=native").env)


@pytest.mark.parametrize("shape", [(3, 3, 1), (8, 8, 3), (7, 35, 2)])
def test_boards_have_convolutions_that_fit(shape):
    space = spaces.Box(0, 2, shape, np.uint8)
    assert resolve_name(space, "cnn") == "cnn"
    board = Convolutions(shape, channels_last=True, brightest=2.0)
    assert board(torch.zeros(4, *shape)).shape == (4, board.out_features)
    assert board.conv1.kernel_size == (3, 3)


def test_pixels_are_not_normalised():
    mask = torch.tensor([True, False])
    statistics = RunningStatistics(1, (2,), mask)
    statistics.update(torch.tensor([[[0.0, 0.0], [200.0, 2.0]]]), torch.ones(1, 2))
    torch.testing.assert_close(
        statistics.normalise(torch.tensor([[200.0, 2.0]])), torch.tensor([[200.0, 1.0]]), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(("algo", "more"), [("ppo", "algo.normalize_obs=true"), ("dqn", "env.frame_stack=2")])
def test_a_run_learns_resumes_and_acts(algo, more, tmp_path):
    small = {"ppo": "algo.num_envs=2 algo.rollout_length=8 algo.batch_size=16 algo.epochs=1", "dqn": ""}[algo]
    small = small or "algo.learning_starts=16 algo.batch_size=8 algo.train_every=8 algo.buffer_capacity=100"
    cfg = config(
        "dict", f"algo={algo}", *small.split(), more, "network=cnn", "network.hidden=[8]", "total_steps=32",
        "hardware.compile=false", "hardware.threads=1", "log.tensorboard=false", "eval.final_episodes=1",
        "eval.every=0", f"run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    run = train(cfg)
    assert resume(run, ["total_steps=48"]) == run
    found = load(run, trust=True)
    assert found.policy.act(SPACES["dict"].sample()) in (0, 1)
    if algo == "ppo":
        made = found.export(tmp_path / "policy.onnx")  # written where it acts as the policy does
        assert made.agreement.flips == 0
