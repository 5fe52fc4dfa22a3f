"""Hyper-parameters as members of the seed axis have them: a tensor `(S,)` each.

A tensor is an input of the graphs that read it: another number compiles nothing anew, in a sweep or by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from deeprl_cli.schema.members import is_number, own_keys, value_at

Number = float | Tensor  # of all members, or `(S,)`


class Values(nn.Module):
    """The numbers of one configuration a member, by their keys with `_` for `.`: `kl.coef` is `kl_coef`.

    What isn't a number (None, `auto`) is the same for all, and stands as it is. Tensors aren't part of `state_dict()`:
    they come from the configuration.
    """

    def __init__(self, configs: Sequence[Any]) -> None:
        super().__init__()
        for key in own_keys(type(configs[0])):
            self.put(key.replace(".", "_"), [value_at(config, key) for config in configs])

    if TYPE_CHECKING:  # nn.Module's says Tensor or Module

        def __getattr__(self, name: str) -> Any: ...

    def put(self, name: str, numbers: Sequence[Any]) -> None:
        """Take `numbers`, one a member, under this name."""
        if hasattr(self, name):
            delattr(self, name)
        if not is_number(numbers[0]):
            setattr(self, name, numbers[0])
        else:
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32), persistent=False)


@overload
def spread(number: Tensor, like: Tensor) -> Tensor: ...
@overload
def spread(number: float, like: Tensor) -> float: ...
@overload
def spread(number: Number, like: Tensor) -> Number: ...
def spread(number: Number, like: Tensor) -> Number:
    """Shaped to broadcast against `like` `(S, …)`; a plain number as it is."""
    return per_seed(number, like) if isinstance(number, Tensor) else number


def per_seed(numbers: Tensor, like: Tensor) -> Tensor:
    """`(S,)` shaped to broadcast against `like` `(S, …)`."""
    return numbers.view(-1, *[1] * (like.ndim - 1))


def one_each(number: Number, num_seeds: int) -> Tensor:
    """`(S,)`, a new tensor."""
    return number.clone() if isinstance(number, Tensor) else torch.full((num_seeds,), number)


def on(device: torch.device, number: Number) -> Number:
    return number.to(device) if isinstance(number, Tensor) else number
