"""What a compiled graph depends on, as text: two methods with equal text compile to the same code.

Tracing turns every plain value that it meets into a constant, so everything plain that hangs on a module is written
down, whether the graph reads it or not; of tensors, which a graph takes as inputs, their layout alone.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import os
import platform
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from deeprl_cli.processes import ranks

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "numpy", "gymnasium")  # their code is known by their version
KNOWN = (*LIBRARIES, PACKAGE.name, "builtins", "_operator", "math")
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Path)


class UnknownValueError(Exception):
    """Something hangs on a module that can't be written down: what compiles from it must not be kept."""


def is_ours(module: nn.Module) -> bool:
    """Whether its class is deeprl's own, and no plug-in's."""
    return type(module).__module__.startswith(f"{PACKAGE.name}.")


def of_module(module: nn.Module, leaving_out: Collection[str] = ()) -> str:
    """All that code traced through `module` may have read, but for these of its own attributes (`config.lr` is one).
    Raises UnknownValueError."""
    walk, first = _Walk(leaving_out), []
    if hasattr(module, "config"):  # where it is met first is where its fields are left out
        first = list(walk.lines("self.config", module.config))
    return "\n".join([*first, *walk.lines("self", module)])


def of_arguments(arguments: Any) -> str:
    """Layout and structure of nested tuples and dictionaries of tensors. Raises UnknownValueError."""
    return "\n".join(_Walk().lines("arguments", arguments))


@functools.cache
def of_this_place() -> str:
    """Machine, versions, what the compiler is told by the environment, and deeprl's own source."""
    parts = [
        sys.version,
        platform.machine(),
        torch.__version__,
        str(torch.version.git_version),
        torch.backends.cpu.get_cpu_capability(),
        _processor(),
        *(f"{name} {metadata.version(name)}" for name in LIBRARIES),
        *(f"{key}={value}" for key, value in sorted(os.environ.items()) if key in ("CXX", "CC", "CXXFLAGS")),
        *(
            f"{key}={value}"
            for key, value in sorted(os.environ.items())
            if key.startswith(("TORCHINDUCTOR_", "TORCH_COMPILE")) and not key.endswith("_DIR")
        ),
        source_of(PACKAGE),
    ]
    return "\n".join(parts)


def of_switches(threads: int | None = None, precision: str | None = None, processes: int | None = None) -> str:
    """What of torch's switches goes into code, and how many processes share the work; by default as they are now."""
    threads = threads or torch.get_num_threads()
    precision = precision or torch.get_float32_matmul_precision()
    return f"{threads} {precision} {torch.get_default_dtype()} {processes or ranks.size()}"


@functools.cache
def source_of(place: Path) -> str:
    """The hash of a source file, or of all of a folder's."""
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(f"{file.relative_to(place.parent)}\0".encode())
        hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()


def source_with_imports(module: str) -> str:
    """The hash of all that a module of somebody else's may call of their own: its file, or its package as a whole; and
    so on of what stands in it by name and lies beside the user. Installed libraries are known by their version."""
    places: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file, package = _file_of(name), _file_of(name.partition(".")[0])
        if file is None or name in places:
            continue
        places[name] = package.parent if package is not None and package.name == "__init__.py" else file
        for value in list(vars(sys.modules[name]).values()):
            other = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            if isinstance(other, str) and _beside_the_user(other):
                waiting.append(other)
    return " ".join(sorted({source_of(place) for place in places.values()}))


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and file.endswith(".py") else None


