"""`deeprl train --explain …`: every value of a configuration, the file or override it came from, and that file's word.

Hydra merges files in the order of the defaults list; the last that names a key decides. Reading the files again, in
that order, tells which it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from deeprl_cli.config.compose import ROOT, compose_choices
from deeprl_cli.config.files import GROUPS, config_dir
from deeprl_cli.config.gym_ids import ATARI_ID
from deeprl_cli.config.messages import dotted_keys
from deeprl_cli.config.overrides import parse

WHOLE_TREE = ("tuned", "experiment")  # groups whose files set keys anywhere


@dataclass(frozen=True)
class Origin:
    """One key: its value, where that came from, and the comment that stands beside it there."""

    key: str
    value: Any
    source: str
    comment: str


def explain(overrides: Sequence[str]) -> list[Origin]:
    """The origins of all keys, in the order of the configuration. Raises ConfigError as composing does."""
    values, choices = compose_choices(overrides)
    layers = [_Layer(path, prefix) for path, prefix in _files(choices)]
    typed = {override.key_or_group: str(override.input_line) for override in parse(overrides)}
    origins = []
    for key in dotted_keys(values):
        value: Any = values
        for part in key.split("."):
            value = value[part]
        if isinstance(value, dict) and value:
            continue  # its members have lines of their own
        chosen = key.endswith((".name", ".id")) and key.split(".")[0] in typed
        name = key.split(".")[0] if chosen else key
        line = next(
            (text for k, text in typed.items() if name == k or (k not in GROUPS and name.startswith(f"{k}."))), None
        )
        named = next((layer for layer in reversed(layers) if layer.names(key)), None)
        if line is not None:
            origins.append(Origin(key, value, "command line", line))
        elif named is not None:
            origins.append(Origin(key, value, named.source, named.comments.get(key, "")))
        else:
            group = key.split(".")[0]  # made from the name alone: env=<any gymnasium id>
            origins.append(Origin(key, value, f"{group}={choices.get(group)}", ""))
    return origins


class _Layer:
    """One file: the keys it names, with the group's name in front, and their comments."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.source = str(path.relative_to(config_dir()).with_suffix(""))
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        content.pop("defaults", None)
        content.pop("hydra", None)
        self.keys = {f"{prefix}{key}" for key in dotted_keys(content)}
        self.comments = {f"{prefix}{key}": text for key, text in _comments(path.read_text(encoding="utf-8")).items()}

    def names(self, key: str) -> bool:
        return key in self.keys


def _files(choices: dict[str, str]) -> list[tuple[Path, str]]:
    """The configuration files of these choices, first to last, each with the prefix of its keys."""
    found = [(config_dir() / f"{ROOT}.yaml", "")]
    for group in GROUPS:
        prefix = "" if group in WHOLE_TREE else f"{group}."
        if group == "env":  # what every environment has
            found.append((config_dir() / "env.yaml", prefix))
            if ATARI_ID.fullmatch(choices.get(group, "")):
                found.append((config_dir() / "atari.yaml", prefix))
        path = config_dir() / group / f"{choices.get(group)}.yaml"
        if path.is_file():
            found.append((path, prefix))
    return found


_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.-]+):(?P<rest>.*)")


def _comments(text: str) -> dict[str, str]:
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
    rows = [(o.key, _shown(o.value), o.source, o.comment) for o in origins]
    widths = [min(max(len(row[i]) for row in rows), limit) for i, limit in enumerate((34, 28, 30))]
    lines = []
    for row in [("key", "value", "from", ""), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
