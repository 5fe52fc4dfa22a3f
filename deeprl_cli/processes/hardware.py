"""Device, threads, matrix precision and compilation: these are decided once and written into the run."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from deeprl_cli.errors import ConfigError
from deeprl_cli.processes import cheaper
from deeprl_cli.processes.compile_cache import cache_folder, remove_half_made
from deeprl_cli.processes.compile_cache import find_compiler as find_compiler
from deeprl_cli.processes.cores import available_cores as available_cores
from deeprl_cli.processes.graph_store import GraphStore, bound
from deeprl_cli.processes.nested import Layout, layout
from deeprl_cli.processes.side_by_side import ALONE_FLOPS
from deeprl_cli.schema.run import HardwareConfig, MultiprocessConfig, device_of
from deeprl_cli.schema.typed import PositiveInt, build

PARALLEL_FLOPS = 50e6  # an update below this is done before a second thread has woken up
MAX_THREADS = 8  # small matrices gain nothing from more
# Seconds on the machine that the savings below were measured on: a slower one is slower in both.
COMPILE_SECONDS = 12.0  # to compile an algorithm's graphs for the first time
LOAD_SECONDS = 0.5  # to load them


class Workload(NamedTuple):
    """How much a run will compute: operations of one gradient step of all seeds, how many of these there will be, and
    how often it acts."""

    flops: float
    gradient_steps: float
    seeds: int
    acts: float = 0.0

    @property
    def compiling_saves(self) -> float:
        """Seconds, about: an eager step pays milliseconds of dispatch, twice that when batched over seeds (vmap), and a
        good part of its arithmetic in passes over memory that one graph fuses; acting pays for dispatch alone.
        (CPU time of PPO, A2C and DQN on CartPole, eager less compiled: 0.20, 0.09 and 1.05 ms an environment step.)"""
        dispatch, acting = (1.5e-3, 0.45e-3) if self.seeds == 1 else (3.0e-3, 0.9e-3)
        return self.gradient_steps * (dispatch + self.flops / 100e9) + self.acts * acting


@dataclass(kw_only=True, slots=True)
class Choices:
    """What `Hardware.resolved` wrote into a run, as read back."""

    device: Literal["cpu", "cuda"]
    threads: PositiveInt
    compile: bool
    matmul_precision: Literal["highest", "high", "medium"]
    parts: PositiveInt


CHOICES = ("device", "threads", "compile", "matmul_precision", "parts")


@dataclass(frozen=True)
class Hardware:
    """Resolved choices; `notes` are words for the user about how `auto` was decided.

    `parts`: into how many the members are divided, each computed on one thread and `threads` of them at once; 1: all
    are computed together, each operation on `threads`.
    """

    device: str
    threads: int
    compile: bool
    matmul_precision: Literal["highest", "high", "medium"]
    parts: int = 1
    notes: tuple[str, ...] = ()

    def resolved(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in CHOICES}


def recorded(resolved: Mapping[str, Any]) -> Hardware:
    """The choices that a run's config.yaml holds. Raises ConfigError where one is missing or can't be had here."""
    given = {"parts": 1} | {key: resolved[key] for key in CHOICES if key in resolved}  # older runs have no parts
    choices = build(Choices, given, "resolved")
    if choices.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("this run trained on a GPU, and torch sees none here: give hardware=cpu to go on without")
    if choices.compile and choices.device == "cpu" and find_compiler() is None:
        raise ConfigError(
            "this run trained compiled, and there is no C++ compiler here: install g++, or give hardware.compile=false "
            "(numbers then agree to rounding only)"
        )
    parts = choices.parts if choices.compile else 1
    return Hardware(choices.device, choices.threads, choices.compile, choices.matmul_precision, parts)


def kept(before: HardwareConfig, now: HardwareConfig, resolved: Mapping[str, Any]) -> Hardware | None:
    """What a run that goes on has `resolved`, unless told otherwise since; None: to be resolved anew, for another
    device. Raises ConfigError as `recorded` does."""
    if now.name != before.name:
        return None
    choices = {key: resolved[key] for key in CHOICES if key in resolved}
    for field in dataclasses.fields(HardwareConfig):
        value = getattr(now, field.name)
        if field.name in choices and value != getattr(before, field.name) and value != "auto":
            choices[field.name] = value
    return recorded(choices)


def check_device(config: HardwareConfig) -> None:
    """Raise ConfigError when the GPU asked for isn't there."""
    if device_of(config) == "cuda" and not torch.cuda.is_available():
        key = "hardware" if config.name == "cuda" else "hardware.device"
        raise ConfigError(f"{key}=cuda: torch sees no CUDA device here: use {key}=cpu")


