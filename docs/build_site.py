"""Builds the docs as a site: `python -m docs.build_site [FOLDER]`, or `make docs`.

The pages are those of docs/; to them come one of every option, from the configurations and their types, one of every
public name of Python, from its docstring, the notebook, and a gallery of the pictures. Zensical makes HTML of them, and
a warning of it is an error: a link that leads nowhere, a page that no index names.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml

import deeprl_cli
from deeprl_cli.algos.registry import algorithm_names, get_algorithm
from deeprl_cli.config.explain import comments
from deeprl_cli.config.files import config_dir, summary
from deeprl_cli.schema.run import HARDWARE, NETWORKS, EnvConfig, RunConfig
from deeprl_cli.schema.typed import Own, Range

DOCS = Path(__file__).parent
ROOT = DOCS.parent
OUTSIDE = {"../CONTRIBUTING.md": "contributing.md", "../benchmarks/README.md": "benchmarks.md", "tour.ipynb": "tour.md"}
LOOK_UP, CHANGE = "Look things up", "Change it"  # sections of the index
MADE = {"options.md": "Every option", "api.md": "Python, name by name", "gallery.md": "Gallery"}
SILENT = {False: ("defaults", "hydra"), True: ("defaults", "name")}  # keys that are none: of the root, of a group
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
FACT = re.compile(r"^- \[(?P<name>[^\]]+)\]\((?P<file>[^)]+)\): (?P<about>.*)$")


# ---- options


def options_page() -> str:
    """A table for the run, its environment, each network and hardware, and each algorithm."""
    parts = [
        "# Every option\n\nMade from the configurations and their types. `deeprl train key=value …` sets any of them; "
        "`●` marks values that runs of a stacked sweep may each have of their own ([sweeps.md](sweeps.md)). "
        "[configuration.md](configuration.md) says which file wins.\n",
        section("A run", "train", RunConfig, ""),
        section("The environment", "env", EnvConfig, "env."),
    ]
    parts += [section(f"network={name}", f"network/{name}", kind, "network.") for name, kind in NETWORKS.items()]
    parts += [section(f"hardware={name}", f"hardware/{name}", kind, "hardware.") for name, kind in HARDWARE.items()]
    for name in algorithm_names():
        parts.append(section(f"algo={name}", f"algo/{name}", get_algorithm(name).Config, "algo."))
    return "\n".join(parts)


def section(title: str, file: str, kind: type, prefix: str) -> str:
    """The keys of one file, each with its default, what it may be, and the comment that stands beside it."""
    path = config_dir() / f"{file}.yaml"
    said, values = comments(path.read_text(encoding="utf-8")), yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = []
    for key, default in leaves({k: v for k, v in values.items() if k not in SILENT[bool(prefix)]}, ""):
        found = kind_of(kind, key.split("."))
        mark = " ●" if own(found) else ""
        cells = (f"`{prefix}{key}`{mark}", f"`{shown(default)}`", takes(found), said.get(key, ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    about = summary(*file.split("/")) if "/" in file else ""
    head = "| key | default | takes | |\n|---|---|---|---|\n"
    return f"## {title}\n\n{about}\n\n{head if rows else 'It has no options.'}{''.join(rows)}"


def leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def kind_of(kind: Any, path: list[str]) -> Any:
    """The type at a dotted key of a dataclass; None where the key's types are its own file's matter."""
    for name in path:
        kind = bare(kind)
        if not (isinstance(kind, type) and is_dataclass(kind)):
            return None
        hints = typing.get_type_hints(kind, include_extras=True)
        kind = hints.get(name, hints.get(f"{name}_"))  # `return` is a word of Python's
    return kind


def bare(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def own(kind: Any) -> bool:
    """Whether members of a stacked sweep may each have a value of their own."""
    return typing.get_origin(kind) is typing.Annotated and any(isinstance(one, Own) for one in typing.get_args(kind))


def takes(kind: Any) -> str:
    """`a whole number, at least 1, or null`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        limits = [f", {limit}" for limit in args[1:] if isinstance(limit, Range)]
        return takes(args[0]) + "".join(limits)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(takes, args))
    if origin is typing.Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is list:
        return f"a list of {takes(args[0])}" if args[0] is not Any else "a list"
    return WORDS.get(kind, "a mapping" if origin is dict or is_dataclass(kind) else "")


def shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---- Python


def api_page() -> str:
    """Every name of `deeprl_cli.__all__`: its signature and docstring, and those of its public methods."""
    parts = ["# Python, name by name\n\n`import deeprl_cli as deeprl`. [python.md](python.md) shows them at work.\n"]
    for name in deeprl_cli.__all__:
        thing = getattr(deeprl_cli, name)
        parts.append(entry(f"## deeprl.{name}", name, thing))
        if inspect.isclass(thing):
            for method, value in vars(thing).items():
                if method.startswith("_") or not (
                    callable(value) or isinstance(value, property) or hasattr(value, "func")
                ):
                    continue
                parts.append(entry(f"### {name}.{method}", method, value))
    return "\n".join(parts)


