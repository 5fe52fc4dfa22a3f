"""The seed axis: S independent copies of a module, applied together.

Shapes: S seeds, C copies inside a seed (twin critics), P parameters of one module, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from deeprl_cli.seeding import mix

ALIGNMENT = 16  # floats: every parameter starts on a 64-byte boundary of the flat storage, as matrix kernels like it


class Stacked(nn.Module):
    """S seeds (times `copies`) of the module that `make` builds, in one flat parameter of shape `(S, *copies, P)`.

    `make` is called once per seed and copy, under a random generator of that seed, `name` and copy alone: a seed's
    initial weights don't depend on which seeds stand beside it. The flat storage makes an optimiser's step, a gradient
    clip or a Polyak update a handful of operations; `tensors(seed)` gives the parameters under their real names.

    `forward(*inputs)` takes inputs `(S, B, …)` and returns `(S, B, …)`, or `(S, C, B, …)` with copies (the inputs are
    shared by the copies, and `params` may hold the first few of them).
    """

    untraced = ("_bound",)  # for the keys of graphs: there are addresses in it

    def __init__(
        self, make: Callable[[], nn.Module], seeds: Sequence[int], copies: int | None = None, *, name: str = ""
    ) -> None:
        super().__init__()
        members = [seeded(make, mix(seed, f"init/{name}/{copy}")) for seed in seeds for copy in range(copies or 1)]
        self.num_seeds, self.copies = len(seeds), copies
        self.copy_of: list[Stacked] = []  # of a target: its original (in a list: not a submodule)
        self._template = [members[0]]  # in a list: its parameters are not this module's own
        self._bound: tuple[int, nn.Module] | None = None
        self.shapes = {name: parameter.shape for name, parameter in members[0].named_parameters()}
        if any(True for _ in members[0].buffers()):
            raise ValueError(f"{type(members[0]).__name__} has buffers; Stacked carries parameters only")
        self._sizes = [-(-shape.numel() // ALIGNMENT) * ALIGNMENT for shape in self.shapes.values()]
        flat = torch.stack([self._flatten([p.detach() for p in member.parameters()]) for member in members])
        self.flat = nn.Parameter(flat.reshape((*self._lead(), -1)))

    if TYPE_CHECKING:  # nn.Module's __call__ returns Any

        def __call__(self, *inputs: Tensor, params: dict[str, Tensor] | None = None, **options: str) -> Tensor: ...

    def _lead(self) -> tuple[int, ...]:
        return (self.num_seeds,) if self.copies is None else (self.num_seeds, self.copies)

    def _flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors `(*lead, *shape)` to one `(*lead, P)`, each padded to the alignment."""
        lead = tensors[0].ndim - len(next(iter(self.shapes.values())))
        rows = [tensor.flatten(lead) for tensor in tensors]
        return torch.cat([F.pad(r, (0, size - r.shape[-1])) for r, size in zip(rows, self._sizes, strict=True)], -1)

    def views(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Each parameter `(S, *copies, *shape)` under its real name, as a view of the flat storage, or of another."""
        chunks = (self.flat if flat is None else flat).split(self._sizes, -1)
        return {
            name: chunk[..., : math.prod(shape)].unflatten(-1, shape)
            for chunk, (name, shape) in zip(chunks, self.shapes.items(), strict=True)
        }

    def forward(self, *inputs: Tensor, params: dict[str, Tensor] | None = None, **options: str) -> Tensor:
        """Apply all members; `params` (from `views()`) lets a caller differentiate with respect to them."""
        alone = self.num_seeds == 1 and self.copies is None and params is None
        if alone and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            only_one: Tensor = self._as_it_is()(*[x[0] for x in inputs], **options)
            return only_one.unsqueeze(0)
        params = self.views() if params is None else params

        def apply(member: dict[str, Tensor], *x: Tensor) -> Tensor:
            output: Tensor = functional_call(self._template[0], member, x, options, tie_weights=False)
            return output

        def only(members: dict[str, Tensor], *x: Tensor) -> Tensor:
            return apply({name: p[0] for name, p in members.items()}, *x).unsqueeze(0)

        # One copy and one seed need no batching rule: a direct call is plain matrix products, and faster in eager mode.
        member_axis: Callable[..., Tensor] = apply
        if self.copies is not None:
            copies = next(iter(params.values())).shape[1]  # `params` may hold some of them
            member_axis = only if copies == 1 else vmap(apply, in_dims=(0,) + (None,) * len(inputs))
        if self.num_seeds == 1:
            return member_axis({n: p[0] for n, p in params.items()}, *[x[0] for x in inputs]).unsqueeze(0)
        return vmap(member_axis)(params, *inputs)

    def _as_it_is(self) -> nn.Module:
        """The only member as a module whose parameters are views of the flat storage: to act, that is three times as
        fast as handing them over at each call."""
        place = self.flat.data_ptr()
        if self._bound is None or self._bound[0] != place:
            module = deepcopy(self._template[0])
            views = self.views(self.flat.detach())
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(False).data = views[name][0]
            object.__setattr__(self, "_bound", (place, module))  # not a submodule
        assert self._bound is not None
        return self._bound[1]

    def gradients(
        self, loss: Tensor, params: dict[str, Tensor], *, retain_graph: bool = False, create_graph: bool = False
    ) -> Tensor:
        """d loss / d flat, `(S, *copies, P)`, where `loss` was computed from `params = self.views()`.

        Seeds are independent, so differentiating the sum of an `(S,)` loss gives every seed its own gradient.
        `retain_graph`: for another gradient through the same computation; `create_graph`: of this gradient itself.
        """
        found = torch.autograd.grad(
            loss.sum(), list(params.values()), retain_graph=retain_graph or create_graph, create_graph=create_graph
        )
        return self._flatten(found)

    def tensors(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """The parameters of the `seed`-th member, `(*copies, *shape)`, by name."""
        for name, view in self.views().items():
            yield name, view[seed].detach()

    @torch.no_grad()
    def module(self, seed: int) -> nn.Module:
        """The `seed`-th member by itself: an ordinary module with parameters of its own; a ModuleList of copies."""

        def member(copy: int | None) -> nn.Module:
            alone = deepcopy(self._template[0])
            for name, parameter in alone.named_parameters():
                view = self.views()[name][seed]
                parameter.data = (view if copy is None else view[copy]).clone()
            return alone

        return member(None) if self.copies is None else nn.ModuleList(member(copy) for copy in range(self.copies))

    @torch.no_grad()
    def load(self, seed: int, tensors: dict[str, Tensor]) -> None:
        """Set the `seed`-th member from `tensors(…)`. Raises ValueError on a missing name or another shape."""
        if missing := self.shapes.keys() - tensors.keys():
            raise ValueError(f"weights lack '{min(missing)}'")
        for name, view in self.views().items():
            if view[seed].shape != tensors[name].shape:
                raise ValueError(
                    f"weights '{name}' have shape {tuple(tensors[name].shape)}, not {tuple(view[seed].shape)}"
                )
            view[seed].copy_(tensors[name])

    def multiplications(self) -> int:
        """Multiplications of one forward pass of one sample of one seed, about: one a weight, more for convolutions."""
        reused = sum(getattr(module, "multiplications", 0) for module in self._template[0].modules())
        return (sum(shape.numel() for shape in self.shapes.values()) + reused) * (self.copies or 1)

    def target(self) -> Stacked:
        """A copy with the same weights that is never differentiated (a target network)."""
        twin = Stacked.__new__(Stacked)
        nn.Module.__init__(twin)
        twin.num_seeds, twin.copies, twin.shapes = self.num_seeds, self.copies, self.shapes
        twin._template, twin._sizes, twin._bound = self._template, self._sizes, None
        twin.flat = nn.Parameter(self.flat.detach().clone(), requires_grad=False)
        twin.copy_of = [self]
        return twin


class Alone(nn.Module):
    """One member in the place of a Stacked of one seed, for what acts and no longer learns: `(1, B, …)` in, `(1, B, …)`
    or `(1, C, B, …)` out, by ordinary modules called as they are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.copies = len(module) if isinstance(module, nn.ModuleList) else None

    def views(self) -> dict[str, Tensor]:
        """As Stacked has them, `(1, …)`."""
        return {name: parameter.unsqueeze(0) for name, parameter in self.module.named_parameters()}

    def forward(self, *inputs: Tensor, params: dict[str, Tensor] | None = None, **options: str) -> Tensor:
        """`params` are its own `views()`, and change nothing."""
        members = self.module if isinstance(self.module, nn.ModuleList) else [self.module]
        outputs = [member(*[x[0] for x in inputs], **options) for member in members]
        only: Tensor = outputs[0]
        return (only if self.copies is None else torch.stack(outputs)).unsqueeze(0)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """`make()` under a generator of this seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also writes down a trace for a GPU to come
        return make()
