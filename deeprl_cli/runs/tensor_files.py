"""Tensors and plain values in files that are safe to open: safetensors for tensors, JSON for the rest, no pickle.

`save_weights` / `load_weights` are for single files; `checkpoint.py` builds checkpoints of many from the same pieces.
`docs/runs.md` describes the formats.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from deeprl_cli import __version__
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import atomic_write

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Segment: TypeAlias = Mapping[str, Tensor]

WEIGHTS_FORMAT = 1
_MAX_HEADER_BYTES = 16 << 20  # of a safetensors file: room for 100,000 tensors
_DTYPES = frozenset(
    {torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32}
    | {torch.int64, torch.bfloat16, torch.float16, torch.float32, torch.float64}
)


class GoneError(UserError):
    """A file a checkpoint names isn't there: damage, or a newer checkpoint was saved in between."""


def save_weights(path: Path, tensors: Segment, meta: Mapping[str, JSON]) -> None:
    """Write `tensors` and `meta` as one safetensors file, whole or not at all. Errors as for `save_checkpoint`."""
    note = {"format": WEIGHTS_FORMAT, "deeprl": __version__, "meta": encode(meta, "meta", None)}
    path.parent.mkdir(parents=True, exist_ok=True)
    note["sha256"] = _weights_digest(note, tensors)
    atomic_write(path, serialize(tensors, {"deeprl": json.dumps(note)}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and `meta` of a file `save_weights` wrote. UserError where it isn't one, or damaged."""
    data = read_bytes(path)
    tensors = parse(path, data)
    try:
        # `parse` has checked the header
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        note = json.loads(header["__metadata__"]["deeprl"])
        written_format, digest, meta = note["format"], note.pop("sha256"), decode(note["meta"], {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a weights file of deeprl") from error
    check_format(path, written_format, note.get("deeprl"), WEIGHTS_FORMAT)
    if digest != _weights_digest(note, tensors):
        raise UserError(f"{path}: damaged: its content doesn't match its checksum")
    return tensors, meta


# The JSON tree


def encode(value: Any, path: str, tensors: dict[str, Tensor] | None) -> Any:
    """`value` as JSON, its tensors moved to `tensors` (None: refused); NaN and infinity become {"$float": …}."""
    match value:
        case None | bool() | str():
            return value
        case np.generic():
            return encode(value.item(), path, tensors)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else {"$float": str(float(value))}
        case Mapping():
            return {_key(key, path): encode(item, f"{path}.{key}", tensors) for key, item in value.items()}
        case list() | tuple():
            return [encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
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


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case list():
            return [decode(item, tensors) for item in value]
        case {"$tensor": key}:
            return tensors[key]
        case {"$float": text}:
            return float(text)
        case dict():
            return {key.removeprefix("$"): decode(item, tensors) for key, item in value.items()}
    return value


# Data files


def serialize(tensors: Segment, metadata: dict[str, str] | None = None) -> bytes:
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


def parse(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Nothing larger than the file itself is allocated."""
    if int.from_bytes(data[:8], "little") > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise UserError(f"{path}: damaged: not a safetensors file")
    try:
        # Checks that the declared shapes and offsets cover the file exactly.
        return safetensors.load(data)
    except (SafetensorError, AssertionError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged: not a safetensors file") from error


def check_format(path: Path, written: Any, version: Any, newest: int) -> None:
    """Raise UserError unless `written` is a format number up to `newest`."""
    if isinstance(written, bool) or not isinstance(written, int) or written < 1:
        raise UserError(f"{path}: not a deeprl checkpoint")
    if written > newest:
        raise UserError(
            f"{path}: written in format {written} by deeprl {str(version)[:20]!r}; this is {__version__}, reading up "
            f"to format {newest}: upgrade deeprl-cli"
        )


def file_size(path: Path) -> int:
    """Bytes of a regular file; a link or a pipe in its place is refused, as it may lead anywhere or never end."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise GoneError(f"{path}: missing") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    return status.st_size


def read_bytes(path: Path) -> bytes:
    file_size(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise GoneError(f"{path}: missing") from error
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
