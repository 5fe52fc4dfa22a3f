"""The import rules of the house, read from the source: who may know whom, and what a quick verb never loads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import deeprl_cli

PACKAGE = Path(deeprl_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIG = {"cli", "config", "config_errors", "config_explain", "config_files", "config_launch", "config_search", "sweep"}

# of the package's own modules, what each part may import besides itself
ALLOWED = {
    "algos": {"algorithm", "registry", "rl", "nets", "ranks", "schema", "typed", "errors", "envs.spec"},
    "algorithm": {"registry", "rl", "nets", "schema", "typed", "errors", "envs.spec"},
    "rl": {"nets", "ranks", "schema", "typed", "errors", "seeding"},
    "nets": {"schema", "typed", "errors", "seeding"},
    "data": {"algorithm", "rl", "nets", "envs", "ranks", "schema", "typed", "errors"},
    "envs": {"schema", "typed", "errors"},
    "trainers": {
        "algorithm",
        "rl",
        "data",
        "envs",
        "hardware",
        "checkpoint",
        "tensor_files",
        "logger",
        "weights_chain",
        "progress",
        "policy",
        "evaluate",
        "ranks",
        "registry",  # a worker builds an algorithm of its own, by name
        "seeding",
        "schema",
        "typed",
        "errors",
    },
    "checkpoint": {"run_folder", "tensor_files", "errors"},
    "tensor_files": {"run_folder", "errors"},
    "logger": {"run_folder", "errors"},
    "hardware": {"schema", "typed", "errors", "cores", "compile_cache"},
    "compile_cache": set(),
    "policy": {"algorithm", "rl", "ranks", "envs.spec", "schema", "typed", "errors"},
    "ranks": set(),
    "weights_chain": {"errors"},
    "schema": {"typed", "errors"},
    "typed": {"errors"},
    "errors": set(),
}


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


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part):
    """cli → config → trainers → {algorithm, rl, data, envs, …}; algos → {algorithm, registry, rl, nets, schema}."""
    modules = [name for name in MODULES if inside(name, {part})]
    assert modules
    for name in modules:
        # a package's empty __init__ comes along with any of its modules
        used = {i for i in own_imports(MODULES[name]) if i not in ("algos", "envs", "rl", "nets", "data", "trainers")}
        beyond = {i for i in used if not inside(i, ALLOWED[part] | {part})}
        assert not beyond, f"{name} imports {sorted(beyond)}"


def test_algorithms_do_not_import_one_another():
    """Each is a page of its own; only the registry finds them, by name."""
    for name, tree in MODULES.items():
        theirs = {i for i in own_imports(tree) if i.startswith("algos.")} - {name}
        assert not theirs, f"{name} imports {sorted(theirs)}"


@pytest.mark.parametrize("library", ["hydra", "omegaconf"])
def test_hydra_stays_at_the_border(library):
    """Hydra and OmegaConf end in the command line and the configuration modules."""
    assert users(library) <= CONFIG
    assert users(library)


def test_tensorboard_is_the_loggers():
    """Nobody else writes event files."""
    assert users("tensorboard") | users("torch.utils.tensorboard") == {"logger"}


def test_torch_distributed_is_the_ranks():
    """Every collective is in one module; the launcher knows torch's launcher."""
    assert users("torch.distributed") == {"ranks", "launch"}


def test_nothing_that_executes_what_it_opens():
    """No pickle in any of its forms, no eval: opening a run or a checkpoint runs nothing."""
    for library in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"):
        # joblib's processes run the jobs of a sweep; what it loads files with isn't imported
        assert users(library) == ({"engines"} if library == "joblib" else set()), library
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


QUICK = [
    "cli",
    "errors",
    "schema",
    "typed",
    "registry",
    "config",
    "config_errors",
    "config_files",
    "config_search",
    "run_folder",
]
QUICK += ["envs.spec", "envs.vector", "envs.sync", "envs.make", "envs.native", "envs.envpool_backend"]


@pytest.mark.parametrize("name", QUICK)
def test_torch_is_not_loaded_by(name):
    """Help, `--cfg job`, completion and the environments need no torch (nor anything that brings it)."""
    loaded = loaded_with(name)
    assert "torch" not in loaded, f"through {loaded['torch']}"
    assert "tensorboard" not in loaded, f"through {loaded['tensorboard']}"


def test_the_command_line_loads_nothing_heavy():
    """`deeprl --help` answers from the standard library."""
    loaded = loaded_with("cli")
    for library in ("torch", "hydra", "omegaconf", "gymnasium", "numpy", "rich"):
        assert library not in loaded, f"{library} through {loaded.get(library)}"


def test_environments_know_no_torch():
    """Not even inside a function: they run in processes of their own."""
    assert not {name for name in users("torch") if inside(name, {"envs"})}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_files_are_short(path):
    """An algorithm is a page: 200 lines at most; any file 400."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (200 if path.parent.name == "algos" else 400)
