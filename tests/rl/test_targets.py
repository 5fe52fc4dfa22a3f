"""TD targets and target networks: T3 and T4."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.targets import polyak_update, td_target


def test_td_target_by_hand():
    """r=1, γ=.9, V(s')=2: 2.8 in mid-episode and on truncation (not a mask at all), 1 on termination (T3)."""
    reward, value = torch.ones(1, 2), torch.full((1, 2), 2.0)
    assert td_target(reward, torch.tensor([[0.0, 1.0]]), value, 0.9).tolist() == [[pytest.approx(2.8), 1.0]]


def test_td_target_refuses_shapes_that_would_broadcast():
    """(S, B) against (S, B, 1) is a mistake."""
    with pytest.raises(AssertionError):
        td_target(torch.ones(1, 4), torch.zeros(1, 4), torch.ones(1, 4, 1), 0.9)


@pytest.fixture
def pair():
    """An online network of ones, and its target, of zeros."""
    online = Stacked(lambda: nn.Linear(2, 2), seeds=[0, 1], copies=2)
    target = online.target()
    with torch.no_grad():
        online.flat.fill_(1.0)
        target.flat.fill_(0.0)
    return target, online


def test_polyak_by_hand(pair):
    """ρ=.9 from 0 towards 1: .1, then 1 − .9ⁿ (T4); the online network stays."""
    target, online = pair
    for n in range(1, 21):
        polyak_update(target, online, rho=0.9)
        torch.testing.assert_close(target.flat, torch.full_like(target.flat, 1 - 0.9**n))
    assert (online.flat == 1).all()


@pytest.mark.parametrize(("rho", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_polyak_at_its_ends(pair, rho, expected):
    """ρ=0 copies exactly, ρ=1 leaves the target alone."""
    target, online = pair
    polyak_update(target, online, rho)
    assert (target.flat == expected).all()


def test_a_target_starts_equal_and_is_not_learned():
    """A target is a copy, not the same storage, without gradients."""
    online = Stacked(lambda: nn.Linear(2, 2), seeds=[0])
    target = online.target()
    assert torch.equal(target.flat, online.flat)
    assert target.flat.data_ptr() != online.flat.data_ptr()
    assert not target.flat.requires_grad
