"""Checkpoints that are always complete and safe to open: safetensors for tensors, JSON for the rest, no pickle.

A checkpoint is a folder. `manifest.json` names the data files, their sizes and SHA-256, and holds the state as a JSON
tree in which `{"$tensor": key}` stands for a tensor of the state file. Saving writes new files under new names first
and replaces the manifest last, in one rename: whatever happens, the manifest on the disk names complete files.
Earlier checkpoints that are kept have their manifests beside it, as `manifest-<generation>.json`; all share the files
they have in common. `docs/runs.md` describes the format.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deeprl_cli import __version__
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import atomic_write, sync_folder
from deeprl_cli.runs.tensor_files import (
    GoneError,
    Segment,
    check_format,
    decode,
    encode,
    file_size,
    parse,
    read_bytes,
    serialize,
)

FORMAT = 1
# format -> what turns a manifest of that format into one of the next
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

MANIFEST_NAME = "manifest.json"
_EARLIER = re.compile(r"manifest-(\d{1,12})\.json")
_SEGMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_OUR_DATA_FILE = re.compile(r"(state|segment-.+)-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `segments[name]` reads and verifies that segment each time it is asked for."""

    state: dict[str, Any]
    segments: Mapping[str, dict[str, Tensor]]
    version: str  # of the deeprl that wrote it


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    segments: Mapping[str, Callable[[], Segment]] | None = None,
    *,
    keep: int = 1,
) -> None:
    """Make `folder` hold this state and these segments, in one step. The `keep` newest checkpoints stay.

    `state` nests dicts with string keys, lists, tensors of any device, numpy arrays and str, int, float, bool, None.
    It comes back the same except that arrays come back as tensors, tuples as lists, numpy scalars as Python's, and
    tensors that shared memory no longer do. A segment never changes: one whose name the present checkpoint already
    holds is kept as it is, without calling its function. Raises TypeError or ValueError for what can't be saved,
    OSError where the disk refuses; the earlier checkpoint then still stands.
    """
    segments = segments or {}
    for name in segments:
        if not _SEGMENT_NAME.fullmatch(name):
            raise ValueError(f"segment name {name!r}: up to 100 letters, digits, '.', '_' and '-' only")
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    tree = encode(state, "state", tensors)
    try:
        present: dict[str, Any] | None = _read_manifest(folder, MANIFEST_NAME)
    except UserError:
        present = None  # nothing there, or nothing to rely on: write everything
    generation = 1 + (present.get("generation", 0) if present is not None else _latest_generation(folder))
    files, kept = _reusable(folder, present, segments)
    written: list[Path] = []

    def write(kind: str, content: Segment) -> str:
        name = f"{kind}-{secrets.token_hex(8)}.safetensors"
        data = serialize(content)
        written.append(folder / name)
        with open(folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return name

    try:
        state_file = write("state", tensors)
        segment_files = {name: kept.get(name) or write(f"segment-{name}", make()) for name, make in segments.items()}
    except BaseException:
        for path in written:  # on a full disk the pieces would stand in the way of the next attempt
            with suppress(OSError):
                path.unlink()
        raise
    sync_folder(folder)  # the new names are on the disk before anything refers to them
    manifest = {"format": FORMAT, "deeprl": __version__, "generation": generation, "files": files}
    manifest |= {"tensors": state_file, "segments": segment_files, "state": tree}
    # From here on nothing new is deleted, even on an error: the manifest that names it may already be in place.
    if present is not None and keep > 1:
        atomic_write(folder / f"manifest-{generation - 1}.json", json.dumps(present).encode())
    atomic_write(folder / MANIFEST_NAME, json.dumps({**manifest, "sha256": _digest(manifest)}).encode())
    _clean(folder, set(files), keep)


def _clean(folder: Path, named: set[str], keep: int) -> None:
    """Delete earlier checkpoints beyond `keep`, and data files that none of the rest names.

    A leftover costs space only, and the next save tries again.
    """
    earlier = manifests(folder)[1:]
    for name in earlier[: keep - 1]:
        with suppress(UserError):
            named |= set(_read_manifest(folder, name)["files"])
    doomed = earlier[keep - 1 :] + [
        path.name for path in folder.iterdir() if path.name not in named and _OUR_DATA_FILE.fullmatch(path.name)
    ]
    for name in doomed:
        with suppress(OSError):
            (folder / name).unlink()


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder` that can be read whole, saying so where it isn't the last one; None where
    there is none. Raises UserError where all that there are is damaged."""
    problems: list[UserError] = []
    for name in manifests(folder) if folder.is_dir() else []:
        if name == manifests(folder)[0] and not (folder / name).exists():
            continue
        try:
            checkpoint = load_checkpoint(folder, name)
            for segment in checkpoint.segments.values():
                del segment  # read and verified; one at a time, as they may be large
        except UserError as error:
            problems.append(error)
            continue
        for problem in problems:
            print(f"{problem}: going on from the checkpoint before it", flush=True)
        return checkpoint
    if problems:
        raise problems[0]
    return None


def intact_checkpoints(folder: Path, key: str, otherwise: str = "") -> dict[int, Checkpoint]:
    """Those in `folder` that can be read whole, by a number of their state (`otherwise` names another, for those that
    don't have it)."""
    found: dict[int, Checkpoint] = {}
    for name in manifests(folder) if folder.is_dir() else []:
        with suppress(UserError):
            checkpoint = load_checkpoint(folder, name)
            for segment in checkpoint.segments.values():
                del segment
            if type(number := checkpoint.state.get(key, checkpoint.state.get(otherwise))) is int:
                found.setdefault(number, checkpoint)
    return found


def manifests(folder: Path) -> list[str]:
    """The manifests of the checkpoints in `folder`, newest first: the present one, then those kept behind it."""
    earlier = [found for path in folder.glob("manifest-*.json") if (found := _EARLIER.fullmatch(path.name))]
    return [MANIFEST_NAME, *(f.group() for f in sorted(earlier, key=lambda f: int(f.group(1)), reverse=True))]


def _latest_generation(folder: Path) -> int:
    numbers = [int(found.group(1)) for path in folder.iterdir() if (found := _EARLIER.fullmatch(path.name))]
    return max(numbers, default=0)


def load_checkpoint(folder: Path, name: str = MANIFEST_NAME) -> Checkpoint:
    """The checkpoint in `folder` (an earlier one: its `name` of `manifests`), its tensors on the CPU.

    Executes nothing that it reads.

    Raises UserError (one line) where there is none, it was written by a newer deeprl, or it is damaged in any way;
    a damaged segment shows when it is asked for, a missing one or one of the wrong size at once.
    """
    manifest = _read_manifest(folder, name)
    while True:
        try:
            for file, record in manifest["files"].items():
                _check_size(folder / file, record["bytes"])
            tensors = _read_file(folder, manifest, manifest["tensors"])
            break
        except GoneError:
            # Another process may have saved since the manifest was read: look again while it keeps changing.
            newer = _read_manifest(folder, name)
            if newer["sha256"] == manifest["sha256"]:
                raise
            manifest = newer
    try:
        state = decode(manifest["state"], tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / name}: damaged: its state can't be read") from error
    return Checkpoint(state, _Segments(folder, manifest), str(manifest["deeprl"]))


class _Segments(Mapping[str, dict[str, Tensor]]):
    """Segments by name, read when asked for: a replay buffer needn't be in memory twice."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder, self._manifest = folder, manifest

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return _read_file(self._folder, self._manifest, self._manifest["segments"][name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest["segments"])

    def __len__(self) -> int:
        return len(self._manifest["segments"])


# The manifest


def _read_manifest(folder: Path, name: str) -> dict[str, Any]:
    """The manifest as format `FORMAT`, its own checksum and its structure checked."""
    path = folder / name
    try:
        manifest: Any = json.loads(read_bytes(path))
        body = {key: value for key, value in manifest.items() if key != "sha256"} if isinstance(manifest, dict) else {}
        digest = _digest(body)
    except GoneError as error:
        raise UserError(f"{folder}: not a checkpoint (it has no {name})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not valid JSON") from error
    if not {"format", "deeprl"} <= body.keys():
        raise UserError(f"{path}: not a deeprl checkpoint")
    check_format(path, manifest["format"], manifest["deeprl"], FORMAT)
    if manifest.get("sha256") != digest:
        raise UserError(f"{path}: damaged: its content doesn't match its checksum")
    for older in range(manifest["format"], FORMAT):
        manifest = MIGRATIONS[older](manifest)
    problem = _structure_problem(manifest)
    if problem:
        raise UserError(f"{path}: damaged: {problem}")
    result: dict[str, Any] = manifest
    return result


def _structure_problem(manifest: Mapping[str, Any]) -> str:
    """What keeps this manifest from being used; empty when nothing does. Names must not lead out of the folder."""
    files, segments = manifest.get("files"), manifest.get("segments")
    if type(manifest.get("generation", 0)) is not int:  # absent from the first checkpoints of format 1
        return "its generation is no number"
    if not isinstance(files, dict) or not isinstance(segments, dict) or not isinstance(manifest.get("state"), dict):
        return "it lacks files, segments or state"
    for name, record in files.items():
        if not _FILE_NAME.fullmatch(name):
            return f"{name[:60]!r} is no plain file name"
        if not (isinstance(record, dict) and type(record.get("bytes")) is int and type(record.get("sha256")) is str):
            return f"no size and checksum for {name}"
    for name in (manifest.get("tensors"), *segments.values()):
        if not isinstance(name, str) or name not in files:
            return "it refers to a file it doesn't list"
    return ""


def _digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its checksum; JSON keeps key order, integers and floats, so reading keeps it."""
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _reusable(
    folder: Path, manifest: Mapping[str, Any] | None, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Of the segments wanted, those the checkpoint of `manifest` holds: their file records, and name -> file."""
    if manifest is None:
        return {}, {}
    files: dict[str, Any] = {}
    kept: dict[str, str] = {}
    for name in wanted:
        file = manifest["segments"].get(name)
        if file is None:
            continue
        with suppress(UserError):  # gone or cut short: written anew
            _check_size(folder / file, manifest["files"][file]["bytes"])
            files[file], kept[name] = manifest["files"][file], file
    return files, kept


def _read_file(folder: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    path, record = folder / name, manifest["files"][name]
    _check_size(path, record["bytes"])
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise UserError(f"{path}: damaged: its content doesn't match its checksum")
    return parse(path, data)


def _check_size(path: Path, expected: int) -> None:
    size = file_size(path)
    if size != expected:
        raise UserError(f"{path}: damaged: {size} bytes instead of {expected}")
