"""What compiled graphs compute in another way: how near it is, its derivative, and that it stays theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deeprl_cli.processes import cheaper, hardware
from deeprl_cli.processes.hardware import GraphCompiler

BAR = 4e-7


def test_tanh_is_near_the_true_one_everywhere() -> None:
    x = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-30, 30, 10_001), torch.tensor([0.0, torch.inf])])
    assert (cheaper.tanh(x).double() - x.double().tanh()).abs().max() < BAR
    assert (cheaper.tanh(-x) == -cheaper.tanh(x)).all()
    assert cheaper.tanh(torch.tensor(torch.nan)).isnan()
    small = torch.logspace(-8, -3, 1001)  # relative, too: near 0 it must be x
    assert (cheaper.tanh(small).double() / small.double().tanh() - 1).abs().max() < BAR


def test_other_types_are_left_to_torch() -> None:
    assert cheaper.tanh(torch.ones(2, dtype=torch.float64)) is NotImplemented


def test_what_else_is_compiled_keeps_torchs() -> None:
    from torch._inductor import decomposition

    tables = (decomposition.decompositions, decomposition.fast_random_decomps())
    before = [dict(table) for table in tables]

    @cheaper.functions()
    def interrupted() -> None:
        assert all(
            table[target] is not known.get(target)
            for table, known in zip(tables, before, strict=True)
            for target in cheaper.FUNCTIONS
        )
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [dict(table) for table in tables] == before


@pytest.mark.parametrize("lead", [(), (2,)])
def test_products_with_few_columns_are_computed_transposed(lead: tuple[int, ...]) -> None:
    a, b = torch.randn(*lead, 64, 7), torch.randn(*lead, 7, 4)
    product = cheaper.matmul(a, b)
    torch.testing.assert_close(product, a @ b)
    assert product.stride()[-2:] == (1, 64)
    for other in ((a, b[..., :1]), (a[..., :63, :], b), (a, torch.randn(*lead, 7, 17)), (a.double(), b.double())):
        assert cheaper.matmul(*other) is NotImplemented


def test_a_bias_is_added_to_the_product() -> None:
    bias, a, b = torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)
    torch.testing.assert_close(cheaper.addmm(bias, a, b), torch.addmm(bias, a, b))
    assert cheaper.addmm(bias, a, b, alpha=2) is NotImplemented
    assert cheaper.addmm(bias.double(), a.double(), b.double()) is NotImplemented


class Curve(nn.Module):
    graphs = ("step",)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = x.tanh()
        (first,) = torch.autograd.grad(y.sum(), [x], create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), [x])
        return y.detach(), first.detach(), second


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(hardware.find_compiler() is None, reason="needs a C++ compiler")
def test_compiled_graphs_use_it_with_tanhs_own_derivatives(cache: Path) -> None:
    """y, 1 − y² and −2y(1 − y²): trust regions differentiate twice."""
    x, module, said = torch.linspace(-4, 4, 4096), Curve(), []
    y, first, second = GraphCompiler(lambda doing: None, say=said.append)("step", module.step)(x)
    true = x.double().tanh()
    assert said == []
    assert not torch.equal(y, x.tanh())
    torch.testing.assert_close(y, cheaper.tanh(x), atol=BAR, rtol=0)
    torch.testing.assert_close(first.double(), 1 - true**2, atol=4 * BAR, rtol=0)
    torch.testing.assert_close(second.double(), -2 * true * (1 - true**2), atol=4 * BAR, rtol=0)
