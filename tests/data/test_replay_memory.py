"""The replay memory: first in, first out, whatever the ends, dummies and wraps (T6); and its immutable segments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.data import replay
from deeprl_cli.data.replay import Replay, load_ring, ring_segments
from deeprl_cli.envs.spec import EnvSpec, Step

SPEC = EnvSpec("Test-v0", gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Box(-1, 1, (3,)))


def numbered(numbers, weight=None):
    """One step of environments whose transitions carry a number in every field: (obs, action, Step)."""
    x = np.asarray(numbers, np.float32)
    n = len(x)
    weight = np.ones(n, np.float32) if weight is None else np.asarray(weight, np.float32)
    step = Step(
        obs=np.full((n, 2), -1, np.float32),  # of the next episode: must not be stored
        next_obs=np.stack([x + 0.5, -x], 1),
        reward=x * 10,
        terminated=x % 2 == 0,
        truncated=x % 3 == 0,
        weight=weight,
        episode_end=np.zeros(n, bool),
        episode_return=np.zeros(n, np.float32),
        episode_length=np.zeros(n, np.int64),
    )
    return np.stack([x, -x], 1), np.stack([x / 100] * 3, 1), step


def assert_whole(batch):
    """Every field of every transition belongs to the same one; the numbers `(S, batch)`."""
    number = batch.obs[..., 0]
    assert torch.equal(batch.obs[..., 1], -number)
    torch.testing.assert_close(batch.action, (number / 100).unsqueeze(-1).expand(*number.shape, 3))
    assert torch.equal(batch.reward, number * 10)
    assert torch.equal(batch.next_obs, torch.stack([number + 0.5, -number], -1))
    assert torch.equal(batch.terminated, (number % 2 == 0).float())
    assert torch.equal(batch.truncated, (number % 3 == 0).float())
    assert torch.equal(batch.weight, torch.ones_like(number))
    return number


def held(memory, seed):
    """Numbers of the transitions that one seed's part can be sampled from, in storage order."""
    count = min(int(memory.written[seed]), memory.capacity)
    bits = torch.arange(count).expand(memory.num_seeds, count)
    return [int(x) for x in assert_whole(memory.sample(bits))[seed]]


@pytest.mark.parametrize(("seeds", "envs"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 4)])
def test_first_in_first_out(seeds, envs):
    """After any number of steps each seed holds its newest transitions, up to the capacity, none of another seed's."""
    capacity = 10
    memory = Replay(SPEC, seeds, capacity)
    expected = [[] for _ in range(seeds)]
    for t in range(30):
        numbers = [s * 10_000 + t * envs + b for s in range(seeds) for b in range(envs)]
        memory.add(*numbered(numbers))
        for s in range(seeds):
            expected[s] += numbers[s * envs : (s + 1) * envs]
            assert sorted(held(memory, s)) == expected[s][-capacity:]
        assert len(memory) == min((t + 1) * envs, capacity)


