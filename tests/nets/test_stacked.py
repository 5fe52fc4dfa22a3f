"""The seed axis of networks: S stacked members compute, differentiate, save and load as S single modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeprl_cli.nets.modules import Convolutions, Network, OneHot
from deeprl_cli.nets.stacked import ALIGNMENT, Stacked, seeded
from deeprl_cli.seeding import mix

SEEDS = [4, 0, 9]


def mlp():
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))


def onehot():
    return Network(OneHot([3, 4]), 0, [6], 2, "tanh")


def cnn():
    return Network(Convolutions((36, 36, 1), channels_last=True), 0, [8], 2, "relu")


def frames(generator):
    return torch.randint(256, (3, 5, 36, 36, 1), dtype=torch.uint8, generator=generator)


def choices(generator):
    return torch.stack([torch.randint(n, (3, 5), generator=generator) for n in (3, 4)], -1)


def vectors(generator):
    return torch.randn(3, 5, 4, generator=generator)


CASES = {"mlp": (mlp, vectors), "onehot": (onehot, choices), "cnn": (cnn, frames)}


@pytest.fixture(params=CASES)
def case(request):
    make, inputs = CASES[request.param]
    return make, inputs(torch.Generator().manual_seed(0))


def test_equals_single_modules(case):
    """Output of member s is that of the module made under seed s alone, in whatever company."""
    make, x = case
    stack = Stacked(make, SEEDS)
    output = stack(x)
    for s, seed in enumerate(SEEDS):
        torch.testing.assert_close(output[s], seeded(make, mix(seed, "init//0"))(x[s]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output[s], Stacked(make, [seed])(x[s : s + 1])[0], rtol=1e-4, atol=1e-5)


def test_copies_equal_single_modules(case):
    """Copy c of member s is a module of its own, fed the same inputs: output (S, C, B, …)."""
    make, x = case
    stack = Stacked(make, SEEDS, copies=2)
    output = stack(x)
    assert output.shape == (3, 2, *Stacked(make, SEEDS)(x).shape[1:])
    for s, seed in enumerate(SEEDS):
        for c in range(2):
            torch.testing.assert_close(output[s, c], seeded(make, mix(seed, f"init//{c}"))(x[s]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output[s], Stacked(make, [seed], copies=2)(x[s : s + 1])[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output[:, 0], output[:, 1])


@pytest.mark.parametrize("copies", [None, 2])
def test_gradients_equal_single_modules(case, copies):
    """d Σ loss / d flat is, member by member, the gradient of the single module's own loss; the padding's is 0."""
    make, x = case
    stack = Stacked(make, SEEDS, copies)
    params = stack.views()
    loss = stack(x, params=params).square().flatten(1).sum(1)
    gradient = stack.gradients(loss, params)
    assert gradient.shape == stack.flat.shape
    rows = gradient.reshape(-1, gradient.shape[-1])
    index = 0
    for s, seed in enumerate(SEEDS):
        for c in range(copies or 1):
            member = seeded(make, mix(seed, f"init//{c}"))
            expected = torch.autograd.grad(member(x[s]).square().sum(), list(member.parameters()))
            start = 0
            for g in expected:
                torch.testing.assert_close(rows[index, start : start + g.numel()], g.flatten(), rtol=1e-3, atol=1e-4)
                padded = -(-g.numel() // ALIGNMENT) * ALIGNMENT
                assert (rows[index, start + g.numel() : start + padded] == 0).all()
                start += padded
            assert start == rows.shape[1]
            index += 1


def test_several_inputs():
    """A critic takes an observation and an action; copies share both."""
    stack = Stacked(lambda: Network(OneHot([5]), 2, [6], 1, "relu"), SEEDS, copies=2)
    obs, action = torch.randint(5, (3, 8)), torch.randn(3, 8, 2)
    output = stack(obs, action)
    assert output.shape == (3, 2, 8, 1)
    for s, seed in enumerate(SEEDS):
        single = seeded(lambda: Network(OneHot([5]), 2, [6], 1, "relu"), mix(seed, "init//1"))
        torch.testing.assert_close(output[s, 1], single(obs[s], action[s]))


def test_parameters_keep_their_names():
    """`tensors(s)` are the single module's parameters under the names it gives them, a view of the flat storage."""
    stack = Stacked(mlp, SEEDS)
    for s, seed in enumerate(SEEDS):
        expected = dict(seeded(mlp, mix(seed, "init//0")).named_parameters())
        ours = dict(stack.tensors(s))
        assert list(ours) == list(expected)
        for name, value in expected.items():
            assert torch.equal(ours[name], value)
    assert dict(Stacked(mlp, SEEDS, copies=2).tensors(1))["0.weight"].shape == (2, 7, 4)
    assert [name for name, _ in stack.named_parameters()] == ["flat"]


@pytest.mark.parametrize("copies", [None, 2])
def test_load(copies):
    """One seed's weights go into another stack's seed; the others stay."""
    source, target = Stacked(mlp, [1, 2], copies), Stacked(mlp, [7, 8, 9], copies)
    before = target.flat.detach().clone()
    target.load(1, dict(source.tensors(0)))
    assert torch.equal(target.flat[1], source.flat[0])
    assert torch.equal(target.flat[[0, 2]], before[[0, 2]])


def test_load_refuses_what_does_not_fit():
    """A missing name or another shape is named, and nothing of another stack's size is taken."""
    stack = Stacked(mlp, SEEDS)
    tensors = dict(stack.tensors(0))
    with pytest.raises(ValueError, match=r"lack '0\.bias'"):
        stack.load(0, {name: value for name, value in tensors.items() if name != "0.bias"})
    with pytest.raises(ValueError, match=r"'2\.weight' have shape \(3, 8\), not \(3, 7\)"):
        stack.load(0, {**tensors, "2.weight": torch.zeros(3, 8)})
    with pytest.raises(ValueError, match="shape"):
        stack.load(0, dict(Stacked(mlp, SEEDS, copies=2).tensors(0)))


def test_buffers_are_refused():
    """State that isn't a parameter would be shared by all seeds."""
    with pytest.raises(ValueError, match="BatchNorm1d has buffers"):
        Stacked(lambda: nn.BatchNorm1d(3), [0])


def test_initialisation_leaves_the_global_generator_alone():
    """Building networks moves no random numbers drawn elsewhere, and doesn't depend on them."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Stacked(mlp, SEEDS)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(Stacked(mlp, SEEDS).flat, first.flat)


def test_multiplications():
    """One a weight, per copy; a convolution's weights once for every place."""
    assert Stacked(mlp, SEEDS).multiplications() == 4 * 7 + 7 + 7 * 3 + 3
    assert Stacked(mlp, SEEDS, copies=2).multiplications() == 2 * (4 * 7 + 7 + 7 * 3 + 3)
    one = Stacked(cnn, [0])
    places = [8 * 8, 3 * 3, 1 * 1]  # of 36x36 frames
    weights = [32 * 64, 64 * 32 * 16, 64 * 64 * 9]
    others = sum(shape.numel() for shape in one.shapes.values()) - sum(weights)
    assert one.multiplications() == sum(p * w for p, w in zip(places, weights, strict=True)) + others
