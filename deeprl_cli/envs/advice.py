"""Guesses which environment an unknown id was meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterable

from deeprl_cli.errors import nearest

# ids that a package registers when it is imported: the module to name before them, and the package to install
_ELSEWHERE = (
    (r"dm_control/", "shimmy", "shimmy[dm-control]"),
    (r"bsuite/", "shimmy", "shimmy[bsuite]"),
    (r"(Fetch|Hand|AntMaze|PointMaze|Adroit|FrankaKitchen)\w*-v", "gymnasium_robotics", "gymnasium-robotics"),
    (r"(highway|merge|roundabout|parking|intersection|racetrack|exit)(-\w+)*-v", "highway_env",
     "highway-env"),
    (r"Panda\w+-v", "panda_gym", "panda-gym"),
    (r"MiniWorld-", "miniworld", "miniworld"),
    (r"Vizdoom\w+-v", "vizdoom.gymnasium_wrapper", "vizdoom"),
    (r"FlappyBird\b", "flappy_bird_gymnasium", "flappy-bird-gymnasium"),
    (r"\w+BulletEnv-v", "pybullet_envs_gymnasium", "pybullet-envs-gymnasium"),
)  # fmt: skip


def advice(name: str, ids: Iterable[str]) -> str:
    """`; did you mean 'ALE/Breakout-v5'?`: the registered id most likely meant; where there is none like it, that the
    module which registers it has to be named."""
    ids = list(ids)
    stem = _stem(name)
    versions = [known for known in ids if _stem(known) == stem]
    games = [known for known in ids if known.startswith("ALE/") and _squeezed(_bare(known)) == _squeezed(name)]
    if games:
        return f"; did you mean '{newest(games)}'?"
    if versions and stem != name:
        return f"; its newest version is '{newest(versions)}'"
    alike = versions or [known for known in ids if _squeezed(known) == _squeezed(name)]
    if "/" not in name or not alike:  # a namespace too few, or one that isn't
        alike = [known for known in ids if _squeezed(_bare(known)) == _squeezed(_bare(name))] or alike
    if alike:
        return f"; did you mean '{_best(alike)}'?"
    for pattern, module, package in _ELSEWHERE:
        if re.match(pattern, name):
            return f"; a package of its own registers it: pip install '{package}', and write env={module}:{name}"
    by_stem: dict[str, list[str]] = {}
    for known in ids:
        by_stem.setdefault(_stem(known), []).append(known)
    near = nearest(stem, by_stem, cutoff=0.8)
    if near:
        return f"; did you mean '{_best(by_stem[near[0]])}'?"
    return f"; if a module of yours or a package registers it, name that too: env=module:{name}"


def package_of(module: str) -> str | None:
    """What to install for a module that registers environments."""
    return next((package for _, name, package in _ELSEWHERE if name == module), None)


def newest_version(name: str, ids: Iterable[str]) -> str:
    """`Hopper-v5` for Hopper-v2."""
    return newest([known for known in ids if _stem(known) == _stem(name)])


def _stem(name: str) -> str:
    return re.sub(r"-v\d+$", "", name)


def _bare(name: str) -> str:
    return name.rpartition("/")[2]


def _squeezed(name: str) -> str:
    """`Half_Cheetah v5` and `HalfCheetah-v4` alike."""
    return re.sub(r"[^a-z0-9/]", "", re.sub(r"([-_ ]v?|(?<=[a-z])v)\d+$", "", name.lower()))


def newest(ids: list[str]) -> str:
    return max(ids, key=lambda known: int(known.rpartition("-v")[2]) if re.search(r"-v\d+$", known) else -1)


def _best(ids: list[str]) -> str:
    """The newest, of those without a namespace where there are any."""
    return newest([known for known in ids if "/" not in known] or ids)
