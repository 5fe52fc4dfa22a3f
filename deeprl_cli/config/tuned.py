"""Which tuned values an algorithm gets on an environment, and how deeprl reports it.

First comes the file of the id itself, `tuned/<algo>/<Id>.yaml`; then that of another version of the same environment
(v5's for v4); then that of its family, `tuned/<algo>/mujoco.yaml`. The family is found by the registration.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from deeprl_cli.config.files import config_dirs, option_file
from deeprl_cli.errors import ConfigError

# Atari ids whose frames are preprocessed: their games alone are what published values are for
ATARI_ID = re.compile(r"(?:[\w.]+:)?(?:(?P<ale>ALE/)\w+-v5|\w+NoFrameskip-v[04])")
FAMILIES = {
    "classic_control": "classic control",
    "box2d": "Box2D",
    "mujoco": "MuJoCo",
    "atari": "Atari",
    "minigrid": "MiniGrid",
}


def tuned_path(name: str) -> Path:
    """The file of `ppo/mujoco`."""
    return option_file("tuned", name)


def find_tuned(algo: str, env_id: str) -> str | None:
    """The file that this pair uses, without folder and ending (`ppo/HalfCheetah-v5`, `ppo/mujoco`), or None.

    If the id has no file itself, its registration is looked up. That imports gymnasium, and the package or module that
    registers the id.
    """
    folders = [folder / "tuned" / algo for folder in config_dirs()]
    if not re.fullmatch(r"\w+", algo) or not any(folder.is_dir() for folder in folders):
        return None
    if tuned_path(f"{algo}/{env_id}").is_file():
        return f"{algo}/{env_id}"
    from deeprl_cli.envs.ids import family, resolve

    try:
        where = family(resolve(env_id))
    except ConfigError:  # building it will say why
        return None
    if where not in FAMILIES or (where == "atari" and not ATARI_ID.fullmatch(env_id)):
        return None
    versions = sorted(path for folder in folders for path in folder.glob(f"{_stem(env_id)}-v*.yaml"))
    others = [path.stem for path in versions if _stem(path.stem) == _stem(env_id)]
    name = f"{algo}/{others[-1] if others else where}"
    return name if tuned_path(name).is_file() else None


def tuned_summary(name: str) -> tuple[int | None, str]:
    """The number of steps that a file gives (or None), and its first comment in one line."""
    text = tuned_path(name).read_text(encoding="utf-8")
    opening = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in opening if not line.startswith("# @"))
    steps = re.search(r"^total_steps: ([\d_]+)", text, re.MULTILINE)
    return int(steps[1]) if steps else None, comment


def tuned_note(name: str | None, env_id: str, total_steps: int) -> str:
    """One line: which tuned values a run uses, and how many steps it trains."""
    if name is None:
        return f"no tuned values, {total_steps:,} steps"
    _, _, source = name.partition("/")
    whose = FAMILIES.get(source) or (source if source == env_id else f"{source}, another version of it,")
    return f"values tuned for {whose} (tuned={name}), {total_steps:,} steps; tuned=none: without"


def _stem(env_id: str) -> str:
    """The id without its version."""
    return re.sub(r"-v\d+$", "", env_id)
