"""The machine and the libraries that a run trained with, for its config.yaml: whoever reads its times has to know."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deeprl_cli.plugins.installed import versions

LIBRARIES = ("torch", "gymnasium", "numpy")


def machine(device: str) -> dict[str, Any]:
    """System, processor and cores (of a GPU, its name), Python, and the versions of the libraries and of plug-ins'
    packages; nothing that names the machine or its user."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        **({"plugins": plugins} if (plugins := versions()) else {}),
    }
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def others_than(recorded: object) -> list[str]:
    """What is to be said of libraries and plug-ins whose versions are others than those a run trained with, `recorded`
    as `machine` has it."""
    if not isinstance(recorded, Mapping):
        return []
    plugins = recorded.get("plugins")
    before = {name: recorded[name] for name in LIBRARIES if name in recorded}
    before |= plugins if isinstance(plugins, Mapping) else {}
    now = {name: metadata.version(name) for name in LIBRARIES} | versions()
    return [
        f"it trained with {name} {version}, "
        + (f"and this is {now[name]}: other numbers may come out" if name in now else "which isn't installed here")
        for name, version in before.items()
        if now.get(name) != version
    ]


def _processor() -> str:
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
