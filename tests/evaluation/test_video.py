"""Videos of a policy: what is played, that it can be seen, and the one line where it can't be made."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import env_spec, make_vector_env
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation import video
from deeprl_cli.evaluation.episodes import FRESH
from deeprl_cli.policy import make_policy


class Painter(gym.Env):
    """Paints frames with odd sides, or whatever `picture` says; three steps long."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None, picture="odd"):
        self.render_mode, self.picture, self.steps = render_mode, picture, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(3, np.float32), 1.0, self.steps == 3, False, {}

    def render(self):
        if self.picture == "broken":
            raise RuntimeError("no canvas\nat all")
        return {
            "odd": np.full((33, 47, 3), 60 * self.steps, np.uint8),
            "none": None,
            "grey": np.zeros((8, 8), np.uint8),
        }[self.picture]


class Blind(Painter):
    """Knows no render mode."""

    metadata = {"render_modes": []}  # noqa: RUF012


for name, entry_point in (("Painter-v0", Painter), ("Blind-v0", Blind)):
    gym.register(f"VideoTest/{name}", entry_point)


def frames_of(file):
    """All frames (n, height, width, 3) and the frames per second."""
    imageio = pytest.importorskip("imageio.v3")
    return imageio.imread(file), imageio.immeta(file)["fps"]


def make(*overrides):
    cfg = load_config(["algo=ppo", "tuned=none", *overrides])
    spec = env_spec(cfg.env)
    return make_policy(cfg, spec), cfg


@pytest.fixture
def need_moviepy():
    pytest.importorskip("moviepy")


pytestmark = pytest.mark.usefixtures("need_moviepy")


def test_cartpole(tmp_path):
    policy, cfg = make("env=CartPole-v1", "seeds=2", "seed=3", "env.max_episode_steps=12")
    files = video.record(policy, cfg, [0, 1], tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["seed_3.mp4", "seed_4.mp4"]
    assert sorted(path.name for path in files[0].parent.iterdir()) == ["seed_3.mp4", "seed_4.mp4"]  # nothing half done
    frames, fps = frames_of(files[1])
    assert frames.shape[1:] == (400, 600, 3)
    assert fps == 50
    assert frames.std() > 1  # a picture, not a blank
    assert np.abs(frames[-1].astype(int) - frames[0]).max() > 50  # and it moves


def test_plays_the_first_episode_of_eval(tmp_path):
    policy, cfg = make("env=CartPole-v1", "seeds=2")
    envs = make_vector_env(cfg.env, [seed + FRESH for seed in cfg.seed_list], 1, training=False)
    obs, lengths = envs.reset(), [0, 0]
    while not all(lengths):
        step = envs.step(policy.act(obs, None, evaluating=True))
        obs = step.obs
        for n in np.flatnonzero(step.episode_end):
            lengths[n] = lengths[n] or int(step.episode_length[n])
    files = video.record(policy, cfg, [1, 0], tmp_path)
    assert [len(frames_of(file)[0]) for file in files] == [lengths[1] + 1, lengths[0] + 1]


def test_continuous_actions_and_odd_sides(tmp_path):
    policy, cfg = make("env=Pendulum-v1", "env.max_episode_steps=3")
    (file,) = video.record(policy, cfg, [0], tmp_path)
    assert len(frames_of(file)[0]) == 4
    policy, cfg = make("env=VideoTest/Painter-v0")
    (file,) = video.record(policy, cfg, [0], tmp_path)  # replaces the other
    frames, fps = frames_of(file)
    assert frames.shape == (4, 34, 48, 3)
    assert fps == 12
    assert [round(frame.mean() / 60) for frame in frames] == [0, 1, 2, 3]


def test_several_episodes_in_one_video(tmp_path):
    """One after the other, each with its first and its last state: the ones that an evaluation plays side by side."""
    policy, cfg = make("env=VideoTest/Painter-v0")
    (file,) = video.record(policy, cfg, [0], tmp_path, 3)
    frames, _ = frames_of(file)
    assert len(frames) == 3 * 4
    dark = [frame.mean() < 30 for frame in frames]
    assert dark == [True, False, False, False] * 3
    policy, cfg = make("env=CartPole-v1")
    envs = make_vector_env(cfg.env, [FRESH], 10, training=False)
    obs, lengths = envs.reset(), [0] * 10
    while not all(lengths):
        step = envs.step(policy.act(obs, None, evaluating=True))
        obs = step.obs
        for n in np.flatnonzero(step.episode_end):
            lengths[n] = lengths[n] or int(step.episode_length[n])
    (file,) = video.record(policy, cfg, [0], tmp_path, 3)
    assert len(frames_of(file)[0]) == sum(lengths[:3]) + 3


def test_endless_episodes_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_STEPS", 2)
    policy, cfg = make("env=Pendulum-v1")
    assert len(frames_of(video.record(policy, cfg, [0], tmp_path)[0])[0]) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env=VideoTest/Blind-v0"], "VideoTest/Blind-v0 can't render"),
        (["env=VideoTest/Painter-v0", "env.kwargs.picture=broken"], "can't be rendered here (no canvas)"),
        (["env=VideoTest/Painter-v0", "env.kwargs.picture=none"], "doesn't render pictures"),
        (["env=VideoTest/Painter-v0", "env.kwargs.picture=grey"], "doesn't render pictures"),
    ],
)
def test_environments_that_cannot_be_filmed(tmp_path, overrides, message):
    policy, cfg = make(*overrides)
    with pytest.raises(UserError) as caught:
        video.record(policy, cfg, [0], tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_unwritable_folder(tmp_path):
    policy, cfg = make("env=VideoTest/Painter-v0")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write videos there"):
        video.record(policy, cfg, [0], tmp_path / "file")
    (tmp_path / "seed_0.mp4").mkdir()
    with pytest.raises(UserError, match="can't write the video"):
        video.record(policy, cfg, [0], tmp_path)


def test_without_moviepy(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moviepy" else find_spec(name))
    policy, cfg = make("env=CartPole-v1")
    with pytest.raises(UserError) as caught:
        video.record(policy, cfg, [0], tmp_path)
    assert str(caught.value) == "a video needs moviepy: pip install 'deeprl-cli[video]'"


def test_headless_and_silent(tmp_path):
    """FrozenLake opens pygame's display even for arrays; nothing may be printed into the output of --json."""
    program = (
        "from test_video import make, video\nfrom pathlib import Path\nimport sys\n"
        "policy, cfg = make('env=FrozenLake-v1', 'env.max_episode_steps=2')\n"
        "print(video.record(policy, cfg, [0], Path(sys.argv[1]))[0].name)"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "seed_0.mp4\n", done.stderr
