"""What MuJoCo is told before an environment of its is built: how to render, and what to do with its warnings."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

_said: set[str] = set()  # of the simulator's warnings, without their times


def prepare(entry_point: Any) -> None:
    """Before an environment registered with this entry point is built; nothing where it isn't MuJoCo's."""
    if any(word in str(entry_point).lower() for word in ("mujoco", "dm_control")):
        _choose_headless_rendering()
        _hear_warnings()
    elif "mujoco" in sys.modules:  # an environment of one's own
        _hear_warnings()


def _choose_headless_rendering() -> None:
    """Without a display, through EGL; MuJoCo decides when it is imported."""
    if sys.platform != "linux" or any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return  # MuJoCo refuses to be imported at all when told to use an EGL that isn't there
    os.environ["MUJOCO_GL"] = "egl"


def _hear_warnings() -> None:
    """MuJoCo prints each warning for each environment, and writes MUJOCO_LOG.TXT wherever the program runs. Whoever has
    asked to hear them goes on hearing them."""
    try:
        simulator = importlib.import_module("mujoco")
    except ImportError:
        return  # gymnasium says what is missing
    if simulator.get_mju_user_warning() is None:
        simulator.set_mju_user_warning(say)


def say(warning: str) -> None:
    """Each once in this process; none that is for the author of a model, such as a setting that is deprecated."""
    text, _, _ = warning.strip().partition(" Time = ")
    if "deprecated" not in text and text not in _said:
        _said.add(text)
        print(f"MuJoCo: {text}", file=sys.stderr, flush=True)
