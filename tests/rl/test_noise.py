"""Streams of noise: independent of neighbours, restored exactly, of the kinds they say."""

from __future__ import annotations

import math

import pytest
import torch

from deeprl_cli.rl.noise import NoiseStream, bits, mix, normal, permutation, uniform

SPEC = {"n": normal(3), "u": uniform(), "b": bits(2), "p": permutation(2, 5)}


def stream(seeds, block=4, purpose="test", spec=SPEC, lead=(2,)):
    return NoiseStream(seeds, purpose, spec, lead, block)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_seed_draws_the_same_beside_others():
    """Over several blocks, whichever seeds stand beside it and wherever it stands."""
    together, alone = stream([5, 9, 2]), stream([9])
    for _ in range(11):
        ours, theirs = together.next(), alone.next()
        assert equal({key: value[1:2] for key, value in ours.items()}, theirs)
        assert not torch.equal(ours["n"][0], ours["n"][1])


@pytest.mark.parametrize("seeds", [1, 3, 40])
def test_large_noise_is_drawn_alike_for_any_number_of_seeds(seeds):
    """How many draws fit into a block doesn't depend on the neighbours: normal numbers would change with it."""
    spec = {"n": normal(30_001)}
    ours, alone = stream(range(seeds), 64, spec=spec, lead=()), stream([0], 64, spec=spec, lead=())
    for _ in range(3):
        assert torch.equal(ours.next()["n"][:1], alone.next()["n"])


def test_shapes_and_kinds():
    """(S, *lead, *shape): normal moments, uniform in [0, 1), 62 bits, permutations of the last axis."""
    drawn = NoiseStream([0, 1], "kinds", {**SPEC, "n": normal(200), "u": uniform(200)}, (50,), 2).next()
    assert drawn["n"].shape == (2, 50, 200)
    assert abs(drawn["n"].mean()) < 5 / math.sqrt(20_000)
    assert abs(drawn["n"].std() - 1) < 0.03
    assert 0 <= drawn["u"].min() < 0.01
    assert 0.99 < drawn["u"].max() < 1
    assert drawn["b"].dtype == torch.int64
    assert drawn["b"].min() >= 0
    assert 2**60 < drawn["b"].max() < 2**62
    assert drawn["p"].shape == (2, 50, 2, 5)
    assert torch.equal(drawn["p"].sort(-1).values, torch.arange(5).expand(2, 50, 2, 5))
    assert len(drawn["p"].flatten(0, 2).unique(dim=0)) > 50


@pytest.mark.parametrize("position", [0, 1, 3, 4, 5, 8])
def test_state_round_trip(position):
    """Restored before the first draw, in mid-block, at a block's end: the next nine draws are the same."""
    first, second = stream([1, 2, 3]), stream([7, 8, 9])
    for _ in range(position):
        first.next()
    for _ in range(2):
        second.next()
    second.load_state_dict(first.state_dict())
    for _ in range(9):
        assert equal(first.next(), second.next())


def test_saving_changes_nothing():
    """Taking the state doesn't move the stream, and a state taken stays as it was."""
    ours, theirs = stream([1]), stream([1])
    for _ in range(6):
        state = ours.state_dict()
        kept = state["generators"].clone()
        assert equal(ours.next(), theirs.next())
        assert torch.equal(state["generators"], kept)


def test_another_block_is_refused():
    """A state of other blocks would draw other numbers."""
    with pytest.raises(ValueError, match="blocks of 4, not 3"):
        stream([1], 3).load_state_dict(stream([1], 4).state_dict())


def test_purposes_and_seeds_are_separate():
    """Many seeds and purposes, each a generator of its own: torch uses the lower 32 bits; the mixing never changes."""
    mixed = [mix(seed, purpose) for seed in range(300) for purpose in ("act", "update", "sample")]
    assert len({value % 2**32 for value in mixed}) == 900
    assert max(mixed) < 2**63
    assert not torch.equal(stream([1], purpose="a").next()["n"], stream([1], purpose="b").next()["n"])
    assert (mix(0, "act"), mix(1, "update")) == (91411565666718134, 4561432825867722692)


def test_draws_are_not_overwritten():
    """What was handed out stays when the next block is drawn."""
    ours = stream([1], block=1)
    first = ours.next()["n"]
    kept = first.clone()
    ours.next()
    assert torch.equal(first, kept)
