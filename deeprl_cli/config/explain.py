"""`deeprl train --explain …`: every value of a configuration, its source, and the comment in that file.

Hydra merges files in the order of the defaults list, and the last file that has a key decides. Here the files are read
again in that order, to find which one it was and what value the key had before. If this run's network never reads a
value, the table says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from deeprl_cli.config.compose import compose_choices
from deeprl_cli.config.files import GROUPS, config_dir, config_dirs
from deeprl_cli.config.hydra_compose import ROOT, searched
from deeprl_cli.config.messages import dotted_keys
from deeprl_cli.config.overrides import parse
from deeprl_cli.config.tuned import ATARI_ID, FAMILIES
from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.files import is_source, short, yaml_of

WHOLE_TREE = ("tuned", "experiment")  # groups whose files set keys anywhere


@dataclass(frozen=True)
class Origin:
    """One key: its value, the file that it came from, and the comment beside it there. `read`: whether this run reads
    it."""

    key: str
    value: Any
    source: str
    comment: str
    read: bool = True


def explain(overrides: Sequence[str]) -> list[Origin]:
    """The origins of all keys, in the order of the configuration. Raises ConfigError as composing does."""
    values, found = origins(overrides)
    silent = _unread(values)
    return [replace(o, comment=silent[o.key], read=False) if o.key in silent else o for o in found]


def origins(overrides: Sequence[str]) -> tuple[dict[str, Any], list[Origin]]:
    """The composed values, and where each comes from. No environment is built. Raises ConfigError."""
    values, choices = compose_choices(overrides)
    given = parse(overrides)
    folders = [*(Path(folder.removeprefix("file://")) for folder in searched(given)), *config_dirs()]
    layers = [_Layer(path, prefix) for path, prefix in _files(choices, folders)]
    typed = {override.key_or_group: str(override.input_line) for override in given}
    found = []
    for key in dotted_keys(values):
        value: Any = values
        for part in key.split("."):
            value = value[part]
        if isinstance(value, dict) and value:
            continue  # each of its keys has its own line
        chosen = key.endswith((".name", ".id")) and key.split(".")[0] in typed
        name = key.split(".")[0] if chosen else key
        line = next(
            (text for k, text in typed.items() if name == k or (k not in GROUPS and name.startswith(f"{k}."))), None
        )
        named = next((layer for layer in reversed(layers) if layer.names(key)), None)
        if line is not None:
            found.append(Origin(key, value, "command line", line))
        elif named is not None:
            before = next((layer for layer in reversed(layers[: layers.index(named)]) if layer.names(key)), None)
            comment = named.comments.get(key, "")
            if named.replaces and before is not None and (old := _at(before.content, key)) != value:
                comment = f"instead of {_shown(old)}" + (f"; {comment}" if comment else "")
            found.append(Origin(key, value, named.source, comment))
        else:
            group = key.split(".")[0]  # made from the name alone: env=<any gymnasium id>
            found.append(Origin(key, value, f"{group}={choices.get(group)}", ""))
    return values, found


def _unread(values: dict[str, Any]) -> dict[str, str]:
    """Keys that this run's network doesn't read, and why. `network=auto` depends on the observations, so for it an
    environment is built, if it is one of gymnasium's or minigrid's."""
    network = values["network"]
    name = "cnn" if network["name"] == "auto" and _sees_images(values["env"]) else network["name"]
    found = {}
    for key in ("hidden", "activation"):
        if f"{key}" in network and network[key] is not None:
            found[f"algo.{key}"] = f"not read: network.{key} is"
        elif name not in ("auto", "mlp"):
            here = f"network=auto is a {name} here" if name != network["name"] else f"network={name}"
            has = f"; {'one layer of 512' if key == 'hidden' else 'relu'}, or network.{key}" if name == "cnn" else ""
            found[f"algo.{key}"] = f"not read: {here}{has}"
    return found


def _sees_images(env: dict[str, Any]) -> bool:
    from deeprl_cli.envs.ids import family, resolve
    from deeprl_cli.envs.make import env_spec
    from deeprl_cli.schema.run import EnvConfig
    from deeprl_cli.schema.typed import build

    if env["atari"]["enabled"]:
        return True
    try:
        if family(resolve(env["id"])) not in FAMILIES:
            return False
        space = env_spec(build(EnvConfig, env, "env")).observation_space
    except ConfigError:
        return False  # training will say it
    return len(space.shape or ()) == 3


class _Layer:
    """One file: the keys it names, with the group's name in front, and their comments."""

    def __init__(self, path: Path, prefix: str) -> None:
        own = path.is_relative_to(config_dir())
        self.source = str(path.relative_to(config_dir()).with_suffix("") if own else path)
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        content.pop("defaults", None)
        content.pop("hydra", None)
        self.replaces = (
            not prefix and self.source != ROOT
        )  # tuned values, experiments: the comment is in the file that they replace
        self.content = {prefix.rstrip("."): content} if prefix else content
        self.keys = {f"{prefix}{key}" for key in dotted_keys(content)}
        self.comments = {f"{prefix}{key}": text for key, text in comments(path.read_text(encoding="utf-8")).items()}

    def names(self, key: str) -> bool:
        return key in self.keys


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _files(choices: dict[str, str], folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """The configuration files of these choices in the order of merging, each with the prefix of its keys. If several
    `folders` have a file, the first one counts."""
    found = []

    def add(name: str, prefix: str) -> bool:
        path = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
        if path is not None:
            found.append((path, prefix))
        return path is not None

    add(ROOT, "")
    for group in GROUPS:
        prefix, choice = "" if group in WHOLE_TREE else f"{group}.", choices.get(group, "")
        if group == "env":  # what every environment has
            add("env", prefix)
            if ATARI_ID.fullmatch(choice):
                add("atari", prefix)
        if group == "algo" and is_source(choice) and (beside := yaml_of(choice)) is not None:
            found.append((beside, prefix))
            continue
        choice = short(choice) if group == "algo" and is_source(choice) else choice
        if not add(f"{group}/{choice}", prefix) and group == "env":  # of tuned, the file that was found
            add(f"env/{choice.partition(':')[2] or choice}", prefix)  # module:Id takes the values of Id
    return found


_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.-]+):(?P<rest>.*)")


def comments(text: str) -> dict[str, str]:
    """Dotted key -> the comment behind its value on the same line, of block YAML as the shipped files are written."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        indent = len(match["indent"])
        path = [(depth, key) for depth, key in path if depth < indent] + [(indent, match["key"])]
        _, mark, comment = match["rest"].partition(" #")
        if mark:
            found[".".join(key for _, key in path)] = comment.strip()
    return found


def table(origins: Sequence[Origin]) -> str:
    """Aligned text, one line for each key."""
    rows = [(o.key, _shown(o.value) if o.read else "-", o.source if o.read else "-", o.comment) for o in origins]
    widths = [min(max(len(row[i]) for row in rows), limit) for i, limit in enumerate((34, 28, 30))]
    lines = []
    for row in [("key", "value", "from", ""), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
