"""What compiled graphs compute in another way than torch's own kernels, on a CPU, because it takes far less time.

- The hyperbolic tangent of a small network's layers took a quarter of a PPO update. Here it is the ratio of polynomials
  of Eigen's `ptanh_float` (13th over 6th degree), 4e-7 from the true value at most.
- A layer's bias is added by the kernel that applies its activation, not copied to where the product then goes.
- A product with few columns is computed with few rows, transposed: MKL takes a third of the time for these.
- Products and sums next to each other become one instruction (`CONTRACT`), which rounds once instead of twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

CONTRACT = {"cpp.enable_floating_point_contract_flag": "fast"}  # of inductor: it is in the keys of all its caches
FEW, MANY = 16, 64  # columns, and rows, of a product that is computed transposed
BOUND = 7.90531110763549805  # beyond it tanh is ±1 in float32
ODD = (  # of x, x³, …, x¹³
    4.89352455891786e-03,
    6.37261928875436e-04,
    1.48572235717979e-05,
    5.12229709037114e-08,
    -8.60467152213735e-11,
    2.00018790482477e-13,
    -2.76076847742355e-16,
)
EVEN = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)  # of 1, x², …, x⁶


def tanh(x: Tensor) -> Tensor:
    """tanh(x) of float32; of other types as torch has it."""
    if x.dtype != torch.float32:
        return NotImplemented  # type: ignore[no-any-return] # so a decomposition declines
    x = x.clamp(-BOUND, BOUND)
    square = x * x
    return x * _polynomial(square, ODD) / _polynomial(square, EVEN)


def _polynomial(x: Tensor, terms: Sequence[float]) -> Tensor:
    """Σ terms[k] xᵏ, by Horner's rule."""
    value = x * terms[-1] + terms[-2]
    for term in terms[-3::-1]:
        value = value * x + term
    return value


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b of matrices `(M, K)` and `(K, N)`, or of as many `(B, M, K)` and `(B, K, N)`, float32, where N is small."""
    rows, columns = a.shape[-2], b.shape[-1]
    if a.dtype != torch.float32 or not 1 < columns <= FEW or rows < MANY:
        return NotImplemented  # type: ignore[no-any-return]
    product = torch.mm if a.ndim == 2 else torch.bmm
    return product(b.transpose(-1, -2), a.transpose(-1, -2)).transpose(-1, -2)


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """bias + a b of float32."""
    if a.dtype != torch.float32 or beta != 1 or alpha != 1:
        return NotImplemented  # type: ignore[no-any-return]
    return torch.mm(a, b) - (-bias)  # a sum would be put together again


FUNCTIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.tanh.default: tanh,
    torch.ops.aten.mm.default: matmul,
    torch.ops.aten.bmm.default: matmul,
    torch.ops.aten.addmm.default: addmm,
}


@contextmanager
def functions() -> Iterator[None]:
    """What is compiled meanwhile uses them. They stand below differentiation, which is that of the function itself:
    1 − tanh²."""
    from torch._inductor import decomposition

    tables = (decomposition.decompositions, decomposition.fast_random_decomps())
    before = [{target: table.get(target) for target in FUNCTIONS} for table in tables]
    try:
        for table, known in zip(tables, before, strict=True):
            table.update({target: _first_of(own, known[target]) for target, own in FUNCTIONS.items()})
        yield
    finally:
        for table, known in zip(tables, before, strict=True):
            for target, function in known.items():
                if function is None:
                    del table[target]
                else:
                    table[target] = function


def _first_of(own: Callable[..., Tensor], other: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """`own`, and where it declines, inductor's."""

    def decomposed(*args: Any, **options: Any) -> Tensor:
        found = own(*args, **options)
        return other(*args, **options) if found is NotImplemented and other is not None else found

    return decomposed