def test_dummies_are_left_out_and_seeds_fill_at_their_own_pace():
    """Steps of weight 0 are never stored; each seed then holds its own newest ones."""
    rng = np.random.default_rng(0)
    memory = Replay(SPEC, 2, 7)
    expected = [[], []]
    for t in range(40):
        numbers = [s * 10_000 + t * 3 + b for s in range(2) for b in range(3)]
        weight = rng.random(6) < ([0.9] * 3 + [0.4] * 3)
        memory.add(*numbered(numbers, weight))
        for n in np.flatnonzero(weight):
            expected[n // 3].append(numbers[n])
        for s in range(2):
            assert sorted(held(memory, s)) == sorted(expected[s][-7:])
        assert len(memory) == min(len(expected[0]), len(expected[1]), 7)
    assert memory.written.tolist() == [len(e) for e in expected]


def test_more_environments_than_room():
    """A step of more transitions than the capacity leaves the last of them."""
    memory = Replay(SPEC, 1, 3)
    for t in range(5):
        memory.add(*numbered(range(t * 5, t * 5 + 5)))
        assert sorted(held(memory, 0)) == [t * 5 + 2, t * 5 + 3, t * 5 + 4]


def test_samples_are_uniform_over_what_is_held():
    """Random bits pick every stored transition equally often, never an empty place, and each seed its own."""
    memory = Replay(SPEC, 2, 100)
    for t in range(6):
        memory.add(*numbered([t, 1000 + t]))
    bits = torch.randint(2**62, (2, 60_000), generator=torch.Generator().manual_seed(0))
    number = assert_whole(memory.sample(bits)).long()
    for s in range(2):
        counts = torch.bincount(number[s] - 1000 * s, minlength=6)
        assert len(counts) == 6
        assert (counts - 10_000).abs().max() < 5 * (10_000 * 5 / 6) ** 0.5


def test_samples_are_copies():
    """A minibatch stays as it was when its transitions are overwritten."""
    memory = Replay(SPEC, 1, 1)
    memory.add(*numbered([1]))
    batch = memory.sample(torch.zeros(1, 4, dtype=torch.int64))
    memory.add(*numbered([2]))
    assert assert_whole(batch).tolist() == [[1] * 4]


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(5), gym.spaces.MultiDiscrete([3, 4]), gym.spaces.Box(-1, 1, (3,))]
)
def test_every_kind_of_observation_and_action(space):
    """Choices come back as the numbers they were, in their shape."""
    spec = EnvSpec("Test-v0", space, gym.spaces.Discrete(4))
    memory = Replay(spec, 2, 10)
    space.seed(0)
    obs, next_obs = (np.stack([space.sample() for _ in range(2)]) for _ in range(2))
    _, _, step = numbered([1, 2])
    step.next_obs = next_obs
    memory.add(obs, np.array([3, 1]), step)
    batch = memory.sample(torch.zeros(2, 1, dtype=torch.int64))
    assert batch.obs.shape == (2, 1, *space.shape)
    np.testing.assert_array_equal(batch.obs[:, 0].numpy(), obs)
    np.testing.assert_array_equal(batch.next_obs[:, 0].numpy(), next_obs)
    assert batch.action.tolist() == [[3], [1]]


def test_segments_restore_the_memory_and_never_change(monkeypatch):
    """At any time the segments bring back all that is held; one name always stands for the same bytes."""
    monkeypatch.setattr(replay, "SEGMENT_ROWS", 4)
    rng = np.random.default_rng(1)
    memory = Replay(SPEC, 2, 10)
    memory.rows.zero_()
    seen = {}
    for t in range(40):
        numbers = [s * 10_000 + t * 2 + b for s in range(2) for b in range(2)]
        memory.add(*numbered(numbers, rng.random(4) < 0.7))
        segments = {name: {k: v.clone() for k, v in read().items()} for name, read in memory.segments().items()}
        for name, content in segments.items():
            assert torch.equal(seen.setdefault(name, content)["rows"], content["rows"]), name
        restored = Replay(SPEC, 2, 10)
        restored.load_state_dict(memory.state_dict(), segments)
        assert len(restored) == len(memory)
        if len(memory):
            for s in range(2):
                assert held(restored, s) == held(memory, s)
        restored.add(*numbered(numbers))  # and goes on in the same places
        twin = Replay(SPEC, 2, 10)
        twin.load_state_dict(memory.state_dict(), segments)
        twin.add(*numbered(numbers))
        assert held(twin, 0) == held(restored, 0)
    assert len(seen) > 20


def test_a_full_memory_rewrites_only_the_segments_it_wrote_to():
    """After one more item, all names but one are those of before."""
    ring = torch.arange(40.0).view(1, 20, 2)
    before = ring_segments("r", {"x": ring}, np.array([45]), 20, 4)
    after = ring_segments("r", {"x": ring}, np.array([46]), 20, 4)
    assert len(before) == len(after) == 5
    assert len(before.keys() & after.keys()) == 4


def test_another_memorys_state_is_refused():
    """Another capacity, once the ring has come round, or another row: ValueError, not a silent mixture."""
    memory = Replay(SPEC, 1, 10)
    for number in range(11):
        memory.add(*numbered([number]))
    with pytest.raises(ValueError, match="10 transitions, not 20"):
        Replay(SPEC, 1, 20).load_state_dict(memory.state_dict(), {})
    with pytest.raises(ValueError, match="20 transitions, not 10"):
        Replay(SPEC, 1, 10).load_state_dict({**memory.state_dict(), "capacity": 20, "written": [3]}, {})
    with pytest.raises(ValueError, match="rows"):
        load_ring("replay", {"rows": torch.zeros(1, 10, 3)}, {"replay-00000-1": {"rows": torch.zeros(1, 4, 5)}}, 4)
