"""Checkpoints that are whole or absent, and safe to open: safetensors for tensors, JSON for the rest, no pickle.

A checkpoint is a folder. `manifest.json` names the data files, their sizes and SHA-256, and holds the state as a JSON
tree in which `{"$tensor": key}` stands for a tensor of the state file. Saving writes new files under new names first
and replaces the manifest last, in one rename: whatever happens, the manifest on the disk names complete files.
`save_weights` / `load_weights` are for single files of tensors. `docs/runs.md` describes both formats.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from deeprl_cli import __version__
from deeprl_cli.errors import UserError
from deeprl_cli.run_folder import atomic_write, sync_folder

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Segment: TypeAlias = Mapping[str, Tensor]

FORMAT = 1
# format -> what turns a manifest of that format into one of the next
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

MANIFEST_NAME = "manifest.json"
_SEGMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_OUR_DATA_FILE = re.compile(r"(state|segment-.+)-[0-9a-f]{16}\.safetensors")
_MAX_HEADER_BYTES = 16 << 20  # of a safetensors file: room for 100,000 tensors
_DTYPES = frozenset(
    {torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32}
    | {torch.int64, torch.bfloat16, torch.float16, torch.float32, torch.float64}
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `segments[name]` reads and verifies that segment each time it is asked for."""

    state: dict[str, Any]
    segments: Mapping[str, dict[str, Tensor]]
    version: str  # of the deeprl that wrote it


class _GoneError(UserError):
    """A file the manifest names isn't there: damage, or a newer checkpoint was saved in between."""


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], segments: Mapping[str, Callable[[], Segment]] | None = None
) -> None:
    """Make `folder` hold this state and these segments, replacing what it held, in one step.

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
    tree = _encode(state, "state", tensors)
    files, kept = _reusable(folder, segments)
    written: list[Path] = []

    def write(kind: str, content: Segment) -> str:
        name = f"{kind}-{secrets.token_hex(8)}.safetensors"
        data = _serialize(content)
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
    manifest = {"format": FORMAT, "deeprl": __version__, "files": files, "tensors": state_file}
    manifest |= {"segments": segment_files, "state": tree}
    # From here on nothing new is deleted, even on an error: the manifest that names it may already be in place.
    atomic_write(folder / MANIFEST_NAME, json.dumps({**manifest, "sha256": _digest(manifest)}).encode())
    for path in folder.iterdir():
        if path.name not in files and _OUR_DATA_FILE.fullmatch(path.name):
            with suppress(OSError):  # a leftover costs space only; the next save tries again
                path.unlink()


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its tensors on the CPU. Executes nothing that it reads.

    Raises UserError (one line) where there is none, it was written by a newer deeprl, or it is damaged in any way;
    a damaged segment shows when it is asked for, a missing one or one of the wrong size at once.
    """
    manifest = _read_manifest(folder)
    while True:
        try:
            for name, record in manifest["files"].items():
                _check_size(folder / name, record["bytes"])
            tensors = _read_file(folder, manifest, manifest["tensors"])
            break
        except _GoneError:
            # Another process may have saved since the manifest was read: look again while it keeps changing.
            newer = _read_manifest(folder)
            if newer["sha256"] == manifest["sha256"]:
                raise
            manifest = newer
    try:
        state = _decode(manifest["state"], tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / MANIFEST_NAME}: damaged: its state can't be read") from error
    return Checkpoint(state, _Segments(folder, manifest), str(manifest["deeprl"]))


