"""TD targets, critics and target networks: T3, T4 and T12's critic gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeprl_cli.config.compose import load_config
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.targets import critic_losses, first_q, polyak_update, q_values, td_target


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


def test_critic_losses_by_hand():
    """Squared errors summed over the critics, averaged over the batch; weight 0 leaves a transition out."""
    q, y = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]]), torch.tensor([[2.0, 4.0]])
    assert critic_losses(q, y, torch.ones(1, 2)).tolist() == pytest.approx([(1 + 4) / 2 + (4 + 0) / 2])
    assert critic_losses(q[:, :1], y, torch.ones(1, 2)).tolist() == pytest.approx([(1 + 4) / 2])
    assert critic_losses(q, y, torch.tensor([[1.0, 0.0]])).tolist() == pytest.approx([1 + 4])


def test_critic_gradient_by_hand():
    """∇_Q of the loss is −(2/N)(y − Q) for each critic, N = 2 (T12)."""
    q = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]], requires_grad=True)
    y = torch.tensor([[2.0, 5.0]])
    (slope,) = torch.autograd.grad(critic_losses(q, y, torch.ones(1, 2)).sum(), q)
    torch.testing.assert_close(slope, -(y.unsqueeze(1) - q.detach()))


class Bilinear(nn.Module):
    """Q(s, a) = w·s·a."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, obs, action):
        return self.w * obs * action


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("copies", [1, 2])
def test_critics_by_hand(seeds, copies):
    """Every critic of every seed on its own seed's (s, a); `first_q` is the first of them, whole gradients included."""
    critic = Stacked(Bilinear, list(range(seeds)), copies)
    w = torch.tensor([[2.0, -1.0], [3.0, 5.0]])[:seeds, :copies]
    with torch.no_grad():
        critic.views()["w"].copy_(w.unsqueeze(-1))
    obs = torch.arange(1.0, 1 + seeds * 3).view(seeds, 3, 1)
    action = torch.full((seeds, 3, 1), 0.5, requires_grad=True)
    expected = w.unsqueeze(-1) * 0.5 * obs.squeeze(-1).unsqueeze(1)
    torch.testing.assert_close(q_values(critic, obs, action), expected)
    first = first_q(critic, obs, action)
    torch.testing.assert_close(first, expected[:, 0])
    (slope,) = torch.autograd.grad(first.sum(), action)
    torch.testing.assert_close(slope, w[:, :1].unsqueeze(-1) * obs)


@pytest.mark.parametrize("algo", ["sac", "ddpg", "td3", "dqn"])
def test_rho_and_tau_are_one_thing(algo):
    """Either is taken, both or neither is refused, with what to write instead (row 22)."""
    overrides = [f"algo={algo}", "tuned=none"]
    assert load_config(overrides).algo.keep == 0.995
    assert load_config([*overrides, "algo.rho=null", "algo.tau=0.25"]).algo.keep == 0.75
    with pytest.raises(ConfigError, match=r"write algo\.rho=0\.75, or add algo\.rho=null"):
        load_config([*overrides, "algo.tau=0.25"])
    with pytest.raises(ConfigError, match=r"both null"):
        load_config([*overrides, "algo.rho=null"])
