"""`deeprl doctor`: what this machine has, what is broken, and how to mend it. It works even if torch doesn't."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deeprl_cli import __version__
from deeprl_cli.commands.arguments import Parser, stdout_for
from deeprl_cli.processes.compile_cache import LARGE, cache_folder, find_compiler, half_made, remove_half_made, size
from deeprl_cli.processes.cores import available_cores

NEEDED = (
    "torch",
    "gymnasium",
    "hydra",
    "omegaconf",
    "tensorboard",
    "numpy",
    "rich",
    "safetensors",
    "scipy",
    "yaml",
    "jinja2",
    "markupsafe",
)
# for each extra: a module that shows whether it is installed, and what it is for
EXTRAS = {
    "box2d": ("Box2D", "LunarLander, BipedalWalker, CarRacing"),
    "mujoco": ("mujoco", "HalfCheetah, Hopper, Ant and others"),
    "atari": ("ale_py", "Atari games: env=ALE/Pong-v5"),
    "minigrid": ("minigrid", "MiniGrid and BabyAI"),
    "envpool": ("envpool", "EnvPool's fast environments: env.backend=envpool"),
    "video": ("moviepy", "deeprl eval RUN --video DIR"),
    "plot": ("matplotlib", "deeprl plot"),
    "export": ("onnxruntime", "deeprl export RUN --to onnx, deeprl eval FILE.onnx"),
    "tune": ("optuna", "deeprl tune"),
    "joblib": ("joblib", "sweeps side by side: hydra/launcher=joblib"),
    "submitit": ("submitit", "sweeps on Slurm: hydra/launcher=submitit_slurm"),
    "ray": ("ray", "sweeps on Ray: hydra/launcher=ray"),
    "wandb": ("wandb", "Weights & Biases: log.to=[wandb]"),
    "mlflow": ("mlflow", "MLflow: log.to=[mlflow]"),
    "trackio": ("trackio", "Trackio: log.to=[trackio]"),
    "docs": ("zensical", "the docs as a site: make docs"),
}
LARGE_TO_IMPORT = ("ray", "wandb", "mlflow", "trackio")
PATIENCE = 60.0  # seconds that a test of the compiler may take
# only on Linux; elsewhere torch has its own ways to find OpenMP
OPENMP = sys.platform == "linux"
PROGRAM = "#include <Python.h>\n" + (
    "#include <omp.h>\nint cores() { return omp_get_max_threads(); }\n" if OPENMP else ""
)


@dataclass(frozen=True)
class Finding:
    """`broken`: runs need this and it doesn't work. `mend`: what to do about it, or about a `note`."""

    name: str
    state: Literal["ok", "note", "broken"]
    text: str
    mend: str = ""


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl doctor",
        description="What this machine has for training, and what is broken. Exit code 1 if training can't work.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="clean the folder of compiled graphs: remove damaged and half-made ones; empty it if it is large",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    flags = parser.parse_args(arguments)
    with stdout_for(flags.json) as tell:
        fixed = fix() if flags.fix else []
        findings = examine()
        extras = [extra(name, *about) for name, about in EXTRAS.items()]
        tell(_as_json(findings, extras, fixed) if flags.json else _as_text(findings, extras, fixed))
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def examine() -> list[Finding]:
    """Everything but the extras. A check that raises an error counts as broken, and the others go on."""
    checks: dict[str, Callable[[], Finding]] = {
        "packages": packages,
        "torch": trains,
        "compiler": compiler,
        "GPU": gpu,
        "machine": machine,
        "cache": cache,
    }
    found = []
    for name, check in checks.items():
        try:
            found.append(check())
        except Exception as error:  # a broken package may raise anything
            found.append(Finding(name, "broken", _said(error), "install deeprl again, in a fresh environment"))
    return found


def packages() -> Finding:
    """What every run imports."""
    failed = [f"{name} ({_said(error)})" for name in NEEDED if (error := _import_error(name)) is not None]
    if failed:
        return Finding(
            "packages", "broken", f"can't be imported: {'; '.join(failed)}", "pip install --upgrade deeprl-cli"
        )
    return Finding("packages", "ok", f"{len(NEEDED)} that every run needs")


def trains() -> Finding:
    """Try a gradient step and a step of an environment."""
    import gymnasium
    import torch

    weights = torch.ones(4, 4, requires_grad=True)
    (weights @ torch.ones(4, 4)).sum().backward()
    assert weights.grad is not None
    assert weights.grad.eq(4).all()
    env: Any = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    env.step(0)
    env.close()
    return Finding("torch", "ok", f"{torch.__version__}, with gymnasium {gymnasium.__version__}: both compute")


def compiler() -> Finding:
    """Try the compiler that compiled runs need."""
    found = find_compiler()
    if found is None:
        mend = "install g++ (Debian, Ubuntu: apt-get install g++) to train long runs faster"
        return Finding("compiler", "note", "no g++ or clang++: runs are not compiled", mend)
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    with tempfile.TemporaryDirectory(prefix="deeprl_doctor_") as folder:
        source = Path(folder, "trial.cpp")
        source.write_text(PROGRAM)
        flags = ["-shared", "-fPIC", "-I", sysconfig.get_path("include"), *(["-fopenmp"] if OPENMP else [])]
        command = [found, *flags, str(source), "-o", str(source.with_suffix(".so"))]
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if made.returncode:
        wrong = next((line for line in made.stderr.splitlines() if "error" in line), "it fails").strip()
        mend = "install Python's headers (python3-dev) and OpenMP (libgomp), or train with hardware.compile=false"
        return Finding("compiler", "broken", f"{found} can't build what compiled runs need: {wrong}", mend)
    name = (version.stdout.splitlines() or [""])[0]
    return Finding("compiler", "ok", f"{found} ({name}): long runs are compiled")


