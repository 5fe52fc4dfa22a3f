"""The suites of `deeprl bench`: YAML in, checked rows out."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from deeprl_cli.config.files import option_file, suite_names
from deeprl_cli.envs.ids import resolve
from deeprl_cli.errors import ConfigError, UserError, did_you_mean
from deeprl_cli.schema.typed import PositiveInt, build

# What a row of any suite may leave out: the protocol of our acceptance bars. A suite's own `defaults` come before it.
PROTOCOL: dict[str, Any] = {
    "init_from": None,
    "overrides": [],
    "seeds": 5,
    "together": True,
    "episodes": 100,
    "evaluations": 10,
    "direction": "at least",
}

# keys of a run that a row has words of its own for, or that the bench itself sets
RESERVED = {
    "algo": "algo",
    "env": "env",
    "total_steps": "steps",
    "seeds": "seeds",
    "eval.final_episodes": "episodes",
    "eval.episodes": "evaluations",
    "init_from": "init_from",
    "run_dir": None,
}


@dataclass(kw_only=True, slots=True)
class Row:
    """One line of the table: a training run of several seeds, and the bar that its returns should reach.

    The end plays `episodes` episodes of each seed, and each evaluation on the way `evaluations` of them.
    `init_from` names the row above whose weights it starts from. Seeds train `together` in one process, or else one
    after the other, each in a run of its own: `parts`.
    """

    name: str
    algo: str
    env: str
    init_from: str | None
    overrides: list[str]
    steps: PositiveInt
    seeds: PositiveInt
    together: bool
    episodes: PositiveInt
    evaluations: PositiveInt
    policy: Literal["final", "best"]
    bar: float | None
    direction: Literal["at least"]
    source: str

    @property
    def train_overrides(self) -> list[str]:
        """The overrides of `deeprl train` that repeat this row, but for folders."""
        return [
            f"algo={self.algo}",
            f"env={self.env}",
            *self.overrides,
            f"total_steps={self.steps}",
            f"seeds={self.seeds}",
            f"eval.final_episodes={self.episodes}",
            f"eval.episodes={self.evaluations}",
        ]

    @property
    def command(self) -> str:
        """The same as a line for the shell."""
        if not self.together:
            numbers = ",".join(map(str, range(self.seeds)))
            shared = [override for override in self.train_overrides if not override.startswith("seeds=")]
            return f"deeprl train -m {shlex.join(shared)} seed={numbers}"
        start = "" if self.init_from is None else f" init_from=…/{self.init_from}/run"
        return f"deeprl train {shlex.join(self.train_overrides)}{start}"

    def parts(self) -> list[Row]:
        """The rows to run for it: itself, or one for each of its seeds, in a folder of its name."""
        if self.together:
            return [self]
        return [
            dataclasses.replace(
                self, name=f"{self.name}/seed_{k}", overrides=[*self.overrides, f"seed={k}"], seeds=1, together=True
            )
            for k in range(self.seeds)
        ]


@dataclass(kw_only=True, slots=True)
class Suite:
    name: str
    path: Path
    rows: list[Row]


def load_suite(name: str, seeds: int | None = None, env_version: str | None = None) -> Suite:
    """The shipped suite of that name, or the suite in that YAML file; `seeds` replaces every row's, and `env_version`
    (`v5`) the version of every environment, which leaves no bar: those are for the suite's own.

    Raises UserError, one line, naming file, row and key.
    """
    path = _find(name)
    content = _read(path)
    for key in content:
        if key not in ("defaults", "rows"):
            raise ConfigError(f"{path}: unknown key '{key}'{did_you_mean(str(key), ('defaults', 'rows'))}")
    defaults, entries = content.get("defaults", {}), content.get("rows")
    if not isinstance(defaults, dict):
        raise ConfigError(f"{path}: defaults={defaults}: must be keys and values that every row takes")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: has no rows: write `rows:`, and below it one `- name: …` for each")
    rows = [_row(entry, index, defaults, path) for index, entry in enumerate(entries)]
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two rows are called '{twice}': each needs a name, and so a folder, of its own")
    for index, row in enumerate(rows):
        if row.init_from not in (None, *names[:index]):
            near = did_you_mean(str(row.init_from), names[:index])
            raise ConfigError(f"{path}: {row.name}.init_from={row.init_from}: no row above has this name{near}")
        row.seeds = row.seeds if seeds is None else seeds
        if env_version is not None:
            _change_version(row, env_version)
        apart = {other.name for other in rows if not other.together}
        if row.init_from is not None and apart & {row.name, row.init_from}:
            raise ConfigError(f"{path}: {row.name}.init_from={row.init_from}: needs together: true in both rows")
    return Suite(name="-".join(filter(None, (path.stem, env_version))), path=path, rows=rows)


def _change_version(row: Row, version: str) -> None:
    if not re.fullmatch(r"v\d+", version):
        raise UserError(f"--env-version {version}: not a version: write v5, as at the end of HalfCheetah-v5")
    stem, dash, own = row.env.rpartition("-")
    if not re.fullmatch(r"v\d+", own) or own == version:
        return
    row.env = f"{stem}{dash}{version}"
    try:
        resolve(row.env)
    except ConfigError as error:
        raise UserError(f"--env-version {version}: {error}") from error
    if row.bar is not None:
        row.bar, row.source = None, f"of {own}: {row.source}"


def choose(suite: Suite, patterns: Sequence[str]) -> list[Row]:
    """The rows whose name fits any of the patterns (`dqn-*`), and those they start from; all without a pattern.

    Raises UserError where a pattern fits none.
    """
    names = [row.name for row in suite.rows]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"--only {pattern}: fits no row{did_you_mean(pattern, names)}; there are {', '.join(names)}"
            )
    fitting = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    for row in reversed(suite.rows):  # what a row starts from stands above it
        if row.name in fitting and row.init_from is not None:
            fitting.add(row.init_from)
    return [row for row in suite.rows if not patterns or row.name in fitting]


def _find(name: str) -> Path:
    if name in suite_names():
        return option_file("bench", name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"{name}: no such file: name one that is there, or a suite: {', '.join(suite_names())}")
    raise UserError(
        f"unknown suite '{name}'{did_you_mean(name, suite_names())}; "
        f"there are {', '.join(suite_names())}, or give the path of a YAML file"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it can't be parsed"
        raise ConfigError(f"{path}: not valid YAML{where}: {problem}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a suite: write `rows:`, and below it one `- name: …` for each")
    return content


def _row(entry: Any, index: int, defaults: Mapping[str, Any], path: Path) -> Row:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ConfigError(f"{path}: row {index + 1} has no name: begin it with `- name: …`")
    name = entry["name"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{path}: row {index + 1}: '{name}' can't name a folder: use letters, digits, - _ and .")
    values = {**PROTOCOL, **defaults, **entry}
    missing = [key for key in Row.__dataclass_fields__ if key not in values]
    if missing:
        raise ConfigError(f"{path}: {name}.{missing[0]} is missing: write `{missing[0]}: …` in row '{name}'")
    try:
        row = build(Row, values, name)
        _check(row)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return row


def _check(row: Row) -> None:
    if row.bar is not None and not math.isfinite(row.bar):
        raise ConfigError(f"{row.name}.bar={row.bar}: must be a finite number, or null for none")
    for override in row.overrides:
        key = override.partition("=")[0].lstrip("+~")
        if override.startswith("-") or ("=" not in override and not override.startswith("~")):
            raise ConfigError(f"{row.name}.overrides: '{override}': must be key=value, as behind `deeprl train`")
        if key in RESERVED:
            instead = f"write `{RESERVED[key]}: …` in the row" if RESERVED[key] else "the bench chooses the folder"
            raise ConfigError(f"{row.name}.overrides: '{override}': leave it out, {instead}")
        if key == "seed" and not row.together:
            raise ConfigError(f"{row.name}.overrides: '{override}': leave it out, seeds apart count from 0")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.1 takes 1e6 for text; here it is the number that it is on the command line."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)
