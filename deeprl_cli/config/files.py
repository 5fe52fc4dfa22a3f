"""Where the YAML files of configurations are, and which options a group has. Only file names are read."""

from __future__ import annotations

from pathlib import Path

GROUPS = ("algo", "env", "network", "hardware", "tuned", "experiment")


def config_dir() -> Path:
    """The folder of configurations: the installed package's own, else the source tree's."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def group_options(group: str) -> list[str]:
    """The YAML files of a group, `deck/ppo` for those in its folders."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def suite_names() -> list[str]:
    """The suites of `deeprl bench` shipped beside the groups; not a group themselves."""
    return sorted(path.stem for path in (config_dir() / "bench").glob("*.yaml"))


def summary(group: str, name: str) -> str:
    """The comment a file opens with, its first line."""
    first = (config_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
