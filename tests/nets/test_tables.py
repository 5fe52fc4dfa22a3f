"""Look-up tables and tile coding: which rows are read, and that a gather's gradient is that of the dense product."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.nets.tables import JointIndex, Table, Tiles, UnitBox, lookup


def test_lookup_and_its_gradient():
    """Rows by number; each row's gradient is the sum over the places that read it, the others' 0."""
    table = torch.arange(12.0).reshape(4, 3).requires_grad_()
    index = torch.tensor([[0, 2], [2, 2]])
    rows = lookup(table, index)
    assert rows.tolist() == [[[0, 1, 2], [6, 7, 8]], [[6, 7, 8], [6, 7, 8]]]
    (gradient,) = torch.autograd.grad((rows * torch.tensor([1.0, 10.0, 100.0])).sum(), table)
    assert gradient.tolist() == [[1, 10, 100], [0, 0, 0], [3, 30, 300], [0, 0, 0]]


def test_a_table_starts_at_zero_without_a_bias():
    """(states, outputs), all zero."""
    table = Table(JointIndex([5]), 3)
    assert {name: tuple(p.shape) for name, p in table.named_parameters()} == {"table": (5, 3)}
    assert (table(torch.arange(5)) == 0).all()


def test_joint_index():
    """Discrete as it is; MultiDiscrete in the order of numpy's ravel_multi_index, every state a row of its own."""
    assert JointIndex([4])(torch.tensor([3, 0])).tolist() == [[3], [0]]
    space = gym.spaces.MultiDiscrete([3, 4, 2])
    index = JointIndex([3, 4, 2])
    assert index.rows == 24
    states = np.stack(np.unravel_index(np.arange(24), space.nvec), -1)
    assert index(torch.from_numpy(states)).flatten().tolist() == list(range(24))


def unit(*bounds):
    return UnitBox(bounds)


def test_unit_box():
    """low to 0, high to 1, what lies beyond to the nearer of them; a dimension without extent to 0."""
    x, y, z = unit((-1.2, 0.6), (0.0, 10.0), (2.0, 2.0))(
        torch.tensor([[-1.2, 5.0, 2.0], [0.6, 99.0, 2.0], [-9, -9, 2]])
    )
    assert x.tolist() == pytest.approx([0, 1, 0])
    assert y.tolist() == pytest.approx([0.5, 1, 0])
    assert z.tolist() == [0, 0, 0]


def test_tiles_of_one_dimension():
    """Two tilings of two bins, the second shifted by half a tile: .3 lies in tiles 0 and 1 (.6+.5=1.1)."""
    tiles = Tiles(unit((0, 1)), 2, [2])
    assert tiles.rows == 2 * 3
    rows = tiles(torch.tensor([[0.0], [0.3], [0.6], [1.0]]))
    assert rows.tolist() == [[0, 3 + 0], [0, 3 + 1], [1, 3 + 1], [2, 3 + 2]]


def test_tilings_are_shifted_asymmetrically():
    """Tiling t of T by t·(1, 3)/T of a tile: numbers of tiles as Sutton & Barto's definition gives them."""
    tilings, bins = 8, [8, 4]
    x = torch.rand(200, 2, dtype=torch.float64).float()
    rows = Tiles(unit((0, 1), (0, 1)), tilings, bins)(x)
    for t in range(tilings):
        # unwrapped shifts rename the tiles; two points share a tile under one naming iff under the other
        named = [np.floor(x[:, d].numpy() * bins[d] + t * (2 * d + 1) / tilings) for d in range(2)]
        pairs = list(zip(*named, strict=True))
        names = dict(zip(pairs, rows[:, t].tolist(), strict=True))
        assert len(set(names.values())) == len(names)
        assert [names[pair] for pair in pairs] == rows[:, t].tolist()


def test_each_tiling_has_rows_of_its_own():
    """No row is shared by tilings, and none lies beyond the table, at the corners and beyond the bounds either."""
    tiles = Tiles(unit((0, 1), (0, 1)), 4, [3, 5])
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [7.0, -7.0], [math.nan, math.inf]])
    rows = tiles(torch.cat([corners, torch.rand(500, 2)]))
    per_tiling = tiles.rows // 4
    assert (rows // per_tiling == torch.arange(4)).all()


def mountain_car():
    return Tiles(unit((-1.2, 0.6), (-0.07, 0.07)), 8, [8, 8])


CASES = {
    "tabular": (lambda: JointIndex([7]), lambda: torch.randint(7, (3, 20))),
    "joint": (lambda: JointIndex([3, 4]), lambda: torch.randint(3, (3, 20, 2))),
    "tiles": (mountain_car, lambda: torch.rand(3, 20, 2) * torch.tensor([1.8, 0.14]) - torch.tensor([1.2, 0.07])),
}


@pytest.mark.parametrize("copies", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_product(case, copies):
    """The sum of looked-up rows is φᵀ w with φ written out, and so is its gradient: over seeds and copies."""
    index, inputs = CASES[case]
    x = inputs()
    stack = Stacked(lambda: Table(index(), 3), [0, 1, 2], copies)
    with torch.no_grad():
        stack.flat.normal_()
    w = stack.views()
    rows = torch.stack([index()(each) for each in x])  # (S, B, T)
    phi = torch.nn.functional.one_hot(rows, index().rows).sum(2).float()
    if copies is not None:
        phi = phi.unsqueeze(1)
    table = w["table"].detach().requires_grad_()
    dense, output = phi @ table, stack(x, params=w)
    torch.testing.assert_close(output, dense)
    ours = torch.autograd.grad(output.square().sum(), [w["table"]])[0]
    torch.testing.assert_close(ours, torch.autograd.grad(dense.square().sum(), [table])[0])


@pytest.mark.parametrize("case", CASES)
def test_compiled_equals_eager(case):
    """One whole graph, forward and gradient."""
    index, inputs = CASES[case]
    stack, x = Stacked(lambda: Table(index(), 3), [0, 1, 2]), inputs()
    with torch.no_grad():
        stack.flat.normal_()

    def gradient(x):
        w = stack.views()
        return stack.gradients(stack(x, params=w).square().flatten(1).sum(1), w)

    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, gradient(x))


def test_only_the_rows_read_are_work():
    """Eight rows of three outputs, of 8·9·9."""
    assert Stacked(lambda: Table(mountain_car(), 3), [0]).multiplications() == 8 * 3
    assert Stacked(lambda: Table(JointIndex([500]), 6), [0, 1]).multiplications() == 6
