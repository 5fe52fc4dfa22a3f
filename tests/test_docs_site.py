"""The docs as a site: every option and every public name is on it, and it is built without a warning."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import deeprl_cli
from deeprl_cli.algos.registry import algorithm_names
from deeprl_cli.config.compose import load_config
from deeprl_cli.config.messages import dotted_keys
from deeprl_cli.schema.typed import PerMember, PositiveInt, Range, to_plain
from docs import build_site


@pytest.fixture(scope="module")
def pages():
    return build_site.pages()


def test_every_option_of_every_algorithm_has_a_line(pages):
    """With the default that a run without anything else has."""
    told = dict(part.split("\n", 1) for part in pages["options.md"].split("\n## ")[1:])
    for name in algorithm_names():
        values = to_plain(load_config([f"algo={name}", "tuned=none"]).algo)
        keys = [key for key in dotted_keys(values) if not isinstance(_at(values, key), dict) and key != "name"]
        lines = dict(re.findall(r"^\| `(algo\.[\w.]+)`(?: ●)? \| `(.*?)` \|", told[f"algo={name}"], re.MULTILINE))
        assert set(lines) == {f"algo.{key}" for key in keys}
    run = re.findall(r"^\| `([\w.]+)`", told["A run"], re.MULTILINE)
    assert {"seed", "name", "total_steps", "eval.every", "log.to", "stop.return"} <= set(run)


def _at(values, key):
    for part in key.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize(("kind", "said"), [
    (PositiveInt | None, "a whole number, at least 1 or null"),
    (PerMember[Annotated[float, Range(0, 1)]], "a number, in [0, 1]"),
    (Literal["a", "b"], "`a`, `b`"),
    (list[PositiveInt] | Literal["auto"], "a list of a whole number, at least 1 or `auto`"),
    (dict[str, Any], "a mapping"),
])  # fmt: skip
def test_types_in_words(kind, said):
    assert build_site.takes(kind) == said


def test_every_public_name_is_there_with_its_docstring(pages):
    for name in deeprl_cli.__all__:
        assert f"## deeprl.{name}" in pages["api.md"]
    assert "### TrainedPolicy.act" in pages["api.md"]
    assert "The action for one observation" in pages["api.md"]


def test_every_page_is_in_the_navigation(pages):
    named = re.findall(r'"([\w]+\.md)"', build_site.toml(build_site.navigation(pages["index.md"])))
    assert sorted(named) == sorted(pages)
    assert "[tutorial.md]" not in pages["index.md"]


@pytest.mark.slow  # seconds, and more on a busy machine
@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="needs zensical")
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    build_site.build(tmp_path / "site")
    page = (tmp_path / "site" / "site" / "options.html").read_text(encoding="utf-8")
    assert "algo.gae_lambda" in page
    whole = build_site.pages()
    monkeypatch.setattr(build_site, "pages", lambda: {**whole, "watch.md": whole["watch.md"] + "\n[x](nowhere.md)\n"})
    with pytest.raises(SystemExit, match="nowhere"):
        build_site.build(Path(tmp_path / "broken"))
