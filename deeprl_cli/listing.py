"""`deeprl list`: tables of what there is to choose from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from deeprl_cli.config_files import group_options, summary
from deeprl_cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from deeprl_cli.algorithm import Algorithm

DESCRIBED = 8  # environments few enough to be made, so that their spaces can be shown
NAMED = 12  # ids of one kind named before the rest is counted


def show(what: str, filter_text: str = "") -> None:
    """Print the table of algos, envs, networks or hardware, kept to the names that hold `filter_text`.

    Raises UserError where nothing matches.
    """
    tables = {"algos": algos, "envs": envs, "networks": networks, "hardware": hardware}
    Console(highlight=False).print(tables[what](filter_text))


def algos(filter_text: str = "") -> Table:
    from deeprl_cli.registry import algorithm_names, get_algorithm

    table = _table("algo=", "What it is", "Loop", "Actions", "Observations", "Reference")
    for name in _matching(algorithm_names(), filter_text, "algorithm"):
        algorithm = get_algorithm(name)
        actions = ", ".join(space.__name__ for space in algorithm.action_spaces)
        reads = _observations(algorithm.networks)
        table.add_row(name, _first_line(algorithm), algorithm.loop, actions, reads, algorithm.reference)
    return table


def _first_line(algorithm: type[Algorithm]) -> str:
    return (algorithm.__doc__ or "").strip().partition("\n")[0]


def _observations(network_names: Sequence[str]) -> str:
    kinds = {"vectors": {"linear", "mlp"}, "images": {"cnn"}}
    return ", ".join(kind for kind, names in kinds.items() if names & set(network_names))


def envs(filter_text: str = "") -> Table:
    import gymnasium

    from deeprl_cli.config_search import registered_ids

    ids = _matching(registered_ids(), filter_text, "environment")
    if filter_text in ids:
        ids = [filter_text]
    if len(ids) <= DESCRIBED:
        table = _table("env=", "Observations", "Actions", "Step limit")
        for name in ids:
            table.add_row(name, *_described(name))
        return table
    kinds: dict[str, list[str]] = {}
    for name in ids:
        kinds.setdefault(_kind(gymnasium.registry[name]), []).append(name)
    table = _table("Kind", "Ids")
    for kind, names in sorted(kinds.items()):
        shown = names if filter_text else names[:NAMED]
        rest = f", and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        table.add_row(kind, ", ".join(shown) + rest)
    table.caption = "`deeprl list envs TEXT` shows all ids that hold TEXT, and the spaces when they are few"
    return table


def _kind(spec: EnvSpec) -> str:
    """The package of environments an id belongs to: classic_control, box2d, mujoco, atari, minigrid, …"""
    entry = spec.entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    if module.startswith("ale_py"):
        return "atari"
    parts = module.removeprefix("gymnasium.envs.").split(".")
    return "needs more packages" if parts[0] in ("registration", "gymnasium") or callable(entry) else parts[0]


def _described(name: str) -> tuple[str, str, str]:
    """Observation space, action space and step limit of an environment; or what keeps it from being made."""
    import warnings

    import gymnasium

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an id has a newer version is no news in a list of ids
            env: Any = gymnasium.make(name)
    except Exception as error:  # whatever the environment's own package raises, the row says
        return f"can't be made: {str(error).splitlines()[0] if str(error) else type(error).__name__}", "", ""
    limit = env.spec.max_episode_steps
    texts = _space(env.observation_space), _space(env.action_space), str(limit or "none")
    env.close()
    return texts


def _space(space: Any) -> str:
    """A space in a few words; bounds where they are the same for every element."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        low, high = space.low.min(), space.high.max()
        same = (space.low == low).all() and (space.high == high).all()
        bounds = f" in [{low:g}, {high:g}]" if same else ""
        return f"Box{space.shape} {space.dtype}{bounds}"
    if isinstance(space, spaces.Dict):
        return "Dict(" + ", ".join(f"{key}: {_space(part)}" for key, part in space.spaces.items()) + ")"
    if isinstance(space, spaces.Tuple):
        return "Tuple(" + ", ".join(map(_space, space.spaces)) + ")"
    return str(space)


def networks(filter_text: str = "") -> Table:
    import dataclasses

    from deeprl_cli.schema import NETWORKS

    table = _table("network=", "What it is", "Options (network.…)")
    for name in _matching(group_options("network"), filter_text, "network"):
        options = [field.name for field in dataclasses.fields(NETWORKS[name]) if field.name != "name"]
        table.add_row(name, summary("network", name), ", ".join(options))
    return table


def hardware(filter_text: str = "") -> Table:
    import torch

    there = {
        "cpu": f"{_usable_cores()} cores, {torch.get_num_threads()} torch threads",
        "cuda": "; ".join(_cuda_devices()) or "no CUDA device, or a torch built without CUDA",
    }
    table = _table("hardware=", "What it is", "On this machine")
    for name in _matching(group_options("hardware"), filter_text, "hardware"):
        table.add_row(name, summary("hardware", name), there.get(name, ""))
    return table


def _usable_cores() -> int:
    """The cores this process may run on: a container or job scheduler often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuda_devices() -> list[str]:
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices]


def _matching(names: Sequence[str], filter_text: str, kind: str) -> list[str]:
    found = [name for name in names if filter_text.lower() in name.lower()]
    if not found:
        raise UserError(f"no {kind} holds '{filter_text}'{did_you_mean(filter_text, names)}")
    return found


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table
