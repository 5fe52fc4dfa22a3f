"""Features of linear approximators against their definitions, and how they start and stack."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from deeprl_cli.nets.features import Fourier, Linear, Polynomial, RadialBasis
from deeprl_cli.nets.modules import OneHot
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.nets.tables import UnitBox

UNIT = UnitBox([(0.0, 1.0), (-2.0, 2.0)])
X = torch.tensor([[0.5, 0.0], [0.25, -1.0], [1.0, 2.0]])
SCALED = [(0.5, 0.5), (0.25, 0.25), (1.0, 1.0)]


def test_polynomial():
    """x^i y^j for i, j ≤ 2, of the scaled vector; the first is the constant 1."""
    features = Polynomial(UNIT, 2)
    assert features.out_features == 9
    expected = [[x**i * y**j for i, j in itertools.product(range(3), repeat=2)] for x, y in SCALED]
    torch.testing.assert_close(features(X), torch.tensor(expected))
    assert (features(X)[:, 0] == 1).all()


def test_fourier():
    """cos(π(ix + jy)) for i, j ≤ 3; the first is the constant 1."""
    features = Fourier(UNIT, 3)
    assert features.out_features == 16
    expected = [
        [math.cos(math.pi * (i * x + j * y)) for i, j in itertools.product(range(4), repeat=2)] for x, y in SCALED
    ]
    torch.testing.assert_close(features(X), torch.tensor(expected))
    assert (features(X)[:, 0] == 1).all()


def test_radial_basis():
    """exp(−‖s − c‖²/2σ²), σ in distances between neighbours, each dimension's own; one centre stands in the middle."""
    features = RadialBasis(UNIT, [3, 1], 0.5)
    assert features.out_features == 3
    expected = [
        [math.exp(-((x - c) ** 2) / (2 * 0.25**2) - (y - 0.5) ** 2 / (2 * 0.5**2)) for c in (0, 0.5, 1)]
        for x, y in SCALED
    ]
    torch.testing.assert_close(features(X), torch.tensor(expected))


MAKERS = {
    "poly": lambda: Polynomial(UNIT, 3),
    "fourier": lambda: Fourier(UNIT, 3),
    "rbf": lambda: RadialBasis(UNIT, [4, 5], 1.0),
    "onehot": lambda: OneHot([4, 3]),
}


def inputs(name):
    return torch.randint(3, (3, 6, 2)) if name == "onehot" else torch.rand(3, 6, 2)


@pytest.mark.parametrize("name", MAKERS)
def test_linear_in_its_features(name):
    """w_iᵀφ(s): one weight a feature and output, zero at the start, no bias."""
    network = Linear(MAKERS[name](), 2)
    assert [key for key, _ in network.named_parameters()] == ["weight"]
    assert (network.weight == 0).all()
    with torch.no_grad():
        network.weight.normal_()
    x = inputs(name)[0]
    torch.testing.assert_close(network(x), MAKERS[name]()(x) @ network.weight.T)


@pytest.mark.parametrize("name", MAKERS)
def test_seeds_stack_and_compile(name):
    """S members are S single ones, gradients included; compiled whole they say the same."""
    stack, x = Stacked(lambda: Linear(MAKERS[name](), 2), [0, 1, 2]), inputs(name)
    with torch.no_grad():
        stack.flat.normal_()

    def gradient(x):
        w = stack.views()
        return stack.gradients((stack(x, params=w) + 1).square().flatten(1).sum(1), w)

    g = gradient(x)
    for s in range(3):
        w = stack.views()["weight"][s].detach().requires_grad_()
        phi = MAKERS[name]()(x[s])
        torch.testing.assert_close(stack(x)[s], phi @ w.T)
        (alone,) = torch.autograd.grad((phi @ w.T + 1).square().sum(), w)
        torch.testing.assert_close(g[s, : w.numel()], alone.flatten(), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        torch.testing.assert_close(torch.compile(gradient, fullgraph=True, backend="aot_eager")(x), g)
