"""Loads what a configuration names: a module beside the user or installed, and a class in it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from deeprl_cli.errors import ConfigError, did_you_mean, text_of


def load_module(name: str, key: str, package: str | None = None) -> ModuleType:
    """The module, one that lies in the working directory included. `key`: what names it, `env.id=module:Name-v0`.
    `package`: what to install for it, where that is known.

    Raises ConfigError where it isn't there, or can't be imported.
    """
    if name in sys.modules:  # and wherever an environment may have gone meanwhile
        return sys.modules[name]
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # as `python` itself would: a module beside the user is found
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise ConfigError(f"{key}: can't import '{name}' ({said(error)})") from error
        mend = f"pip install '{package}'" if package else f"install it, or start where {error.name}.py lies"
        raise ConfigError(f"{key}: can't import '{name}' ({said(error)}): {mend}") from error
    except Exception as error:  # a module may fail with anything while it is imported
        raise ConfigError(f"{key}: can't import '{name}' ({said(error)})") from error


def module_of(name: str) -> str:
    """The module part of `module:Class` or `module.Class`; "" where there is none."""
    return name.partition(":")[0] if ":" in name else name.rpartition(".")[0]


def load_named(name: str, key: str) -> Any:
    """What `module:Class` (or `module.Class`) names; `key` says where: `callbacks[0]`. Raises ConfigError."""
    module = module_of(name)
    path = name[len(module) + 1 :]
    if not module or not path:
        raise ConfigError(
            f"{key}={name}: name a class with its module: {key}=my_module:{name.strip(':.') or 'MyClass'}"
        )
    found: Any = load_module(module, f"{key}={name}")
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            there = [word for word, value in vars(found).items() if callable(value)]
            raise ConfigError(f"{key}={name}: '{module}' has no '{path}'{did_you_mean(path, there)}") from None
    if not callable(found):
        raise ConfigError(f"{key}={name}: is no class, but a {type(found).__name__}")
    return found


def check_arguments(made: Any, key: str, kwargs: Mapping[str, Any], *first: Any) -> None:
    """Raise ConfigError where a class can't be made from these; one whose arguments can't be known isn't checked."""
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*first, **kwargs)
    except TypeError as error:
        takes = ", ".join(list(signature.parameters)[len(first) :]) or "none"
        raise ConfigError(f"{key}.kwargs: {error}; its arguments are {takes}") from None


def said(error: BaseException) -> str:
    """`ValueError: no such joint`"""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def where_raised(error: BaseException) -> str:
    """`ValueError: no such joint (robot.py:30)`"""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{said(error)}{place}"
