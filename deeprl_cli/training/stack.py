"""A trainer's state taken apart by members, and put together again: a run that trains with others leaves a checkpoint
of its own members, and the group goes on from the checkpoints of all its runs.

Members keep their order; a `slice` names those that are next to one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deeprl_cli.envs.replayed import in_a_row, of_seeds
from deeprl_cli.runs.checkpoint import Checkpoint
from deeprl_cli.schema.run import RunConfig

State = Mapping[str, Any]
Segments = Mapping[str, Mapping[str, Tensor]]
# the parts of a state that say something of each member; the rest is the same for all of them
LISTS = ("best", "evaluations", "evaluated", "finished_episodes", "lessons")
TENSORS = ("seed_steps", "seed_progress")
NOISE = ("act_noise", "update_noise", "warm_up_noise", "sample_noise")
ENVS = ("envs", "eval_envs")
TOGETHER = "together"  # at which step of the group (that of the seed furthest behind) a run left a checkpoint


def select(state: State, members: slice) -> dict[str, Any]:
    """The state of these members alone, as if they had trained by themselves. Tensors share memory with `state`."""

    def part(key: str, change: Callable[[Any], Any]) -> None:
        if own.get(key) is not None:
            own[key] = change(own[key])

    own = {**state, TOGETHER: state["steps"]}
    for key in (*LISTS, *TENSORS):
        part(key, lambda items: items[members])
    for key in NOISE:
        part(key, lambda noise: {**noise, "generators": noise["generators"][members]})
    for key in ENVS:
        part(key, lambda envs: of_seeds(envs, members))
    part("policy", lambda policy: {name: _taken(value, members) for name, value in policy.items()})
    part("metrics", lambda metrics: {name: values[:, members] for name, values in metrics.items()})
    part("finite", lambda watch: of_watch(watch, members))
    part("memory", lambda memory: _memory(memory, members))
    chosen = range(members.start, members.stop)
    own["episodes"] = [[s - members.start, *rest] for s, *rest in state["episodes"] if s in chosen]
    if "seed_steps" in own:  # of the one furthest behind
        own["steps"] = int(own["seed_steps"].min())
    return own


def stack(states: Sequence[State]) -> dict[str, Any]:
    """The inverse: one state of several, of members that follow one another. They are of one step of the
    group's. Raises ValueError where they aren't of the same kind."""
    whole = {key: value for key, value in states[0].items() if key != TOGETHER}

    def join(key: str, change: Callable[[list[Any]], Any]) -> None:
        if whole.get(key) is not None:
            whole[key] = change([state[key] for state in states])

    for key in LISTS:
        join(key, lambda parts: [item for part in parts for item in part])
    for key in TENSORS:
        join(key, torch.cat)
    for key in NOISE:
        join(key, lambda parts: {**parts[0], "generators": torch.cat([part["generators"] for part in parts])})
    for key in ENVS:
        join(key, in_a_row)
    join("policy", lambda parts: {name: _joined([part[name] for part in parts]) for name in parts[0]})
    join("metrics", lambda parts: {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]})
    join("finite", watches)
    join("memory", _memories)
    firsts, first = [], 0
    for state in states:
        firsts.append(first)
        first += len(state["best"])
    whole["episodes"] = [
        [s + start, *rest] for state, start in zip(states, firsts, strict=True) for s, *rest in state["episodes"]
    ]
    if "seed_steps" in whole:
        whole["steps"] = int(whole["seed_steps"].min())
    return whole


def stacked(jobs: Sequence[RunConfig], saved: Sequence[Checkpoint | None]) -> tuple[State, Segments]:
    """State and segments of a trainer, of the checkpoints of its runs. One that has none, having ended before the
    others, is filled up with another's: its members don't matter any more. Raises ValueError as `stack` does."""
    if len(saved) == 1 and saved[0] is not None:
        return saved[0].state, saved[0].segments
    first = next(checkpoint for checkpoint in saved if checkpoint is not None)
    states: list[State] = []
    segments: list[Segments] = []
    for job, checkpoint in zip(jobs, saved, strict=True):
        if checkpoint is not None:
            states.append(checkpoint.state)
            segments.append(checkpoint.segments)
            continue
        for seed in job.seed_list:
            other = select(first.state, slice(0, 1))
            other |= {key: {**other[key], "seeds": [seed]} for key in ENVS if other.get(key) is not None}
            states.append(other)
            segments.append(FirstSeed(first.segments))
    return stack(states), StackedSegments(segments, states)


class FirstSeed(Mapping[str, Mapping[str, Tensor]]):
    """Of some segments, what belongs to the first seed."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def __getitem__(self, name: str) -> Mapping[str, Tensor]:
        return {key: ring[:1] for key, ring in self._segments[name].items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._segments)

    def __len__(self) -> int:
        return len(self._segments)


