"""The import rules of the house, read from the source: who may know whom, and what a quick verb never loads."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import deeprl_cli
from deeprl_cli.commands import VERBS

ROOT = Path(__file__).parent.parent
PACKAGE = Path(deeprl_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The house from the ground up: a room knows those below its floor and its own files, and nothing beside or above it.
# A file on the top level is a room of its own. docs/architecture.md shows it as a picture.
FLOORS = (
    ("", "errors", "seeding"),
    ("plugins",),
    ("schema",),
    ("envs", "processes"),
    ("nets",),
    ("rl",),
    ("algorithm",),
    ("families",),
    ("algos",),
    ("policy", "config"),
    ("data", "runs"),
    ("evaluation", "reports"),
    ("training", "deploy"),
    ("sweeps", "bench", "api", "checks"),
    ("tuning",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
LONGER = {}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    """`algos.sac` for deeprl_cli/algos/sac.py; a package is named by its folder, the whole by ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(tree: ast.Module, *, at_import: bool = False) -> set[str]:
    """Dotted names of everything imported; `at_import`: only what importing the module itself loads."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def own_imports(tree: ast.Module, *, at_import: bool = False) -> set[str]:
    """The package's own modules among the imports, without the package's name."""
    names = {name.removeprefix("deeprl_cli.") for name in imports(tree, at_import=at_import) if "deeprl_cli." in name}
    return {name for name in names if name in MODULES}


def inside(name: str, parts: set[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def users(library: str) -> set[str]:
    return {name for name, tree in MODULES.items() if any(inside(i, {library}) for i in imports(tree))}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor_and_says_what_lives_there():
    assert {room(name) for name in MODULES} == set(FLOOR)
    assert len([name for name in MODULES if "." not in name and not (PACKAGE / name).is_dir()]) <= 6 + 1  # __main__
    for name in {room(name) for name in MODULES if (PACKAGE / room(name)).is_dir()}:
        told = ast.get_docstring(MODULES[name]) or ""
        assert told.partition("\n")[0].endswith("."), f"{name}/__init__.py: one sentence on what lives there"


def test_the_documents_show_these_floors():
    """docs/architecture.md lists every room on its floor, and its picture is drawn from the table above."""
    from docs.draw_architecture import svg

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = {}
    for floor, rooms in re.findall(r"^\| (\d+) \| (`[^|]+`) \|", text, re.MULTILINE):
        told |= {re.sub(r"(/|\.py)$", "", room): int(floor) for room in re.findall(r"`([^`]+)`", rooms)}
    assert told == {room: min(floor, FLOOR["cli"]) for room, floor in FLOOR.items() if room}
    assert (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8") == svg()


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    """Those inside functions and those for types alone, too."""
    if name == "":  # the front door: it names what lives on every floor, and loads nothing of it
        assert set(own_imports(MODULES[name], at_import=True)) == set()
        return
    for imported in own_imports(MODULES[name]) - {""}:
        same = room(imported) == room(name)
        assert same or FLOOR[room(imported)] < FLOOR[room(name)], f"{name} imports {imported}, which isn't below it"


def test_no_circle():
    graph = {name: own_imports(tree) - {name} for name, tree in MODULES.items()}
    for module, used in graph.items():  # `from room import file` names the room as well, where nothing is defined
        used -= {room(imported) for imported in used if imported.startswith(f"{room(module)}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(reversed(circle.args[1])))


def test_algorithms_do_not_import_one_another():
    """Each is a page of its own; only the registry finds them, by name."""
    for name, tree in MODULES.items():
        theirs = {i for i in own_imports(tree) if i.startswith("algos.")} - {name, "algos.registry"}
        assert not theirs, f"{name} imports {sorted(theirs)}"


@pytest.mark.parametrize("library", ["hydra", "omegaconf"])
def test_hydra_stays_at_the_border(library):
    """Hydra and OmegaConf end in the room of the configuration."""
    assert {room(name) for name in users(library)} == {"config"}


def test_tensorboard_is_the_loggers():
    """Nobody else writes event files."""
    assert users("tensorboard") | users("torch.utils.tensorboard") == {"runs.logger", "runs.dashboard", "runs.band"}


def test_torch_distributed_is_the_ranks():
    """Every collective is in one module; the launcher knows torch's launcher."""
    assert users("torch.distributed") == {"processes.ranks", "training.launch"}


def test_nothing_that_executes_what_it_opens():
    """No pickle in any of its forms, no eval: opening a run or a checkpoint runs nothing.

    joblib's processes run the jobs of a sweep; what it loads files with isn't imported. Compiled graphs are code: they
    lie in a folder that is the user's alone, and never come from a run.
    """
    graphs = {"processes.shared_object"}
    allowed = {"pickle": graphs, "marshal": graphs, "joblib": {"sweeps.engines"}}
    for library in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"):
        assert users(library) == allowed.get(library, set()), library
    for name, tree in MODULES.items():
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {
            "torch.load",
            "torch.save",
            "np.load",
            "eval",
            "exec",
            "yaml.unsafe_load",
            "yaml.full_load",
        }, name


def loaded_with(start: str) -> dict[str, str]:
    """Every library and own module that importing `start` loads, and through which module."""
    loaded: dict[str, str] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for imported in imports(MODULES[name], at_import=True):
            own = imported.removeprefix("deeprl_cli.")
            if imported.startswith("deeprl_cli") and own in MODULES:
                parents = [".".join(own.split(".")[: i + 1]) for i in range(own.count(".") + 1)]
                waiting += [p for p in parents if p not in loaded]
                loaded |= {p: name for p in parents if p not in loaded}
            else:
                loaded.setdefault(imported.split(".")[0], name)
    return loaded


QUICK = ["cli", "errors", "schema.run", "schema.typed", "algos.registry", "runs.folder"]
QUICK += [name for name in MODULES if room(name) == "config"]
QUICK += [name for name in MODULES if room(name) == "commands" and name != "commands.check"]  # a flag of train's
QUICK += [""]
QUICK += ["envs.spec", "envs.vector", "envs.sync", "envs.make", "envs.native", "envs.envpool_backend", "envs.own_terms"]


@pytest.mark.parametrize("name", QUICK)
def test_torch_is_not_loaded_by(name):
    """Help, `--cfg job`, completion and the environments need no torch (nor anything that brings it)."""
    loaded = loaded_with(name)
    assert "torch" not in loaded, f"through {loaded['torch']}"
    assert "tensorboard" not in loaded, f"through {loaded['tensorboard']}"


def test_the_command_line_loads_nothing_heavy():
    """`deeprl --help`, and any verb's, answer from the standard library."""
    loaded = {
        library: by
        for name in ("cli", *(f"commands.{v.replace('-', '_')}" for v in VERBS))
        for library, by in loaded_with(name).items()
    }
    for library in ("torch", "hydra", "omegaconf", "gymnasium", "numpy", "rich"):
        assert library not in loaded, f"{library} through {loaded.get(library)}"


def test_environments_know_no_torch():
    """Not even inside a function: they run in processes of their own."""
    assert not {name for name in users("torch") if inside(name, {"envs"})}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_files_are_short(path):
    """An algorithm is a page: 180 lines at most; any file 350, but for those that say here why they are longer."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGER.get(module_name(path), 180 if path.parent.name == "algos" else 350)


@pytest.mark.parametrize("library", ["wandb", "mlflow", "trackio"])
def test_trackers_are_in_one_file(library):
    """Their libraries are imported when a run asks for one, and nowhere else."""
    assert users(library) == {"runs.trackers"}
    assert library not in imports(MODULES["runs.trackers"], at_import=True)
