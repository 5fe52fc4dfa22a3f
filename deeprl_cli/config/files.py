"""Where the YAML files of configurations are, and which options a group has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from deeprl_cli.plugins.installed import config_folders

GROUPS = ("algo", "env", "network", "hardware", "tuned", "experiment")
# A gymnasium id: (module:)(Namespace/)Name-vN; with a module any name goes, for the module registers it on import.
ENV_ID = re.compile(r"(?:[\w.]+:)?(?:[\w:-]+/)?[\w:.-]+-v\d+|[\w.]+:[\w:./-]+")


def config_dir() -> Path:
    """The folder of configurations: the installed package's own, else the source tree's."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def config_dirs() -> list[Path]:
    """Our folder, and those of plug-ins. If several have a file, the first one counts."""
    return [config_dir(), *config_folders()]


def group_options(group: str) -> list[str]:
    """The YAML files of a group, `deck/ppo` for those in its folders."""
    folders = [folder / group for folder in config_dirs()]
    return sorted({p.relative_to(f).with_suffix("").as_posix() for f in folders for p in f.rglob("*.yaml")})


def option_file(group: str, name: str) -> Path:
    """The file of an option; if it doesn't exist, the path that ours would have."""
    files = [folder / group / f"{name}.yaml" for folder in config_dirs()]
    return next((file for file in files if file.is_file()), files[0])


def algo_keys(name: str) -> set[str]:
    """The keys of an algorithm's file, `algo.epsilon.start`; none where there is no such algorithm."""
    if name not in group_options("algo"):
        return set()
    found: set[str] = set()
    waiting = [("algo", yaml.safe_load(option_file("algo", name).read_text(encoding="utf-8")))]
    while waiting:
        path, values = waiting.pop()
        for key, value in values.items():
            found.add(f"{path}.{key}")
            waiting += [(f"{path}.{key}", value)] if isinstance(value, dict) else []
    return found


def suite_names() -> list[str]:
    """The suites of `deeprl bench`, including those of plug-ins. (They are not a group of configurations.)"""
    return group_options("bench")


def summary(group: str, name: str) -> str:
    """The first line of a file, if it is a comment."""
    first = option_file(group, name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
