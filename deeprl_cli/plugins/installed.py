"""The plug-ins of installed packages, by the entry points `deeprl.plugins`. A broken one is named and left out.

Nothing but the entry point's own module is imported before a name of it is used.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from deeprl_cli.errors import ConfigError, warn
from deeprl_cli.plugins.classes import load_named, said
from deeprl_cli.plugins.plugin import Plugin

GROUP = "deeprl.plugins"
Part = Literal["algorithms", "networks", "explorations", "callbacks", "trackers"]


@functools.cache
def plugins() -> Mapping[str, Plugin]:
    """Those that work, by the names of their entry points."""
    found: dict[str, Plugin] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            plugin = point.load()
            if not isinstance(plugin, Plugin):
                raise TypeError(f"{point.value} is a {type(plugin).__name__} and no deeprl_cli.Plugin")
            found[point.name] = plugin
        except (Exception, SystemExit) as error:  # anything may be raised while a module is imported
            whose = f" of {point.dist.name}" if point.dist is not None else ""
            warn(f"plug-in '{point.name}'{whose} is left out: {said(error)}")
    return found


def versions() -> dict[str, str]:
    """The packages of those that work, with their versions."""
    working = [point.dist for point in entry_points(group=GROUP) if point.name in plugins()]
    return {dist.name: dist.version for dist in working if dist is not None}


@functools.cache
def names(part: Part) -> Mapping[str, str]:
    """What plug-ins add to `part`: `module:Class` by name. Where two add the same name, neither does, and that is
    said."""
    found: dict[str, str] = {}
    whose: dict[str, list[str]] = {}
    for plugin_name, plugin in plugins().items():
        for name, target in getattr(plugin, part).items():
            found[name] = target
            whose.setdefault(name, []).append(plugin_name)
    for name, several in whose.items():
        if len(several) > 1:
            warn(f"plug-ins {', '.join(several)} both add {part}/{name}: neither is used")
            del found[name]
    return found


def names_beside(part: Part, own: Collection[str]) -> list[str]:
    """The names that are added to our `own`, which stay ours; of another's, that is said."""
    for name in sorted(set(names(part)) & set(own)):
        _taken(part, name)
    return sorted(set(names(part)) - set(own))


@functools.cache
def _taken(part: str, name: str) -> None:
    warn(f"a plug-in adds {part}/{name}, which is deeprl's own: the plug-in's is left out")


def load(part: Part, name: str) -> Any:
    """What a plug-in has by this name. Raises ConfigError where it can't be imported."""
    return load_named(names(part)[name], f"plug-in's {part}/{name}")


@functools.cache
def config_folders() -> tuple[Path, ...]:
    """The folders of YAML files that plug-ins bring."""
    found = []
    for name, plugin in plugins().items():
        if plugin.configs is None:
            continue
        if Path(plugin.configs).is_dir():
            found.append(Path(plugin.configs).resolve())
        else:
            warn(f"plug-in '{name}': its folder of configurations isn't there: {plugin.configs}")
    return tuple(found)


@functools.cache
def register_environments() -> None:
    """Import the modules that register environments; one that fails is named, and left out."""
    for name, plugin in plugins().items():
        for module in plugin.environments:
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:
                warn(f"plug-in '{name}': its environments of {module} are left out: {said(error)}")


def forget() -> None:
    """Look again when asked next: for who has installed a package meanwhile, and for tests."""
    for cached in (plugins, names, _taken, config_folders, register_environments):
        cached.cache_clear()


def load_callback(name: str, key: str) -> Any:
    """The class of a callback: a plug-in's by its short name, or `module:Class`. Raises ConfigError."""
    if name in names("callbacks"):
        return load("callbacks", name)
    try:
        return load_named(name, key)
    except ConfigError as error:
        short = ", ".join(names("callbacks"))
        raise ConfigError(f"{error}; plug-ins have {short}" if short and ":" not in name else str(error)) from error
