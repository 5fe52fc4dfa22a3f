"""FrameMemory gives back every observation bit for bit, whatever the episodes do and however often the ring wraps."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.config.compose import load_config
from deeprl_cli.data import frames, memory, replay
from deeprl_cli.data.frames import FrameMemory, frame_layout
from deeprl_cli.data.replay import Replay
from deeprl_cli.envs.make import env_spec, make_vector_env
from deeprl_cli.envs.spec import EnvSpec, Step
from deeprl_cli.errors import ConfigError
from deeprl_cli.runs.checkpoint import load_checkpoint, save_checkpoint

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


class Pictures:
    """N environments of random frames, stacked by hand; ends, restarts and padding as different back-ends do them.

    `starts`: what the older frames of a first observation are: "copies" of the first, "zeros", or "kept" from before.
    `next_step`: an end is followed by a dummy step of weight 0, else by the first observation at once.
    """

    def __init__(self, shape, stack, num_envs, *, starts="copies", next_step=False, p_end=0.15, last=False, seed=0):
        self.rng = np.random.default_rng(seed)
        self.shape, self.stack, self.last = shape, stack, last
        self.starts, self.next_step, self.p_end = starts, next_step, p_end
        self.queues = [[np.zeros(shape, np.uint8)] * stack for _ in range(num_envs)]
        self.ended = np.zeros(num_envs, bool)
        for n in range(num_envs):
            self.restart(n)
        self.obs = self.stacked()
        space = gym.spaces.Box(0, 255, self.obs.shape[1:], np.uint8)
        self.spec = EnvSpec("pictures", space, gym.spaces.Discrete(4))

    def stacked(self):
        stacks = np.array([np.concatenate(queue) for queue in self.queues])
        return np.ascontiguousarray(np.moveaxis(stacks, 1, -1)) if self.last else stacks

    def push(self, n):
        self.queues[n] = [*self.queues[n][1:], self.rng.integers(256, size=self.shape, dtype=np.uint8)]

    def restart(self, n):
        self.push(n)
        if self.starts == "copies":
            self.queues[n] = [self.queues[n][-1]] * self.stack
        elif self.starts == "zeros":
            self.queues[n][:-1] = [np.zeros(self.shape, np.uint8)] * (self.stack - 1)

    def step(self):
        count = len(self.queues)
        dummy = self.ended & self.next_step
        for n in range(count):
            if dummy[n]:
                self.restart(n)
            else:
                self.push(n)
        next_obs = self.stacked()
        ends = (self.rng.random(count) < self.p_end) & ~dummy
        terminated = ends & (self.rng.random(count) < 0.5)
        obs = next_obs
        if ends.any() and not self.next_step:
            for n in np.flatnonzero(ends):
                self.restart(n)
            obs = self.stacked()
        self.ended, self.obs = ends, obs
        reward = np.where(dummy, 0, self.rng.standard_normal(count)).astype(np.float32)
        zeros = np.zeros(count, np.float32)
        weight = (~dummy).astype(np.float32)
        return Step(obs, next_obs, reward, terminated, ends & ~terminated, weight, ends, zeros, zeros.astype(np.int64))


class Truth:
    """Every transition of weight 1, per seed, in the order it came."""

    def __init__(self, num_seeds, num_envs):
        self.num_seeds, self.num_envs = num_seeds, num_envs
        self.seen = [[] for _ in range(num_seeds)]

    def add(self, obs, action, step):
        for n in np.flatnonzero(step.weight):
            flags = step.terminated[n], step.truncated[n]
            row = obs[n].copy(), action[n], step.reward[n], step.next_obs[n].copy(), *flags
            self.seen[n // self.num_envs].append(row)

    def check(self, held: FrameMemory):
        """All that is held is the newest transitions, in order, each field equal."""
        for s, seen in enumerate(self.seen):
            first, size = int(held.first[s]), len(seen) - int(held.first[s])
            assert held.written[s] == len(seen)
            assert 0 < size <= held.capacity
            everything = held.sample(torch.arange(size).expand(self.num_seeds, size))
            assert everything.weight.min() == 1
            for name, expected in zip(FIELDS, zip(*seen[first:], strict=True), strict=True):
                found = getattr(everything, name)[s].numpy()
                assert np.array_equal(found, np.array(expected).astype(found.dtype)), name
            assert everything.obs.dtype == torch.uint8


def feed(held, envs, truth, rng, count, obs=None):
    obs = envs.obs if obs is None else obs
    for _ in range(count):
        action = rng.integers(3, size=len(obs))
        step = envs.step(action) if hasattr(envs, "close") else envs.step()
        for store in held:
            store.add(obs, action, step)
        truth.add(obs, action, step)
        obs = step.obs
    return obs


@pytest.mark.parametrize("starts", ["copies", "zeros", "kept"])
@pytest.mark.parametrize("next_step", [False, True])
@pytest.mark.parametrize(("stack", "channels", "last"), [(1, 3, True), (2, 1, False), (4, 1, False), (3, 2, True)])
def test_every_transition_comes_back(starts, next_step, stack, channels, last):
    seeds, num_envs = 2, 3
    shape = (channels, 7, 8)
    envs = Pictures(shape, stack, seeds * num_envs, starts=starts, next_step=next_step, last=last)
    held = FrameMemory(envs.spec, seeds, 50, num_envs=num_envs, stack=stack)
    assert held.frame_shape == shape
    truth, rng = Truth(seeds, num_envs), np.random.default_rng(1)
    for _ in range(40):  # from the first step through a dozen wraps, seeds and environments out of step
        feed([held], envs, truth, rng, int(rng.integers(1, 8)))
        truth.check(held)
    assert held.stored.min() > 4 * held.num_frames


def test_draws_what_a_plain_replay_draws():
    envs = Pictures((1, 6, 6), 4, 6)
    held, plain = FrameMemory(envs.spec, 2, 400, num_envs=3, stack=4), Replay(envs.spec, 2, 400)
    feed([held, plain], envs, Truth(2, 3), np.random.default_rng(0), 60)
    assert len(held) == len(plain) == 180
    bits = torch.randint(2**62, (2, 64), generator=torch.Generator().manual_seed(0))
    for name, found, expected in zip(held.sample(bits)._fields, held.sample(bits), plain.sample(bits), strict=True):
        assert torch.equal(found.float(), expected), name


def test_holds_its_capacity_where_episodes_do_not_end():
    envs = Pictures((1, 6, 6), 4, 6, p_end=0.0)
    held, truth = FrameMemory(envs.spec, 2, 100, num_envs=3, stack=4), Truth(2, 3)
    feed([held], envs, truth, np.random.default_rng(0), 300)
    assert len(held) == 100
    truth.check(held)


def test_short_episodes_cost_a_frame_each():
    envs = Pictures((1, 6, 6), 4, 1, p_end=0.2)
    held, truth = FrameMemory(envs.spec, 1, 1000, num_envs=1, stack=4), Truth(1, 1)
    feed([held], envs, truth, np.random.default_rng(0), 3000)
    assert 1000 * 5 / 6 - 50 < len(held) < 1000 * 5 / 6 + 50
    truth.check(held)


def test_memory_is_one_frame_a_transition():
    space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    spec = EnvSpec("atari", space, gym.spaces.Discrete(4))
    held = FrameMemory(spec, 2, 10_000, num_envs=8, stack=4)
    taken = sum(t.numel() * t.element_size() for t in (held.rows, held.frames, *held.beside.values()))
    assert FrameMemory.bytes_needed(spec, 2, 10_000, 8, 4) == taken
    assert taken < 2 * 10_000 * 84 * 84 * 1.02


@pytest.mark.parametrize(("stack", "num_envs"), [(1, 2), (2, 1), (4, 3)])
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_pixel_catch(stack, num_envs, backend):
    cfg = load_config(["algo=dqn", "env=deeprl/PixelCatch-v0", f"env.frame_stack={stack}", f"env.backend={backend}"])
    seeds = 2
    envs = make_vector_env(cfg.env, list(range(seeds)), num_envs, training=True)
    assert envs.spec.observation_space.shape == (36, 36, stack)
    held, truth = FrameMemory(envs.spec, seeds, 40, num_envs=num_envs, stack=stack), Truth(seeds, num_envs)
    rng = np.random.default_rng(2)
    obs = envs.reset()
    for _ in range(12):
        obs = feed([held], envs, truth, rng, 5, obs)
        truth.check(held)
    envs.close()


@pytest.mark.parametrize("backend", ["sync", "envpool"])
def test_breakout_through_lost_lives_and_ends(backend):
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    if backend == "envpool":
        pytest.importorskip("envpool")
    name = "Breakout-v5" if backend == "envpool" else "ALE/Breakout-v5"
    overrides = ["algo=dqn", f"env={name}", f"env.backend={backend}", "env.frame_stack=4", "env.atari.enabled=true"]
    envs = make_vector_env(load_config(overrides).env, [0, 1], 2, training=True)
    held, truth = FrameMemory(envs.spec, 2, 150, num_envs=2, stack=4), Truth(2, 2)
    lost = ended = 0
    obs = envs.reset()
    for time in range(240):
        action = np.full(4, 2 + time // 7 % 2)
        step = envs.step(action)
        held.add(obs, action, step)
        truth.add(obs, action, step)
        obs, lost, ended = step.obs, lost + step.terminated.sum(), ended + step.episode_end.sum()
        if time % 40 == 39:
            truth.check(held)
    assert lost > ended > 0
    envs.close()


def test_a_resumed_memory_goes_on_as_if_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "SEGMENT_FRAMES", 16)
    monkeypatch.setattr(replay, "SEGMENT_ROWS", 16)
    envs = Pictures((1, 6, 6), 3, 4)
    make = lambda: FrameMemory(envs.spec, 2, 64, num_envs=2, stack=3)  # noqa: E731
    held, truth, rng = make(), Truth(2, 2), np.random.default_rng(0)
    for count in (9, 14, 60):  # before the ring is full, and after
        feed([held], envs, truth, rng, count)
        save_checkpoint(tmp_path, {"memory": held.state_dict()}, held.segments())
        loaded = load_checkpoint(tmp_path)
        other = make()
        other.load_state_dict(loaded.state["memory"], loaded.segments)
        truth.check(other)
        feed([held, other], envs, truth, rng, 11, envs.obs.copy())  # a restored environment's observation is a copy
        truth.check(other)
        assert np.array_equal(held.first, other.first)
        assert np.array_equal(held.stored, other.stored)
    with pytest.raises(ValueError, match="72 frames, not 73"):
        FrameMemory(envs.spec, 2, 65, num_envs=2, stack=3).load_state_dict(loaded.state["memory"], loaded.segments)


def test_full_segments_keep_their_names(monkeypatch):
    monkeypatch.setattr(frames, "SEGMENT_FRAMES", 16)
    envs = Pictures((1, 6, 6), 2, 1, p_end=0.0)
    held, truth = FrameMemory(envs.spec, 1, 1000, stack=2), Truth(1, 1)
    feed([held], envs, truth, np.random.default_rng(0), 40)
    before = set(held.segments())
    feed([held], envs, truth, np.random.default_rng(0), 4)
    assert {name for name in before if name.startswith("frames")} - set(held.segments()) == {
        "frames-00002-000000000009"
    }


def test_starts_anew_where_environments_were_not_brought_back():
    envs, other = Pictures((1, 6, 6), 3, 2), Pictures((1, 6, 6), 3, 2, seed=1)
    held, truth, rng = FrameMemory(envs.spec, 1, 30, num_envs=2, stack=3), Truth(1, 2), np.random.default_rng(0)
    feed([held], envs, truth, rng, 5)
    feed([held], other, truth, rng, 8)
    truth.check(held)


def test_refuses_what_it_could_not_rebuild():
    envs = Pictures((1, 6, 6), 4, 1)
    held = FrameMemory(envs.spec, 1, 30, stack=2)  # stacks of two 2-channel frames move on by two, not by one
    with pytest.raises(ValueError, match="last 2 frames"):
        feed([held], envs, Truth(1, 1), np.random.default_rng(0), 5)
    with pytest.raises(ConfigError, match=r"env\.frame_stack=3"):
        frame_layout(envs.spec, 3)


def test_a_run_takes_frames_for_images_and_counts_their_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda hardware: 2**30)
    pixels = ["algo=dqn", "env=deeprl/PixelCatch-v0", "env.frame_stack=4", "total_steps=1000000"]
    cfg = load_config([*pixels, "algo.buffer_capacity=600000"])
    spec = env_spec(cfg.env)
    memory.check_memory(cfg, spec)  # 600,000 x 36 x 36 bytes
    with pytest.raises(ConfigError, match=r"1\.2 GiB for 1 x 1000000 transitions"):
        memory.check_memory(load_config(pixels), spec)
    device = torch.device("cpu")
    held = memory.make_memory(load_config([*pixels, "algo.buffer_capacity=100", "algo.num_envs=2"]), spec, device)
    assert isinstance(held, FrameMemory)
    assert (held.stack, held.num_envs, held.frame_shape) == (4, 2, (1, 36, 36))
    vector = load_config(["algo=dqn", "env=CartPole-v1"])
    assert type(memory.make_memory(vector, env_spec(vector.env), device)) is Replay


def test_a_memory_made_for_a_shorter_run_holds_what_the_full_one_would(tmp_path):
    """It grows with its frames where episodes are short; resumed for more steps, all stays in its place."""
    envs = Pictures((1, 6, 6), 3, 4, p_end=0.5)
    make = lambda capacity: FrameMemory(envs.spec, 2, capacity, num_envs=2, stack=3, most=400)  # noqa: E731
    full, short, truth, rng = make(400), make(60), Truth(2, 2), np.random.default_rng(0)
    feed([full, short], envs, truth, rng, 30)
    assert 60 + 2 * 4 < short.num_frames < full.num_frames
    truth.check(short)
    bits = torch.randint(1 << 40, (2, 16))
    for one, other in zip(full.sample(bits), short.sample(bits), strict=True):
        assert torch.equal(one, other)
    save_checkpoint(tmp_path, {"memory": short.state_dict()}, short.segments())
    loaded = load_checkpoint(tmp_path)
    longer = make(200)
    longer.load_state_dict(loaded.state["memory"], loaded.segments)
    truth.check(longer)
    feed([full, longer], envs, truth, rng, 60, envs.obs.copy())
    truth.check(longer)
    for one, other in zip(full.sample(bits), longer.sample(bits), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_a_full_sized_memory_fits_one_made_for_the_run(tmp_path):
    """As the first versions wrote it: rings of the whole capacity, whose number of frames isn't said."""
    envs = Pictures((1, 6, 6), 2, 4)
    make = lambda capacity: FrameMemory(envs.spec, 2, capacity, num_envs=2, stack=2, most=400)  # noqa: E731
    full, truth, rng = make(400), Truth(2, 2), np.random.default_rng(0)
    feed([full], envs, truth, rng, 20)
    state = full.state_dict()
    del state["frames"]["count"]
    save_checkpoint(tmp_path, {"memory": state}, full.segments())
    loaded = load_checkpoint(tmp_path)
    short = make(50)
    short.load_state_dict(loaded.state["memory"], loaded.segments)
    truth.check(short)
    feed([short], envs, truth, rng, 4, envs.obs.copy())
    truth.check(short)
