"""The surrogate objectives of the policy, values by hand and derivatives by ρ (T15); the errors of values."""

from __future__ import annotations

import pytest
import torch

from deeprl_cli.rl.objectives import clip_objective, cpi_objective, huber


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"), [(1.3, 1, 0), (1.3, -1, -1), (0.7, 1, 1), (0.7, -1, 0), (1.0, 1, 1), (1.0, -1, -1)]
)
def test_clip_gradients(ratio, advantage, slope):
    """d objective / dρ at ε=.2: nothing to gain beyond the clip, the way back stays open (T15)."""
    rho = torch.tensor([[ratio]], requires_grad=True)
    objective = clip_objective(rho, torch.tensor([[float(advantage)]]), torch.tensor([[0.2]]))
    assert torch.autograd.grad(objective.sum(), rho)[0].item() == slope


def test_clip_values():
    """min(ρÂ, clip(ρ)Â), by hand."""
    ratio, advantage = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]]), torch.tensor([[2.0, -2.0, 2.0, -2.0, 2.0]])
    expected = [2.4, -3.0, 1.0, -1.6, 2.2]
    assert clip_objective(ratio, advantage, torch.tensor([[0.2]]))[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cpi_is_not_clipped(ratio, advantage):
    """ρÂ, whose slope is Â wherever ρ is."""
    rho = torch.tensor([[ratio]], requires_grad=True)
    objective = cpi_objective(rho, torch.tensor([[advantage]]), torch.tensor([[0.2]]))
    assert objective.item() == ratio * advantage
    assert torch.autograd.grad(objective.sum(), rho)[0].item() == advantage


def test_huber():
    """½δ² inside ±1, |δ| − ½ outside."""
    assert huber(torch.zeros(3), torch.tensor([0.5, 1.0, -3.0])).tolist() == pytest.approx([0.125, 0.5, 2.5])