class StackedSegments(Mapping[str, dict[str, Tensor]]):
    """The big pieces of several checkpoints (a replay memory's) as those of one; read when asked for."""

    def __init__(self, parts: Sequence[Segments], states: Sequence[State]) -> None:
        self._parts = parts
        self._names = [{_place(name): name for name in part} for part in parts]
        self._starts = [0]
        for state in states[:-1]:
            self._starts.append(self._starts[-1] + len(state["best"]))
        frames = ((states[0].get("memory") or {}).get("frames") or {}).get("count", 0)
        self._shifts = [start * frames for start in self._starts]  # of `places`, which count through all frames

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        place = _place(name)
        pieces = [part[names[place]] for part, names in zip(self._parts, self._names, strict=True)]
        whole = {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0] if key != "places"}
        if "places" in pieces[0]:
            shifted = [piece["places"] + shift for piece, shift in zip(pieces, self._shifts, strict=True)]
            whole["places"] = torch.cat(shifted)
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0])

    def __len__(self) -> int:
        return len(self._parts[0])


def _place(name: str) -> str:
    """`replay-00003-000000065536` -> `replay-00003`: the rest says how often it was written."""
    return name.rpartition("-")[0]


def _taken(value: Any, members: slice) -> Any:
    return value[members] if isinstance(value, Tensor) and value.ndim else value


def _joined(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) and parts[0].ndim else parts[0]


def of_watch(watch: State, members: slice) -> dict[str, Any]:
    """Of a FiniteWatch's state, what it says of these members."""
    return {**watch, "before": watch["before"][..., members], **{key: watch[key][members] for key in ("logs", "first")}}


def watches(parts: Sequence[State]) -> dict[str, Any]:
    """One state of the watches of several runs."""
    lists = {key: [item for part in parts for item in part[key]] for key in ("logs", "first")}
    return {**parts[0], "before": torch.cat([part["before"] for part in parts], -1), **lists}


def _memory(memory: State, members: slice) -> dict[str, Any]:
    own = {**memory, "written": memory["written"][members]}
    if "frames" in memory:
        frames = dict(memory["frames"])
        per_seed = len(frames["window"]) // len(memory["written"])
        envs = slice(members.start * per_seed, members.stop * per_seed)
        frames |= {key: frames[key][members] for key in ("stored", "first")}
        frames |= {key: None if frames[key] is None else frames[key][envs] for key in ("window", "current")}
        own["frames"] = frames
    return own


def _memories(parts: Sequence[State]) -> dict[str, Any]:
    whole = {**parts[0], "written": [n for part in parts for n in part["written"]]}
    if "frames" in whole:
        frames = dict(whole["frames"])
        for key in ("stored", "first"):
            frames[key] = [n for part in parts for n in part["frames"][key]]
        for key in ("window", "current"):
            found = [part["frames"][key] for part in parts]
            frames[key] = None if found[0] is None else torch.cat([torch.as_tensor(piece) for piece in found])
        whole["frames"] = frames
    return whole
