"""`log.video_every`: films beside the curves, in TensorBoard too, and the numbers are those of a run without."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from deeprl_cli.cli import main
from deeprl_cli.commands.verify import verify
from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.evaluation.preview import FRAMES, WIDTH, Preview
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.run import train

pytestmark = pytest.mark.skipif(importlib.util.find_spec("moviepy") is None, reason="needs moviepy")

SMALL = ["algo=a2c", "env=FilmTest/Lamp-v0", "tuned=none", "algo.hidden=[8]", "algo.num_envs=2", "hardware.threads=1"]
SMALL += ["hardware.compile=false", "eval.every=0", "eval.final_episodes=1", "log.every=50", "total_steps=200"]


class Lamp(gym.Env):
    """A picture as bright as the episode is old; ten steps. `darkness`: rendering fails in that episode and later."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)
    built, closed, filmed = 0, 0, 0

    def __init__(self, render_mode=None, darkness=None):
        self.render_mode, self.darkness, self.steps = render_mode, darkness, 0
        Lamp.built += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.random(2, dtype=np.float32), {}

    def step(self, action):
        self.steps += 1
        return self.np_random.random(2, dtype=np.float32), float(action), self.steps == 10, False, {}

    def render(self):
        Lamp.filmed += self.steps == 0
        if self.darkness is not None and Lamp.filmed > self.darkness:
            raise RuntimeError("the lamp is <out>")
        return np.full((32, 48, 3), 20 * self.steps, np.uint8)

    def close(self):
        Lamp.closed += 1


class Dark(Lamp):
    metadata = {"render_modes": []}  # noqa: RUF012


gym.register("FilmTest/Lamp-v0", Lamp)
gym.register("FilmTest/Dark-v0", Dark)


def run(folder, *more):
    Lamp.built = Lamp.closed = Lamp.filmed = 0
    return train(load_config([*SMALL, f"run_dir={folder}", *more]))


def images(seed_folder):
    (events,) = seed_folder.glob("events.out.tfevents.*")
    values = [(e.step, v) for e in EventFileLoader(str(events)).Load() for v in e.summary.value if v.tag == "video"]
    found = []
    for step, value in values:  # the loader turns an image into a tensor of texts: width, height, picture
        data = value.image.encoded_image_string or value.tensor.string_val[2]
        found.append((step, data))
    return found


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("filmed") / "run", "seeds=2", "log.video_every=60")


def test_films_are_where_the_curves_are(filmed):
    """At the first steps from each multiple on, of the first seed; the environments for them are closed again."""
    imageio, image = pytest.importorskip("imageio.v3"), pytest.importorskip("PIL.Image")
    names = [file.name for file in sorted((filmed / "seed_0" / "videos").iterdir())]
    assert names == ["step_000000060.mp4", "step_000000120.mp4", "step_000000180.mp4"]
    assert not (filmed / "seed_1" / "videos").exists()
    frames = imageio.imread(filmed / "seed_0" / "videos" / names[0])
    assert len(frames) == 11
    assert frames[-1].mean() > frames[0].mean() + 150
    shown = images(filmed / "seed_0")
    assert [step for step, _ in shown] == [60, 120, 180]
    assert image.open(io.BytesIO(shown[0][1])).n_frames == 11
    assert images(filmed / "seed_1") == []


def test_a_film_changes_no_number(filmed, tmp_path):
    plain = run(tmp_path / "plain", "seeds=2")
    for name in ("weights.sha256", "seed_0/metrics.csv", "seed_1/metrics.csv"):
        ours, theirs = ((place / name).read_text().splitlines() for place in (filmed, plain))
        without_times = [line if "metrics" not in name else line.split(",")[:6] for line in ours]
        assert without_times == [line if "metrics" not in name else line.split(",")[:6] for line in theirs]
    assert Lamp.built == Lamp.closed


def test_resumed_it_films_on_from_there(tmp_path, capsys):
    folder = run(tmp_path / "run", "log.video_every=70", "total_steps=100")
    main(["resume", str(folder), "total_steps=220"])
    names = [file.stem for file in sorted((folder / "seed_0" / "videos").iterdir())]
    assert [int(name[5:]) for name in names] == [70, 140, 210]
    assert [step for step, _ in images(folder / "seed_0")] == [70, 140, 210]


def test_what_cant_be_rendered_any_more_is_told_once(tmp_path, capsys):
    folder = run(tmp_path / "run", "log.video_every=40", "env.kwargs.darkness=1")
    said = capsys.readouterr().out
    assert said.count("no more videos") == 1
    assert "can't be rendered here (the lamp is <out>)" in said
    assert [file.name for file in (folder / "seed_0" / "videos").iterdir()] == ["step_000000040.mp4"]
    assert '"status": "finished"' in (folder / "summary.json").read_text()


def test_what_cant_be_filmed_is_refused_before_the_run(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"log.video_every=9: .*Dark-v0 can't render as rgb_array"):
        preflight(load_config([*SMALL, "env=FilmTest/Dark-v0", "log.video_every=9"]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a video needs moviepy: pip install 'deeprl-cli\[video\]'; or leave it out"):
        preflight(load_config([*SMALL, "log.video_every=9"]))


@pytest.mark.parametrize("length", [1, FRAMES, FRAMES + 1, 1000])
def test_a_preview_holds_few_frames_however_long_the_film(length):
    image = pytest.importorskip("PIL.Image")
    preview = Preview()
    for index in range(length):
        preview(np.full((100, 1000, 3), index % 256, np.uint8), 50.0)
        assert len(preview._kept) <= FRAMES
    data, height, width = preview.gif()
    opened = image.open(io.BytesIO(data))
    assert width <= WIDTH
    assert opened.size == (width, height)
    shown = getattr(opened, "n_frames", 1) * opened.info.get("duration", 20) / 1000
    assert length == 1 or shown == pytest.approx(max(length / 50, 0.02 * opened.n_frames), rel=0.05)


def test_it_is_a_key_like_others(capsys):
    with pytest.raises(ConfigError, match=r"log\.video_every=-1: must be at least 0"):
        load_config(["log.video_every=-1"])
    assert not Path("videos").exists()


def test_verify_neither_films_nor_tells_trackers(tmp_path, monkeypatch):
    place = run(tmp_path / "run", "log.video_every=100")
    config = place / "config.yaml"
    config.write_text(config.read_text().replace("  to: []", "  to: [trackio]"))
    asked = []
    monkeypatch.setattr("deeprl_cli.training.preflight.check_trackers", lambda cfg: asked.append(cfg.log.to))
    Lamp.filmed = 0
    assert verify(place, steps=None, trust=False) == 0
    assert (asked, Lamp.filmed) == ([[]], 0)
