"""Compiled graphs of earlier runs, loaded rather than traced and compiled again.

A graph is found by what it depends on (`fingerprint.py`). What is stored is executed when it is loaded: it lies in the
user's own cache folder, which nobody else may read or write, and never comes from a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from deeprl_cli.processes import fingerprint
from deeprl_cli.processes.fingerprint import UnknownValueError
from deeprl_cli.processes.shared_object import put_together, taken_apart
from deeprl_cli.schema.members import is_number, own_values

MAGIC = b"deeprl graph 1\n"
LIMIT = 512 * 2**20  # bytes of all graphs together; a graph takes about one mebibyte
SUFFIX = ".graph"
APART, TORCHS = b"a", b"t"  # how a payload begins: by whose way it is to be loaded


class GraphStore:
    """The graphs in `folder`, made if missing; `say` takes a word for the user, `off` is why nothing is kept here."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.off = why_not(folder)
        if self.off:
            say(f"compiled graphs aren't kept: {self.off}")

    def place(self, name: str, method: MethodType, arguments: Any) -> Path | None:
        """Where the graph of `method` for `arguments` belongs; None where it can't be kept."""
        if self.off:
            return None
        try:
            inputs = fingerprint.of_arguments(arguments)
            group = of_method_owner(cast(nn.Module, method.__self__), fingerprint.of_switches())
        except UnknownValueError:
            return None
        mode = f"{method.__func__.__qualname__} {torch.is_grad_enabled()} {torch.is_inference_mode_enabled()}"
        return self.folder / group / f"{name}-{_hash(mode, inputs)}{SUFFIX}"

    def holds(self, module: nn.Module, names: Iterable[str], threads: int, precision: str, processes: int = 1) -> bool:
        """Whether graphs of all these methods, of whatever inputs, are here for a run of so many threads, or so many
        processes of as many threads that learn together."""
        if self.off:
            return False
        try:
            group = self.folder / of_method_owner(module, fingerprint.of_switches(threads, precision, processes))
        except UnknownValueError:
            return False
        return all(any(group.glob(f"{name}-*{SUFFIX}")) for name in names)

    def load(self, path: Path, method: MethodType) -> Callable[..., Any] | None:
        """The stored graph as a method of the same object; None where there is none, or it is damaged (said)."""
        try:
            payload = _read(path)
            if payload is None:
                return None
            scope, way, content = method.__func__.__globals__, payload[:1], payload[1:]
            if way == APART:
                made: Callable[..., Any] = put_together(content, scope, self.folder)
            else:
                loaded: Any = torch.compiler.load_compiled_function(io.BytesIO(content), f_globals=scope)
                made = loaded.fn
        except Exception as error:  # of an unknown kind: what is stored is torch's own affair
            self.say(f"a stored graph can't be used and is compiled anew ({type(error).__name__}: {error}): {path}")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least used go first
        return MethodType(made, method.__self__)

    def keep(self, path: Path, made: Any) -> None:
        """Store what `aot_compile` made; a full disk costs nothing but the time to compile it again."""
        try:
            try:
                payload = APART + taken_apart(made)
            except Exception:  # not only NotPlainError: these are parts that torch may rename
                payload = TORCHS + type(made).serialize(made).serialized_data
            path.parent.mkdir(mode=0o700, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
            unfinished.replace(path)
            self.shrink()
        except Exception as error:  # also what can't be pickled
            self.say(f"a compiled graph couldn't be kept ({type(error).__name__}: {error})")

    def shrink(self, limit: int = LIMIT) -> None:
        """Delete the graphs that were not used for longest until all take at most `limit` bytes."""
        found = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        size = sum(entry[1] for entry in found)
        for _, bytes_, path in sorted(found):
            if size <= limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            size -= bytes_


def of_method_owner(module: nn.Module, switches: str) -> str:
    """The key of all graphs of one algorithm in one configuration, on this machine. Raises UnknownValueError.

    The graphs themselves are left out (an algorithm that is compiled holds them), and which members learn; and the
    numbers that members may have of their own, which are tensors in `hp`, and inputs. A plug-in's code may read them
    where it shouldn't: its own all count.
    """
    own = [*getattr(module, "graphs", ()), "eager", "evaluated", "seeds", "members", "configs"]
    config = getattr(module, "config", None)
    if dataclasses.is_dataclass(config) and fingerprint.is_ours(module):
        own += [f"config.{key}" for key, value in own_values(config).items() if is_number(value)]
    return _hash(fingerprint.of_this_place(), switches, fingerprint.of_module(module, leaving_out=own))


def bound(made: Any, method: MethodType) -> Callable[..., Any]:
    """The function in an AOTCompiledFunction without its check of guards, as a method of `method`'s object."""
    return MethodType(made.fn, method.__self__)


def why_not(folder: Path) -> str:
    """Why graphs can't be trusted to `folder`, "" if they can. Makes the folder where it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{folder} is a link"
    if hasattr(os, "geteuid"):
        if status.st_uid != os.geteuid():
            return f"{folder} belongs to another user"
        if status.st_mode & 0o077:
            return f"{folder} is open to other users: chmod 700, if you trust what is in it"
    return "" if os.access(folder, os.W_OK) else f"{folder} can't be written"


def damaged(folder: Path) -> list[Path]:
    """The stored graphs in `folder` that can't be used; nothing is executed or removed."""
    found = []
    for path in folder.glob(f"*/*{SUFFIX}"):
        try:
            _read(path)
        except (OSError, ValueError):
            found.append(path)
    return found


def _read(path: Path) -> bytes | None:
    """The payload of a stored graph, None if there is none. Raises ValueError for one that is damaged or not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
            raise ValueError("it belongs to another user")
        content = file.read()
    head = len(MAGIC)
    digest, payload = content[head : head + 32], content[head + 32 :]
    if content[:head] != MAGIC or hashlib.sha256(payload).digest() != digest:
        raise ValueError("it is damaged")
    return payload


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