def resolve(
    config: HardwareConfig,
    workload: Workload,
    stored: Callable[[int, str, int], bool] = lambda threads, precision, parts: False,
    *,
    divisible: bool = False,
) -> Hardware:
    """Decide what `auto` means for this run: by rule, not by timing. What was decided is written into the run, and the
    same choices give the same numbers.

    `stored(torch's threads, matmul precision, parts)`: whether the run's graphs were compiled here before;
    `divisible`: whether its members may learn in parts, which takes graphs.
    """
    check_device(config)
    device, precision = device_of(config), config.matmul_precision
    if precision == "auto":
        precision = "high" if device == "cuda" else "highest"
    cores = available_cores() // ((config.ranks or 1) if isinstance(config, MultiprocessConfig) else 1)
    most = min(max(cores, 1), MAX_THREADS) if config.threads == "auto" else config.threads
    parts = 1
    if divisible and device == "cpu" and config.compile is not False:
        parts = workload.seeds if workload.flops >= ALONE_FLOPS * workload.seeds else 1
    together = most if config.threads != "auto" or workload.flops >= PARALLEL_FLOPS else 1  # undivided
    wanted, why = config.compile, ""
    if wanted == "auto":
        wanted, why = _worth_compiling(workload, stored(together if parts == 1 else 1, precision, parts))
    if wanted and device == "cpu" and find_compiler() is None:
        wanted = False
        why = "eager: there is no C++ compiler here to compile with (g++ or clang++; CXX names one)"
    parts = parts if wanted else 1
    threads = together if parts == 1 else min(most, parts)
    notes = [why] if why else []
    if config.threads == "auto":
        notes.insert(0, f"{threads} thread{'s' if threads > 1 else ''}: {_threads_in_words(workload, cores, parts)}")
    return Hardware(device, threads, bool(wanted), precision, parts, tuple(notes))


def _threads_in_words(workload: Workload, cores: int, parts: int) -> str:
    """Why there are as many threads as there are."""
    if cores <= 1:
        return "this process has one core"
    if parts > 1:
        return "each seed learns on one, side by side"
    large = workload.flops >= PARALLEL_FLOPS
    return f"an update, {_flop(workload.flops)}, is {'large enough' if large else 'too small'} to be shared"


def _worth_compiling(workload: Workload, known: bool) -> tuple[bool, str]:
    """Whether compiling, or loading what an earlier run compiled, takes less time than it saves; and why, in words."""
    seconds, saved = LOAD_SECONDS if known else COMPILE_SECONDS, workload.compiling_saves
    saves = f"about {saved:.0f} s" if saved >= 1 else f"about {saved:.1g} s"
    doing, takes = ("loading its graphs", "half a second") if known else ("compiling", f"about {seconds:.0f} s")
    if saved > seconds:
        return True, f"compiled: that saves {saves}, and {doing} takes {takes}{'' if known else ' once'}"
    return False, f"eager: {doing} would take longer ({takes}) than it would save ({saves})"


def stored_graphs(
    algorithm: nn.Module, names: Iterable[str], ranks: int, part: Callable[[int], nn.Module]
) -> Callable[[int, str, int], bool]:
    """For `resolve`: whether all of these graphs of the algorithm were compiled on this machine before; where it learns
    in parts, those of `part(how many)`, but for `act`."""

    def stored(threads: int, precision: str, parts: int) -> bool:
        if torch.cuda.is_available():
            return False  # there they aren't kept
        store = GraphStore(cache_folder() / "graphs", lambda text: None)
        whole = [name for name in names if parts == 1 or name == "act"]
        divided = [name for name in names if name not in whole]
        return store.holds(algorithm, whole, threads, precision, ranks) and (
            not divided or store.holds(part(parts), divided, threads, precision, ranks)
        )

    return stored


def _flop(flops: float) -> str:
    return f"{flops / 1e9:,.1f} GFLOP" if flops >= 1e9 else f"{flops / 1e6:,.1f} MFLOP"