def _beside_the_user(module: str) -> bool:
    file, top = _file_of(module), module.partition(".")[0]
    known = top in KNOWN or top in sys.stdlib_module_names
    return not known and file is not None and not {"site-packages", "dist-packages"} & set(file.parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


class _Walk:
    """Lines `path value`, each object once: what is met again is a reference to where it was met first."""

    def __init__(self, leaving_out: Collection[str] = ()) -> None:
        self.left_out = frozenset(f"self.{name}" for name in leaving_out)
        self.met: dict[int, str] = {}
        self.kept: list[Any] = []  # so that no id is used twice

    def lines(self, path: str, value: Any) -> Iterator[str]:
        if isinstance(value, (enum.Enum, *PLAIN)):
            yield f"{path} {type(value).__name__} {value!r}"
        elif isinstance(value, np.generic):
            yield f"{path} {value.dtype} {value!r}"
        elif isinstance(value, np.ndarray):
            yield f"{path} array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        elif isinstance(value, gym.Space):
            yield f"{path} {_space(value)}"
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield from self._code(path, value)
        elif id(value) in self.met:
            yield f"{path} is {self.met[id(value)]}"
        else:
            self.met[id(value)] = path
            self.kept.append(value)
            yield from self._object(path, value)

    def _object(self, path: str, value: Any) -> Iterator[str]:
        if isinstance(value, Tensor):
            yield f"{path} tensor {_layout(value)}"
        elif isinstance(value, Mapping):
            yield f"{path} {type(value).__name__} {len(value)}"
            for key, item in value.items():
                yield from self.lines(f"{path}[{key!r}]", item)
        elif isinstance(value, (list, tuple)):
            yield f"{path} {type(value).__name__} {len(value)}"
            for number, item in enumerate(value):
                yield from self.lines(f"{path}[{number}]", item)
        elif isinstance(value, (set, frozenset)):
            yield f"{path} set {sorted(map(repr, value))}"
        elif isinstance(value, nn.Module) or dataclasses.is_dataclass(value) or type(value).__module__ not in LIBRARIES:
            yield from self._fields(path, value)
        else:
            raise UnknownValueError(f"{path}: {type(value).__name__}")

    def _fields(self, path: str, value: Any) -> Iterator[str]:
        if inspect.ismodule(value) or not (hasattr(value, "__dict__") or dataclasses.is_dataclass(value)):
            raise UnknownValueError(f"{path}: {type(value).__name__}")
        yield from self._code(path, type(value))
        if dataclasses.is_dataclass(value):
            items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        else:
            items = dict(vars(value))
        untraced = getattr(type(value), "untraced", ())  # which of its attributes no graph reads
        for key, item in items.items():
            if f"{path}.{key}" not in self.left_out and key not in untraced:
                yield from self.lines(f"{path}.{key}", item)

    def _code(self, path: str, code: Any) -> Iterator[str]:
        """A class or a function: its name, and the source of its file where that is nobody's we know by version."""
        if inspect.ismethod(code):
            yield from self.lines(f"{path}.__self__", code.__self__)
            code = code.__func__
        if isinstance(code, functools.partial):
            raise UnknownValueError(f"{path}: partial")
        module = getattr(code, "__module__", None) or "builtins"
        yield f"{path} {module}.{getattr(code, '__qualname__', code)}"
        top = module.partition(".")[0]
        if top in KNOWN:
            closure = getattr(code, "__closure__", None) or ()
            for number, cell in enumerate(closure):
                yield from self.lines(f"{path}.closure[{number}]", cell.cell_contents)
            return
        if _file_of(module) is None:
            raise UnknownValueError(f"{path}: {module} has no source")
        yield f"{path} {source_with_imports(module)}"


def _layout(tensor: Tensor) -> str:
    if isinstance(tensor, nn.Parameter) or type(tensor) is Tensor:
        kind = type(tensor).__name__
    else:
        raise UnknownValueError(type(tensor).__name__)
    return f"{kind} {tuple(tensor.shape)} {tensor.stride()} {tensor.dtype} {tensor.device} {tensor.requires_grad}"


def _space(space: gym.Space[Any]) -> str:
    parts = [repr(space), str(space.dtype)]
    for name in ("low", "high"):
        bound = getattr(space, name, None)
        if isinstance(bound, np.ndarray):
            parts.append(hashlib.sha256(bound.tobytes()).hexdigest())
    return " ".join(parts)
