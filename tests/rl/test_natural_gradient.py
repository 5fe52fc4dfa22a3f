"""Conjugate gradient and line search, each seed by itself."""

from __future__ import annotations

import math

import pytest
import torch

from deeprl_cli.rl.natural_gradient import conjugate_gradient, line_search


def spd(seeds, size):
    """Random symmetric positive definite matrices `(S, P, P)`."""
    a = torch.randn(seeds, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return a @ a.mT + 0.5 * torch.eye(size, dtype=torch.float64)


def product(h):
    return lambda v: (h @ v.unsqueeze(-1)).squeeze(-1)


def test_solves_a_system_of_each_seed():
    """After P iterations, and after many more, x = H⁻¹b: a solved seed stays where it is."""
    h, b = spd(3, 6), torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = torch.linalg.solve(h, b)
    for iterations in (6, 60):
        torch.testing.assert_close(conjugate_gradient(product(h), b, iterations), expected, rtol=1e-4, atol=1e-5)


def test_first_iteration_is_the_steepest_descent_step():
    """By hand: H = diag(1, 2, 4), b = (1, 1, 1): α = bᵀb/bᵀHb = 3/7."""
    h = torch.diag(torch.tensor([1.0, 2.0, 4.0])).unsqueeze(0)
    assert conjugate_gradient(product(h), torch.ones(1, 3), 1)[0].tolist() == pytest.approx([3 / 7] * 3)


def test_seeds_are_solved_apart():
    """One solved at once, one whose b is zero and one that holds NaN leave the fourth's solution as it is alone."""
    h = spd(4, 5)
    h[0] = torch.eye(5)
    b = torch.randn(4, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    b[1], b[2] = 0.0, torch.nan
    x = conjugate_gradient(product(h), b, 10)
    torch.testing.assert_close(x[0], b[0])
    assert (x[1] == 0).all()
    assert torch.equal(x[3:], conjugate_gradient(product(h[3:]), b[3:], 10))


def search(objectives, kls, candidates=4):
    """Run on one parameter, seeds' (objective, KL) listed by candidate; the scales taken and how many were tried."""
    tried = []

    def evaluate(step):
        tried.append(step[:, 0].tolist())
        j = len(tried) - 1
        return torch.tensor([row[j] for row in objectives]), torch.tensor([row[j] for row in kls])

    zeros = torch.zeros(len(objectives))
    return line_search(evaluate, torch.ones(len(objectives), 1), zeros, 0.01, 0.5, candidates).tolist(), tried


def test_line_search_takes_the_first_that_fits():
    """Seeds: the whole step; too far twice; no better at first; never better; NaN. Ties with the old are no gain."""
    nan = math.nan
    objectives = [[1.0] * 4, [1.0] * 4, [-1.0, 0.0, 1.0, 1.0], [0.0] * 4, [nan] * 4]
    kls = [[0.01] * 4, [0.03, 0.02, 0.01, 0.0], [0.0] * 4, [0.0] * 4, [nan] * 4]
    scale, tried = search(objectives, kls)
    assert scale == [1.0, 0.25, 0.25, 0.0, 0.0]
    assert tried == [[f] * 5 for f in (1.0, 0.5, 0.25, 0.125)]


def test_line_search_ends_when_every_seed_has_its_step():
    scale, tried = search([[1.0] * 4] * 2, [[0.0] * 4, [0.02, 0.0, 0.0, 0.0]])
    assert scale == [1.0, 0.5]
    assert len(tried) == 2
