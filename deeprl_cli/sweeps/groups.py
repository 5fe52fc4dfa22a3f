"""Which jobs of a sweep can train together: those that differ only in values that each member may have for itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from deeprl_cli.data.memory import free_bytes, memory_bytes
from deeprl_cli.envs.look import Look
from deeprl_cli.policy import make_policy
from deeprl_cli.schema.members import kind, own_keys, value_at
from deeprl_cli.schema.run import MultiprocessConfig, ReplayConfig, RolloutConfig, RunConfig, device_of
from deeprl_cli.schema.typed import to_plain

Job = tuple[RunConfig, Look]
TAKEN = 0.7  # share of the free memory that is used
COPIES = 6  # of a member's weights and optimiser: gradients, and what computing them takes
TYPICAL_LENGTH = 512  # steps assumed for an episode without a limit


def grouped(jobs: Sequence[Job], *, at_a_time: int = 1, most: int | None = None) -> list[list[int]]:
    """The numbers of the jobs of each group, in their order. A group has at most so many members as fit into memory
    (`at_a_time` groups run side by side), or `most`."""
    groups: dict[str, list[list[int]]] = {}  # by structure; in each, environments that are the same to an algorithm
    for number, (cfg, look) in enumerate(jobs):
        alike = groups.setdefault(structure(cfg), [])
        fitting = next((group for group in alike if same_to_an_algorithm(look, jobs[group[0]][1])), None)
        if fitting is None or isinstance(cfg.hardware, MultiprocessConfig):
            alike.append([number])
        else:
            fitting.append(number)
    whole = [group for alike in groups.values() for group in alike]
    return sorted(part for group in whole for part in split(group, jobs, at_a_time, most))


def structure(cfg: RunConfig) -> str:
    """Everything that members must have in common."""
    plain = to_plain(cfg)
    for key in ("seed", "seeds", "run_dir", "name", "tags", "typed"):
        del plain[key]
    for key, mark in own_keys(type(cfg.algo)).items():
        *path, last = key.split(".")
        place: dict[str, Any] = plain["algo"]
        for name in path:
            place = place[name]
        place[last] = kind(value_at(cfg.algo, key), mark)
    if cfg.env.backend == "sync":
        del plain["env"]["kwargs"]
    return json.dumps(plain, sort_keys=True)


def same_to_an_algorithm(one: Look, other: Look) -> bool:
    settled = [dataclasses.replace(look.env, kwargs={}) for look in (one, other)]
    return (
        settled[0] == settled[1]
        and one.spec == other.spec
        and (one.ends, one.reseedable, one.repeatable) == (other.ends, other.reseedable, other.repeatable)
    )


def split(group: list[int], jobs: Sequence[Job], at_a_time: int, most: int | None) -> list[list[int]]:
    """Split a group into parts that fit into memory, as equal as possible."""
    if len(group) == 1:
        return [group]
    cfg, look = jobs[group[0]]
    free = free_bytes(device_of(cfg.hardware))
    room = most or 1 << 30
    if free is not None:
        room = min(room, max(1, int(TAKEN * free / at_a_time / member_bytes(cfg, look))))
    members = sum(jobs[number][0].seeds for number in group)
    parts = -(-members // room)
    size = -(-members // parts)
    found: list[list[int]] = [[]]
    count = 0
    for number in group:
        seeds = jobs[number][0].seeds
        if found[-1] and (count >= size or count + seeds > room):
            found.append([])
            count = 0
        found[-1].append(number)
        count += seeds
    return found


def member_bytes(cfg: RunConfig, look: Look) -> int:
    """Roughly the memory of one member: its networks and optimisers, and the data that it learns from."""
    alone = dataclasses.replace(cfg, seeds=1)
    state = make_policy(alone, look.spec).state_dict().values()
    networks: int = COPIES * sum(value.numel() * value.element_size() for value in state if hasattr(value, "numel"))
    if isinstance(cfg.algo, ReplayConfig):
        return networks + memory_bytes(alone, look.spec)
    steps = cfg.algo.samples_per_update if isinstance(cfg.algo, RolloutConfig) else cfg.algo.num_envs * TYPICAL_LENGTH
    space = look.spec.observation_space
    width = 2 * math.prod(space.shape or ()) * (1 if str(space.dtype) == "uint8" else 4) + 64
    return networks + 4 * steps * width