def apply(hardware: Hardware) -> None:
    """Set torch's process-wide switches."""
    torch.set_num_threads(hardware.threads if hardware.parts == 1 else 1)
    torch.set_float32_matmul_precision(hardware.matmul_precision)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on so many threads for as long as this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class GraphCompiler:
    """Compiles an algorithm's methods, each as one full graph, and times the first calls; on a CPU, a graph compiled
    before, by whatever run, is loaded.

    `announce(what is done)` is called before a method's first call and `announce(None)` after it; `say` takes words
    for the user about what is stored.
    """

    def __init__(
        self,
        announce: Callable[[str | None], None],
        backend: str = "inductor",
        say: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=2),
    ) -> None:
        self.announce, self.backend, self.seconds = announce, backend, 0.0
        self.store: GraphStore | None = None
        if backend == "inductor":
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
            if not torch.cuda.is_available():
                self.store = GraphStore(cache_folder() / "graphs", say)
        warnings.filterwarnings("ignore", message=".*TensorFloat32.*", category=UserWarning)

    def __call__(self, name: str, method: MethodType) -> Callable[..., Any]:
        """`method` as a graph, one for each layout of its arguments (a padded length, say): made when first met."""
        return self.of_each(name, [method])[0]

    def of_each(self, name: str, methods: Sequence[MethodType]) -> list[Callable[..., Any]]:
        """One method of several objects that are alike, parts of one algorithm: what is made for one serves all."""
        functions: dict[Layout, Callable[..., Any]] = {}
        return [self._graph(name, method, functions) for method in methods]

    def _graph(self, name: str, method: MethodType, functions: dict[Layout, Callable[..., Any]]) -> Callable[..., Any]:
        graphs: dict[Layout, Callable[..., Any]] = {}

        def graph(*args: Any) -> Any:
            expected = layout(args)
            if (known := graphs.get(expected)) is not None:
                return known(*args)
            if (function := functions.get(expected)) is not None:
                graphs[expected] = MethodType(function, method.__self__)
                return graphs[expected](*args)
            start = time.perf_counter()
            called = f"{name} for another batch size" if graphs else name
            result, made = self._first_call(name, called, method, args)
            if isinstance(made, MethodType):
                functions[expected] = made.__func__
            graphs[expected] = made
            self.seconds += time.perf_counter() - start
            self.announce(None)
            return result

        return graph

    def _first_call(
        self, name: str, called: str, method: MethodType, args: tuple[Any, ...]
    ) -> tuple[Any, Callable[..., Any]]:
        """The result of the first call with arguments of this layout, and what to call from now on."""
        place = self.store.place(name, method, args) if self.store else None
        if self.store and place and place.exists():
            self.announce(f"loading {called}, compiled by an earlier run")
            if (loaded := self.store.load(place, method)) is not None:
                return loaded(*args), loaded
        self.announce(f"compiling {called}{' (only once: later runs load it)' if self.store else ''}")
        compiled, own = self._compile(name, method)
        with nullcontext() if self.store is None else cheaper.functions():
            if self.store and place:
                made = compiled.aot_compile((args, {}))  # type: ignore[attr-defined]
                self.store.keep(place, made)
                kept = bound(made, method)
                return kept(*args), kept
            result = compiled(*args)
        return result, guardless(own) or compiled

    def _compile(self, name: str, method: MethodType) -> tuple[Callable[..., Any], MethodType]:
        if self.backend == "inductor":  # not in the constructor: it imports inductor, which loading a graph needn't
            remove_half_made(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
        # A whole update differentiates inside its graph; without this switch the graph would break there.
        torch._dynamo.config.trace_autograd_ops = True
        # A code object of its own: dynamo keeps its cache, and its limit of entries, per code object, and one process
        # may train many algorithms one after the other.
        code = method.__func__.__code__.replace()
        function = FunctionType(
            code, method.__func__.__globals__, name, method.__func__.__defaults__, method.__func__.__closure__
        )
        own = MethodType(function, method.__self__)
        compiled = torch.compile(own, fullgraph=True, dynamic=False, backend=self.backend, options=self._options())
        return compiled, own

    def _options(self) -> dict[str, Any] | None:
        """Of inductor, on a CPU: calls from C++, and no guards, which can't be stored. What they look
        after can't change: `layout` checks what comes in, and the rest is in the graph's key."""
        if self.store is None:
            return None
        return {"cpp_wrapper": True, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe, **cheaper.CONTRACT}


def guardless(method: MethodType) -> Callable[..., Any] | None:
    """The code dynamo made for `method`, without its dispatch and guards (about 50 µs a call); None if it hides it.

    What the guards look after can't change here: the module is trained by one loop in one mode, and `layout` checks
    the tensors that come in.
    """
    entries_of = getattr(torch._dynamo.eval_frame, "_debug_get_cache_entry_list", None)
    entries = entries_of(method.__func__.__code__) if entries_of else []
    if len(entries) != 1:
        return None
    function = method.__func__
    made = FunctionType(entries[0].code, function.__globals__, function.__name__, None, function.__closure__)
    return MethodType(made, method.__self__)
