"""Where the YAML files of configurations are, and which options a group has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

GROUPS = ("algo", "env", "network", "hardware", "tuned", "experiment")
# A gymnasium id: (module:)(Namespace/)Name-vN; with a module any name goes, for the module registers it on import.
ENV_ID = re.compile(r"(?:[\w.]+:)?(?:[\w:-]+/)?[\w:.-]+-v\d+|[\w.]+:[\w:./-]+")


def config_dir() -> Path:
    """The folder of configurations: the installed package's own, else the source tree's."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def group_options(group: str) -> list[str]:
    """The YAML files of a group, `deck/ppo` for those in its folders."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def algo_keys(name: str) -> set[str]:
    """The keys of an algorithm's file, `algo.epsilon.start`; none where there is no such algorithm."""
    if name not in group_options("algo"):
        return set()
    found: set[str] = set()
    waiting = [("algo", yaml.safe_load((config_dir() / "algo" / f"{name}.yaml").read_text(encoding="utf-8")))]
    while waiting:
        path, values = waiting.pop()
        for key, value in values.items():
            found.add(f"{path}.{key}")
            waiting += [(f"{path}.{key}", value)] if isinstance(value, dict) else []
    return found


def suite_names() -> list[str]:
    """The suites of `deeprl bench` shipped beside the groups; not a group themselves."""
    return sorted(path.stem for path in (config_dir() / "bench").glob("*.yaml"))


def summary(group: str, name: str) -> str:
    """The comment a file opens with, its first line."""
    first = (config_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
