"""Damaged and hostile checkpoints: refused in one line, whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deeprl_cli.errors import UserError
from deeprl_cli.runs import checkpoint as module
from deeprl_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from deeprl_cli.runs.tensor_files import load_weights, save_weights

STATE = {"step": 7, "net": {"weight": torch.arange(6.0).reshape(2, 3)}}


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Forge a manifest: changed, with a checksum that fits."""
    manifest = manifest_of(folder)
    del manifest["sha256"]
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": module._digest(manifest)}))


def data_file(folder: Path, kind: str = "state") -> Path:
    (path,) = folder.glob(f"{kind}-*.safetensors")
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(load_checkpoint(folder).segments.values())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damage_is_named_in_one_line(tmp_path: Path) -> None:
    assert "not a checkpoint" in refusal(tmp_path / "nothing")
    assert "not a checkpoint" in refusal(tmp_path)
    (tmp_path / "file").write_text("")
    assert "can't be read" in refusal(tmp_path / "file")

    def saved(name: str) -> Path:
        save_checkpoint(tmp_path / name, STATE, {"a": lambda: {"x": torch.ones(3)}})
        return tmp_path / name

    for kind in ("state", "segment-a"):
        folder = saved(f"cut {kind}")
        path = data_file(folder, kind)
        path.write_bytes(path.read_bytes()[:-1])
        assert "damaged" in refusal(folder)
        with pytest.raises(UserError):
            load_checkpoint(folder)  # at once, not when the segment is asked for

        folder = saved(f"flipped {kind}")
        path = data_file(folder, kind)
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        assert "doesn't match its checksum" in refusal(folder)

        folder = saved(f"gone {kind}")
        data_file(folder, kind).unlink()
        assert refusal(folder).endswith("missing")

        folder = saved(f"link {kind}")
        data_file(folder, kind).rename(tmp_path / kind)
        (folder / next(name for name in manifest_of(folder)["files"] if name.startswith(kind))).symlink_to(
            tmp_path / kind
        )
        assert "not a regular file" in refusal(folder)

    text = (saved("whole") / "manifest.json").read_text()
    cases = {
        text[:-20]: "not valid JSON",
        "": "not valid JSON",
        "[" * 100_000: "not valid JSON",
        '{"x": ' * 400 + "1" + "}" * 400: "not a deeprl checkpoint",
        "[]": "not a deeprl checkpoint",
        '{"name": "someone else\'s manifest"}': "not a deeprl checkpoint",
        '{"format": "1", "deeprl": "x"}': "not a deeprl checkpoint",
        '{"format": true, "deeprl": "x"}': "not a deeprl checkpoint",
        '{"format": 1, "deeprl": "x"}': "doesn't match its checksum",
        text.replace('"step": 7', '"step": 9'): "doesn't match its checksum",
        '{"format": 999, "deeprl": "9\\n9"}': "upgrade deeprl-cli",
    }
    for damaged, words in cases.items():
        (tmp_path / "whole" / "manifest.json").write_text(damaged)
        assert words in refusal(tmp_path / "whole")
    (tmp_path / "whole" / "manifest.json").write_bytes(b"\xff\xfe")
    assert "not valid JSON" in refusal(tmp_path / "whole")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "sub/file", ".hidden", "a\nb"])
def test_hostile_file_names_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, STATE)
    record = next(iter(manifest_of(folder)["files"].values()))
    (tmp_path / "outside").write_bytes(data_file(folder).read_bytes())
    rewrite(folder, lambda manifest: manifest.update(files={name: record}, tensors=name))
    assert "no plain file name" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(segments=[]),
        lambda manifest: manifest.update(state=3),
        lambda manifest: manifest.update(tensors="nowhere"),
        lambda manifest: manifest.update(segments={"a": "nowhere"}),
        lambda manifest: manifest.update(segments={"a": 3}),
        lambda manifest: manifest.update(files={manifest["tensors"]: {"bytes": True, "sha256": ""}}),
        lambda manifest: manifest.update(files={manifest["tensors"]: 3}),
        lambda manifest: manifest.update(state={"x": {"$tensor": "nowhere"}}),
        lambda manifest: manifest.update(state={"x": {"$tensor": []}}),
        lambda manifest: manifest.update(state={"x": {"$float": "one"}}),
    ],
)
def test_a_manifest_that_makes_no_sense(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    save_checkpoint(tmp_path, STATE)
    rewrite(tmp_path, change)
    assert "damaged" in refusal(tmp_path)


def header_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        header_file(b"{}", length=2**63),
        header_file(b"{}", length=3),
        header_file(b"{}", b"trailing"),
        header_file(b"not json"),
        header_file(b'{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}', b"abcd"),
        header_file(b'{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}', b"abcd"),
        header_file(b'{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
        header_file(b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"abcd"),
        header_file(b'{"x":{"dtype":"F32","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]}}'),
        header_file(b'{"x":{"dtype":"EVIL","shape":[1],"data_offsets":[0,4]}}', b"abcd"),
    ],
)
def test_a_hostile_data_file_is_refused(tmp_path: Path, content: bytes) -> None:
    save_checkpoint(tmp_path, STATE)
    name = data_file(tmp_path).name
    (tmp_path / name).write_bytes(content)
    record = {"bytes": len(content), "sha256": module.hashlib.sha256(content).hexdigest()}
    rewrite(tmp_path, lambda manifest: manifest.update(files={name: record}))
    assert "damaged" in refusal(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(tmp_path / "w.safetensors")


def test_damaged_weights_are_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"

    def refused() -> str:
        with pytest.raises(UserError) as caught:
            load_weights(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "missing" in refused()
    path.mkdir()
    assert "not a regular file" in refused()
    path.rmdir()
    save_file({"x": torch.ones(2)}, path)
    assert "not a weights file of deeprl" in refused()
    save_weights(path, {"x": torch.ones(2)}, {"step": 5})
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01")
    assert "checksum" in refused()
    path.write_bytes(whole.replace(b'\\"step\\": 5', b'\\"step\\": 6'))
    assert "checksum" in refused()
    path.write_bytes(whole[:-1])
    assert "not a safetensors file" in refused()
    path.write_bytes(whole.replace(b'{\\"format\\": 1', b'{\\"format\\": 9'))
    assert "upgrade deeprl-cli" in refused()
