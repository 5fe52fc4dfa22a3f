"""Parts of the members, each on a thread of its own: what goes in and comes out, what fails, what they share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from deeprl_cli.processes.nested import divided, joined
from deeprl_cli.processes.side_by_side import SideBySide, in_place_of


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


class Learner(nn.Module):
    """S members, each a weight that moves by what it is given."""

    weight: Tensor
    constant: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(members, 2))
        self.register_buffer("constant", torch.ones(3), persistent=False)
        self.threads: list[str] = []

    def act(self, x: Tensor) -> Tensor:
        return x + self.weight

    def step(self, pair: Pair, more: dict[str, Tensor]) -> dict[str, Any]:
        self.threads.append(threading.current_thread().name)
        if bool((pair.first < 0).any()):
            raise ValueError("negative")
        self.weight.add_(pair.first + more["x"])
        return {"weight": self.weight.clone(), "pair": pair}


class Plain:
    """In the place of a compiler: methods as they are."""

    def __call__(self, name: str, method: MethodType) -> Callable[..., Any]:
        return method

    def of_each(self, name: str, methods: Sequence[MethodType]) -> list[Callable[..., Any]]:
        return list(methods)


def made(members: int, parts: int, threads: int) -> tuple[Learner, list[Learner], SideBySide]:
    whole, size = Learner(members), members // parts
    each = [Learner(size) for _ in range(parts)]
    for number, part in enumerate(each):
        in_place_of(part, whole, slice(number * size, (number + 1) * size))
    return whole, each, SideBySide(Plain(), each, threads)


@pytest.mark.parametrize(("members", "parts", "threads"), [(6, 6, 2), (6, 3, 4), (4, 2, 1), (5, 5, 2)])
def test_parts_move_the_tensors_of_the_whole(members, parts, threads):
    whole, each, compiler = made(members, parts, threads)
    step = compiler("step", whole.step)
    given, x = torch.arange(2.0 * members).view(members, 2), torch.ones(members, 2)
    for turn in range(1, 4):
        found = step(Pair(given, None), {"x": x})
        torch.testing.assert_close(whole.weight, turn * (given + 1))
        torch.testing.assert_close(found["weight"], whole.weight)
        torch.testing.assert_close(found["pair"].first, given)
        assert found["pair"].second is None
    assert all(part.constant.data_ptr() == whole.constant.data_ptr() for part in each)
    # the first call, which compiles, is one thread's; after it a part is always the same one's
    helpers = min(threads, parts) - 1
    assert sum(part.threads[1] != "MainThread" for part in each) == sum(n % (helpers + 1) > 0 for n in range(parts))
    assert all(part.threads[0] == "MainThread" and part.threads[1] == part.threads[2] for part in each)
    assert compiler("act", whole.act)(x).shape == x.shape  # by the whole


@pytest.mark.parametrize("wrong", [0, 1])
def test_what_a_part_raises_is_raised(wrong):
    """Whichever thread it was in; and the others have done their work, so that the next call finds them waiting."""
    whole, _, compiler = made(2, 2, 2)
    step = compiler("step", whole.step)
    given, x = torch.ones(2, 2), torch.zeros(2, 2)
    step(Pair(given, None), {"x": x})
    bad = given.clone()
    bad[wrong] = -1
    with pytest.raises(ValueError, match="negative"):
        step(Pair(bad, None), {"x": x})
    torch.testing.assert_close(whole.weight[1 - wrong], torch.full((2,), 2.0))
    step(Pair(given, None), {"x": x})
    torch.testing.assert_close(whole.weight[1 - wrong], torch.full((2,), 3.0))


def test_divided_is_joined_again():
    nested = (torch.arange(12).view(6, 2), {"a": torch.arange(6), "b": ()}, Pair(torch.ones(6), None), None)
    parts = divided(nested, 3)
    assert [part[1]["a"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert all(isinstance(part[2], Pair) for part in parts)
    whole = joined(parts)
    assert whole[1]["b"] == ()
    assert whole[3] is None
    torch.testing.assert_close(whole[0], nested[0])
    torch.testing.assert_close(whole[2].first, nested[2].first)