def entry(heading: str, name: str, thing: Any) -> str:
    doc = inspect.getdoc(thing) or ""
    try:
        signature = f"\n\n```python\n{name}{inspect.signature(thing)}\n```" if callable(thing) else ""
    except (TypeError, ValueError):  # what C has made
        signature = ""
    return f"{heading}{signature}\n\n{doc}\n"


# ---- other pages


def tour_page() -> str:
    """The notebook as a page: text, code, and what it printed."""
    cells = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join("".join(out.get("text", "")) for out in cell.get("outputs", ()))
        parts += [f"```\n{printed.rstrip()}\n```"] if printed else []
    return "\n\n".join(parts) + "\n"


def gallery_page(pages: Mapping[str, str]) -> str:
    """Every picture of the pages, with a link to where it is explained."""
    parts = ["# Gallery\n"]
    for name, text in pages.items():
        title = title_of(text)
        for alt, file in dict.fromkeys(re.findall(r"!\[([^\]]*)\]\((images/[^)]+)\)", text)):
            parts.append(f"![{alt}]({file})\n\n{alt or title} ([{title}]({name}))\n")
    return "\n".join(parts)


def linked(text: str) -> str:
    """Links between pages as they are on the site; a link to a source file is its name."""

    def there(match: re.Match[str]) -> str:
        target, hash_, part = match[2].partition("#")
        if target in OUTSIDE:
            return f"[{match[1]}]({OUTSIDE[target]}{hash_}{part})"
        if target == "README.md":
            return f"[{match[1]}](index.md{hash_}{part})"
        return match[1] if target.startswith("../") else match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", there, text)


def pages() -> dict[str, str]:
    """The text of every page by its name on the site."""
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    found["contributing.md"] = _from_root((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "")
    found["benchmarks.md"] = _from_root((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"), "benchmarks")
    found["index.md"] = found.pop("README.md")
    found |= {"options.md": options_page(), "api.md": api_page(), "tour.md": tour_page()}
    found["gallery.md"] = gallery_page(found)
    site = {name: linked(text) for name, text in found.items()}
    site["index.md"] = re.sub(r"\[[^\]]+\]\(([^)]+)\)", lambda m: f"[{title_of(site[m[1]])}]({m[1]})", site["index.md"])
    return site


def title_of(text: str) -> str:
    """A page's heading, without the marks of code."""
    return text.partition("\n")[0].lstrip("# ").replace("`", "")


def _from_root(text: str, folder: str) -> str:
    """The links of a page that isn't in docs/, as they would stand there."""

    def moved(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:|#", match[1]):
            return match[0]
        target, hash_, part = match[1].partition("#")
        full = (ROOT / folder / target).resolve()
        inside = full.relative_to(DOCS).as_posix() if full.is_relative_to(DOCS) else f"../{full.relative_to(ROOT)}"
        return f"]({inside}{hash_}{part})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, text)


def navigation(index: str) -> list[dict[str, Any]]:
    """The index's sections, with what is made here added to those that are looked up."""
    found: list[dict[str, Any]] = [{"Home": "index.md"}]
    for title, lines in re.findall(r"\*\*([^*]+)\*\*\n\n((?:- .*\n)+)", index):
        named = [match for line in lines.splitlines() if (match := FACT.match(line))]
        entries: list[Any] = [match["file"] for match in named]
        entries += ["tour.md"] if "python.md" in entries else []
        entries += [{text: file} for file, text in MADE.items()] if title == LOOK_UP else []
        found.append({title: entries})
    return found


CONFIG = """\
[project]
site_name = "deeprl"
site_description = "Deep reinforcement learning from the command line and from Python"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = {nav}

[project.theme]
font = false
features = ["navigation.sections", "navigation.top", "content.code.copy", "search.highlight"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
"""


def toml(value: Any) -> str:
    """Lists, tables of one line, and texts."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {toml(item)}' for key, item in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


def write(folder: Path) -> None:
    """The pages and Zensical's configuration, for the site in `folder`/site."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pages").mkdir(parents=True)
    shutil.copytree(DOCS / "images", folder / "pages" / "images")
    texts = pages()
    for name, text in texts.items():
        (folder / "pages" / name).write_text(text, encoding="utf-8")
    (folder / "zensical.toml").write_text(CONFIG.format(nav=toml(navigation(texts["index.md"]))), encoding="utf-8")


def build(folder: Path) -> str:
    """Write and build; what Zensical says. Raises SystemExit where it warns."""
    write(folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr.partition("Traceback")[0])
    if done.returncode or "warning" in said.lower():
        raise SystemExit(said)
    return said


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve()
    build(place)
    print(place / "site" / "index.html")
