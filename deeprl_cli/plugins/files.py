"""Algorithms that lie beside the user: `algo=./my_algo.py` or `algo=my_package.my_module`, with a YAML file each.

A file is imported as the module of its name, its folder first on the path, so that worker processes find it, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.classes import load_module, module_of


def is_source(name: str) -> bool:
    """Whether it names a file or a module, and no algorithm that deeprl or a plug-in has."""
    return name.endswith(".py") or ("." in name and "/" not in name)


def in_full(name: str) -> str:
    """What a run remembers of it: the file's whole path, or the module."""
    return os.path.abspath(os.path.expanduser(name)) if name.endswith(".py") else name


def short(name: str) -> str:
    """`my_algo`, of `/home/me/my_algo.py` and of `my_package.my_algo`; any other name as it is."""
    if not is_source(name):
        return name
    return Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]


def load_source(name: str, key: str) -> ModuleType:
    """The module. Raises ConfigError where it isn't there, can't be imported, or is hidden by another one."""
    if not name.endswith(".py"):
        return load_module(name, f"{key}={name}")
    path = Path(in_full(name))
    if not path.is_file():
        raise ConfigError(f"{key}={name}: no such file (a run needs the file of its algorithm, at this place)")
    if not path.stem.isidentifier():
        raise ConfigError(f"{key}={name}: a file is imported by its name: call it {_mended(path.stem)}.py")
    if (folder := str(path.parent)) not in sys.path:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
    module = load_module(path.stem, f"{key}={name}")
    if Path(module.__file__ or "").resolve() != path.resolve():
        other = module.__file__ or "built in"
        raise ConfigError(f"{key}={name}: there is another module '{path.stem}' ({other}): call the file otherwise")
    return module


def _mended(stem: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in stem) if stem[:1].isalpha() else f"my_{stem}"


def yaml_of(name: str) -> Path | None:
    """The YAML file beside it, of the same name; None where there is none."""
    if name.endswith(".py"):
        path: Path | None = Path(in_full(name))
    else:
        path = file_of(name)
    beside = None if path is None else path.with_name(f"{short(name)}.yaml")
    return beside if beside is not None and beside.is_file() else None


def file_of(name: str) -> Path | None:
    """Where the code of a file, a module or a `module:Class` is; None where that can't be told without running it."""
    if name.endswith(".py"):
        return Path(in_full(name))
    module = name if is_source(name) and ":" not in name else module_of(name)
    loaded = sys.modules.get(module)
    if loaded is not None and getattr(loaded, "__file__", None):
        return Path(str(loaded.__file__))
    with suppress(ImportError, ValueError, AttributeError):
        if "." not in module:  # a part of a package would import the package
            spec = importlib.util.find_spec(module)
            return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None
    return None


def digests(named: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the file of each, for a run to remember; those whose file can't be told are left out."""
    found = {}
    for name in named:
        with suppress(OSError):
            if (file := file_of(name)) is not None:
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
