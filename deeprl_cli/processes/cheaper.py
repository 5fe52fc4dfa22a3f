"""What compiled graphs compute in another way than torch's own kernels, on a CPU, because it takes far less time.

The hyperbolic tangent of a small network's layers took a quarter of a PPO update. Here it is the ratio of polynomials
of Eigen's `ptanh_float` (13th over 6th degree), 4e-7 from the true value at most; products and sums next to each other
become one instruction (`CONTRACT`), which rounds once instead of twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

CONTRACT = {"cpp.enable_floating_point_contract_flag": "fast"}  # of inductor: it is in the keys of all its caches
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


@contextmanager
def functions() -> Iterator[None]:
    """What is compiled meanwhile uses them. Derivatives are those of the function itself: 1 − tanh²."""
    from torch._inductor import decomposition

    target: Any = torch.ops.aten.tanh.default
    tables = (decomposition.decompositions, decomposition.fast_random_decomps())
    before = [table.get(target) for table in tables]
    try:
        for table in tables:
            table[target] = tanh
        yield
    finally:
        for table, known in zip(tables, before, strict=True):
            if known is None:
                del table[target]
            else:
                table[target] = known
