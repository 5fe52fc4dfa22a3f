"""What is installed: the wheel and the source distribution carry all that a run needs, and say what they depend on."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SELF = PROJECT["name"]
DECLARED = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]


def requirements(texts):
    """Names (canonical) and specifiers of requirements, this project's own extras left out."""
    parsed = [Requirement(text) for text in texts]
    return {canonicalize_name(one.name): one.specifier for one in parsed if one.name != SELF}


# ---- what pyproject.toml and constraints.txt say


def test_extras():
    extras = PROJECT["optional-dependencies"]
    small = {"box2d", "mujoco", "atari", "minigrid", "envpool", "video", "plot", "export", "joblib", "submitit", "tune"}
    small |= {"wandb", "trackio"}
    assert set(extras) == {*small, "ray", "mlflow", "docs", "dev", "all"}  # these are large, and few need them
    for bundle in ("dev", "all"):
        (own,) = (Requirement(text) for text in extras[bundle] if Requirement(text).name == SELF)
        assert own.extras == small


def test_every_import_is_declared():
    """No module of the package imports a distribution that only happens to come with another."""
    declared = set(requirements(DECLARED))
    extras_imports = {
        "ale_py": "gymnasium",
        "mujoco": "mujoco",
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "mlflow": "mlflow",
    }
    providers = packages_distributions()
    undeclared = {}
    for file in (ROOT / "deeprl_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.append(node.module)
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"deeprl_cli"}:
                sources = {canonicalize_name(source) for source in providers.get(name, [name])}  # itself: not installed
                if not (sources | {extras_imports.get(name)}) & declared:
                    undeclared[name] = file.name
    assert not undeclared


def test_constraints_pin_every_direct_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = requirements(line for line in lines if line and not line.startswith("#"))
    for name, allowed in requirements(DECLARED).items():
        (pin,) = pins[name]
        assert pin.operator == "=="
        assert pin.version in allowed, name


# ---- what is built


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheel from the source tree, and the one from the source distribution."""
    pytest.importorskip("hatchling")
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("dist")
    sdist_command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    subprocess.run(sdist_command, cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    built = []
    for name, source in (("tree", ROOT), ("sdist", sdist)):
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder / name)]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
        built += list((folder / name).glob("*.whl"))
    return built


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """The scripts folder of a fresh environment with the wheel, everything else seen where it is installed now."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    # before the present packages are made visible: deeprl is among them, and must not count as installed
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheels[0])]
    subprocess.run(pip, check=True, capture_output=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    # a folder named in a .pth file is searched after the environment's own, and its .pth files (the source tree
    # of an editable installation) are not followed
    (own / "present.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return scripts


@pytest.fixture
def run(installed, tmp_path):
    """Runs a program of the fresh environment in an empty folder; its standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(program, *arguments):
        command = [str(installed / program), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_wheels_hold_everything(wheels):
    from_tree, from_sdist = (set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels)
    assert from_tree == from_sdist
    expected = {f"deeprl_cli/{path.relative_to(ROOT / 'deeprl_cli')}" for path in ROOT.glob("deeprl_cli/**/*.py")}
    expected |= {f"deeprl_cli/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.yaml")}
    assert expected <= from_tree
    assert {name.partition("/")[0] for name in from_tree} == {
        "deeprl_cli",
        f"deeprl_cli-{PROJECT['version']}.dist-info",
    }


@pytest.mark.slow
def test_configs_come_from_the_wheel(run, installed):
    found = run("python", "-c", "import deeprl_cli.config.files as files; print(files.config_dir())").strip()
    assert Path(found).is_relative_to(installed.parent)
    assert Path(found).parts[-2:] == ("deeprl_cli", "configs")


@pytest.mark.slow
def test_help_and_lists(run):
    assert "deeprl train" in run("python", "-m", "deeprl_cli", "--help")
    assert run("deeprl", "--version").split() == ["deeprl", PROJECT["version"]]
    listed = run("deeprl", "list", "algos")
    assert all(re.search(rf"\b{algo}\b", listed) for algo in ("ppo", "sac", "dqn"))


@pytest.mark.slow
def test_trains_far_from_the_source_tree(run, tmp_path):
    overrides = ["algo=ppo", "env=CartPole-v1", "total_steps=512", "algo.rollout_length=32", "hardware.compile=false"]
    run("python", "-m", "deeprl_cli", "train", *overrides, "eval.every=0", "eval.final_episodes=1", "run_dir=run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["total_steps"] == 512
    report = json.loads(run("deeprl", "eval", "run", "--checkpoint", "last", "--episodes", "1", "--json"))
    assert len(report["return_mean"]) == 1
