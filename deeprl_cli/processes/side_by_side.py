"""Members of the seed axis that learn in parts, side by side: each thread has parts of its own, by one graph for all.

Members have nothing to do with one another, so threads gain more from sharing them out than from sharing each product.
And a large network's members are faster one after the other: one alone stays in the caches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Protocol

import torch
from torch import nn

from deeprl_cli.processes.nested import Layout, divided, joined, layout

# Of a gradient step of one member: from here on each learns alone. (Eight members on two threads, all together and one
# each, fastest tenth of the steps: SAC's 256×256 networks 45.6 and 28.7 ms, 128×128 9.8 and 7.8; with 64×64, and in PPO
# with 128×128, which is half of this, about the same.)
ALONE_FLOPS = 1e8


class Compiler(Protocol):
    """Methods of algorithms as graphs: `hardware.GraphCompiler`."""

    def __call__(self, name: str, method: MethodType) -> Callable[..., Any]: ...

    def of_each(self, name: str, methods: Sequence[MethodType]) -> list[Callable[..., Any]]: ...


class SideBySide:
    """Calls of an algorithm's graphs, for the members of `parts`: the same algorithm for some of the members each, in
    their order, on views of the whole's tensors (`in_place_of`). It takes what `GraphCompiler` takes, `name` and
    `method`, in its place; `act` stays whole: what it computes is little.
    """

    def __init__(self, compiler: Compiler, parts: Sequence[Any], threads: int) -> None:
        self.compiler, self.parts = compiler, list(parts)
        self.threads = min(threads, len(self.parts))
        self.helpers: list[_Helper] = []

    def __call__(self, name: str, method: MethodType) -> Callable[..., Any]:
        if name == "act":
            return self.compiler(name, method)
        graphs = self.compiler.of_each(name, [getattr(part, name) for part in self.parts])
        known: set[Layout] = set()  # layouts that were met, and have their graph

        def graph(*args: Any) -> Any:
            each = divided(args, len(graphs))
            expected = layout(args)
            if expected in known:
                return joined(self._all(graphs, each))
            found = [own(*mine) for own, mine in zip(graphs, each, strict=True)]
            known.add(expected)
            return joined(found)

        return graph

    def _all(self, graphs: Sequence[Callable[..., Any]], each: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The result of each, those of thread t at t, t + threads, …"""
        if len(self.helpers) < self.threads - 1:
            self.helpers = [_Helper() for _ in range(self.threads - 1)]
        found: list[Any] = [None] * len(graphs)

        def work(first: int) -> None:
            for part in range(first, len(graphs), self.threads):
                found[part] = graphs[part](*each[part])

        for first, helper in enumerate(self.helpers, 1):
            helper.begin(work, first)
        error: BaseException | None = None
        try:
            work(0)
        finally:
            for helper in self.helpers:
                error = helper.end() or error
        if error is not None:
            raise error
        return found


class _Helper:
    """A thread that does what it is given, and waits."""

    def __init__(self) -> None:
        self.given: queue.SimpleQueue[tuple[Callable[[int], None], int]] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._live, name="members", daemon=True).start()

    def _live(self) -> None:
        torch.set_num_threads(1)  # OpenMP counts for each thread by itself
        while True:
            work, first = self.given.get()
            try:
                work(first)
                self.done.put(None)
            except BaseException as error:  # it is the one's who waits for it
                self.done.put(error)

    def begin(self, work: Callable[[int], None], first: int) -> None:
        self.given.put((work, first))

    def end(self) -> BaseException | None:
        return self.done.get()


def in_place_of(part: nn.Module, whole: nn.Module, members: slice) -> None:
    """Make the tensors of `part`, an algorithm of some `members`, views of those of `whole`."""
    for tensors in ("named_parameters", "named_buffers"):
        all_ = dict(getattr(whole, tensors)())
        for name, tensor in getattr(part, tensors)():
            source = all_[name].data
            tensor.data = source if source.shape == tensor.shape else source[members]