def save_weights(path: Path, tensors: Segment, meta: Mapping[str, JSON]) -> None:
    """Write `tensors` and `meta` as one safetensors file, whole or not at all. Errors as for `save_checkpoint`."""
    note = {"format": FORMAT, "deeprl": __version__, "meta": _encode(meta, "meta", None)}
    path.parent.mkdir(parents=True, exist_ok=True)
    note["sha256"] = _weights_digest(note, tensors)
    atomic_write(path, _serialize(tensors, {"deeprl": json.dumps(note)}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and `meta` of a file `save_weights` wrote. UserError where it isn't one, or damaged."""
    data = _read_bytes(path)
    tensors = _parse(path, data)
    try:
        # `_parse` has checked the header
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        note = json.loads(header["__metadata__"]["deeprl"])
        written_format, digest, meta = note["format"], note.pop("sha256"), _decode(note["meta"], {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a weights file of deeprl") from error
    _check_format(path, written_format, note.get("deeprl"))
    if digest != _weights_digest(note, tensors):
        raise UserError(f"{path}: damaged: its content doesn't match its checksum")
    return tensors, meta


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


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as format `FORMAT`, its own checksum and its structure checked."""
    path = folder / MANIFEST_NAME
    try:
        manifest: Any = json.loads(_read_bytes(path))
        body = {key: value for key, value in manifest.items() if key != "sha256"} if isinstance(manifest, dict) else {}
        digest = _digest(body)
    except _GoneError as error:
        raise UserError(f"{folder}: not a checkpoint (it has no {MANIFEST_NAME})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not valid JSON") from error
    if not {"format", "deeprl"} <= body.keys():
        raise UserError(f"{path}: not a deeprl checkpoint")
    _check_format(path, manifest["format"], manifest["deeprl"])
    if manifest.get("sha256") != digest:
        raise UserError(f"{path}: damaged: its content doesn't match its checksum")
    for older in range(manifest["format"], FORMAT):
        manifest = MIGRATIONS[older](manifest)
    problem = _structure_problem(manifest)
    if problem:
        raise UserError(f"{path}: damaged: {problem}")
    result: dict[str, Any] = manifest
    return result


def _check_format(path: Path, written: Any, version: Any) -> None:
    if isinstance(written, bool) or not isinstance(written, int) or written < 1:
        raise UserError(f"{path}: not a deeprl checkpoint")
    if written > FORMAT:
        raise UserError(
            f"{path}: written in format {written} by deeprl {str(version)[:20]!r}; this is {__version__}, reading up "
            f"to format {FORMAT}: upgrade deeprl-cli"
        )


def _structure_problem(manifest: Mapping[str, Any]) -> str:
    """What keeps this manifest from being used; empty when nothing does. Names must not lead out of the folder."""
    files, segments = manifest.get("files"), manifest.get("segments")
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


def _reusable(folder: Path, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Of the segments wanted, those the present checkpoint holds: their file records, and name -> file."""
    try:
        manifest = _read_manifest(folder)
    except UserError:
        return {}, {}  # nothing there, or nothing to rely on: write everything
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


# The JSON tree


def _encode(value: Any, path: str, tensors: dict[str, Tensor] | None) -> Any:
    """`value` as JSON, its tensors moved to `tensors` (None: refused); NaN and infinity become {"$float": …}."""
    match value:
        case None | bool() | str():
            return value
        case np.generic():
            return _encode(value.item(), path, tensors)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else {"$float": str(float(value))}
        case Mapping():
            return {_key(key, path): _encode(item, f"{path}.{key}", tensors) for key, item in value.items()}
        case list() | tuple():
            return [_encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
        case np.ndarray() | Tensor() if tensors is not None:
            key = path
            while key in tensors:  # {"a.b": …} beside {"a": {"b": …}}
                key += "'"
            tensors[key] = _tensor(value, path)
            return {"$tensor": key}
    raise TypeError(f"{path}: a {type(value).__name__} can't be saved")


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{path}: the key {key!r} must be a string")
    return f"${key}" if key.startswith("$") else key


def _tensor(value: Tensor | np.ndarray[Any, Any], path: str) -> Tensor:
    """A dense tensor of its own on the CPU; TypeError for a kind that can't be written."""
    try:
        tensor = torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else value.detach()
    except TypeError as error:
        raise TypeError(f"{path}: an array of {value.dtype} can't be saved") from error
    if tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        raise TypeError(f"{path}: a tensor of {tensor.layout}, {tensor.dtype} can't be saved")
    return tensor.cpu().contiguous()


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case list():
            return [_decode(item, tensors) for item in value]
        case {"$tensor": key}:
            return tensors[key]
        case {"$float": text}:
            return float(text)
        case dict():
            return {key.removeprefix("$"): _decode(item, tensors) for key, item in value.items()}
    return value


# Data files


def _serialize(tensors: Segment, metadata: dict[str, str] | None = None) -> bytes:
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        if name == "__metadata__":
            raise ValueError("__metadata__ can't be a tensor's name")
        tensor = _tensor(value, name)
        if tensor.untyped_storage().data_ptr() in seen:  # safetensors refuses tensors that share memory
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        own[name] = tensor
    data = safetensors.save(own, metadata)
    if int.from_bytes(data[:8], "little") > _MAX_HEADER_BYTES:
        raise ValueError("too many tensors for one file")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Nothing larger than the file itself is allocated."""
    if int.from_bytes(data[:8], "little") > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise UserError(f"{path}: damaged: not a safetensors file")
    try:
        # Checks that the declared shapes and offsets cover the file exactly.
        return safetensors.load(data)
    except (SafetensorError, AssertionError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged: not a safetensors file") from error


def _read_file(folder: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    path, record = folder / name, manifest["files"][name]
    _check_size(path, record["bytes"])
    data = _read_bytes(path)
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise UserError(f"{path}: damaged: its content doesn't match its checksum")
    return _parse(path, data)


def _check_size(path: Path, expected: int) -> None:
    size = _size(path)
    if size != expected:
        raise UserError(f"{path}: damaged: {size} bytes instead of {expected}")


def _size(path: Path) -> int:
    """Bytes of a regular file; a link or a pipe in its place is refused, as it may lead anywhere or never end."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise _GoneError(f"{path}: missing") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    return status.st_size


def _read_bytes(path: Path) -> bytes:
    _size(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _GoneError(f"{path}: missing") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error


def _weights_digest(note: Mapping[str, Any], tensors: Segment) -> str:
    """SHA-256 over the note (without its checksum) and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps({key: value for key, value in note.items() if key != "sha256"}).encode())
    for name in sorted(tensors):
        tensor = _tensor(tensors[name], name)
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