def gpu() -> Finding:
    """CUDA devices, or why torch sees none."""
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        named = "; ".join(f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices)
        return Finding("GPU", "ok", f"{named}: hardware=cuda")
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()):
        return Finding("GPU", "note", "none; hardware=cpu is fine for small networks")
    if torch.version.cuda is None:
        mend = "pip install torch from PyPI, without an --extra-index-url for the CPU"
        return Finding("GPU", "note", f"there is one, but torch {torch.__version__} is built without CUDA", mend)
    return Finding(
        "GPU", "note", f"torch (for CUDA {torch.version.cuda}) sees none", "run nvidia-smi: is the driver new enough?"
    )


def machine() -> Finding:
    """Cores, memory, and room on the disk."""
    cores = available_cores()
    parts = [f"{cores} core{'s' if cores > 1 else ''}"]
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5 * cores:
        parts[0] += f"; other programs are using about {min(load, cores):.1f}"
    with contextlib.suppress(OSError, KeyError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        fields = {key: int(value.split()[0]) / 2**20 for key, value in (line.split(":", 1) for line in file)}
        parts.append(f"{fields['MemAvailable']:.1f} of {fields['MemTotal']:.1f} GiB memory free")
    free = shutil.disk_usage(Path.cwd()).free
    parts.append(f"{free / 2**30:.1f} GiB disk free here")
    if free < 2**30:
        return Finding("machine", "note", ", ".join(parts), "free some space: checkpoints hold replay memories")
    return Finding("machine", "ok", ", ".join(parts))


def cache() -> Finding:
    """The folder of compiled graphs: can it be written, is anything in it damaged, how large is it?"""
    from deeprl_cli.processes.graph_store import damaged, why_not

    folder = cache_folder()
    inductor, graphs = folder / "inductor", folder / "graphs"
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        mend = "make yourself its owner, or name another folder with XDG_CACHE_HOME=…"
        return Finding("cache", "broken", f"{folder} can't be written, and compiled runs need it", mend)
    if graphs.exists() and (reason := why_not(graphs)):
        return Finding("cache", "note", f"compiled graphs aren't kept: {reason}")
    bad, unfinished, bytes_ = damaged(graphs), half_made(inductor), size(folder)
    told = f"{bytes_ / 2**20:,.0f} MiB of compiled graphs in {folder}"
    if bad or unfinished:
        told += f", {len(bad)} of them damaged, {len(unfinished)} half made"
        return Finding(
            "cache", "note", told, "deeprl doctor --fix removes these; a run that meets one compiles it anew"
        )
    if size(inductor) > LARGE:
        return Finding("cache", "note", told, "deeprl doctor --fix empties it; the next compiled run takes 20 s longer")
    return Finding("cache", "ok", told)


def fix() -> list[str]:
    """Clean the folder of compiled graphs; what was done."""
    from deeprl_cli.processes.graph_store import damaged

    inductor, done = cache_folder() / "inductor", []
    for path in damaged(cache_folder() / "graphs"):
        path.unlink(missing_ok=True)
        done.append(f"removed a damaged graph: {path}")
    done += [f"removed what a build that was cut short left: {path}" for path in remove_half_made(inductor)]
    if (before := size(inductor)) > LARGE:
        shutil.rmtree(inductor, ignore_errors=True)
        done.append(f"emptied {inductor} ({before / 2**20:,.0f} MiB)")
    return done


def extra(name: str, module: str, purpose: str) -> dict[str, Any]:
    """Whether an extra is installed, its version, and what it is for; or why it can't be imported."""
    here = importlib.util.find_spec(module) is not None
    error = _import_error(module) if here and module not in LARGE_TO_IMPORT else None
    distributions = importlib.metadata.packages_distributions().get(module, []) if here else []
    version = importlib.metadata.version(distributions[0]) if distributions else None
    told = None if error is None else _said(error)
    return {"name": name, "installed": here, "version": version, "for": purpose, "error": told}


def _import_error(module: str) -> Exception | None:
    with _silence():
        try:
            importlib.import_module(module)
        except Exception as error:
            return error
    return None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Some packages print a greeting when they are imported."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no word'])[0]}"


def _as_json(findings: Sequence[Finding], extras: Sequence[dict[str, Any]], fixed: Sequence[str]) -> str:
    ok = not any(finding.state == "broken" for finding in findings)
    versions = {"deeprl": __version__, "python": platform.python_version(), "system": platform.platform()}
    return json.dumps(
        {**versions, "ok": ok, "findings": [asdict(f) for f in findings], "extras": list(extras), "fixed": list(fixed)}
    )


def _as_text(findings: Sequence[Finding], extras: Sequence[dict[str, Any]], fixed: Sequence[str]) -> str:
    lines = [f"deeprl {__version__}, Python {platform.python_version()}, {platform.platform()}", ""]
    for finding in findings:
        lines.append(f"  {finding.state:<7} {finding.name:<10} {finding.text}")
        lines += [f"{'':21}→ {finding.mend}"] if finding.mend else []
    lines += ["", "extras"]
    for one in extras:
        state = "missing" if not one["installed"] else "broken" if one["error"] else one["version"] or "here"
        lines.append(f"  {one['name']:<10} {state:<10} {one['for']}")
        if one["error"]:
            lines.append(f"{'':24}{one['error']}")
    missing = [one["name"] for one in extras if not one["installed"]]
    if missing:
        lines.append(f"  → pip install 'deeprl-cli[{','.join(missing)}]' brings what is missing")
    lines += ["", *fixed] if fixed else []
    broken = [finding.name for finding in findings if finding.state == "broken"]
    return "\n".join([*lines, "", f"broken: {', '.join(broken)}" if broken else "everything that training needs works"])
