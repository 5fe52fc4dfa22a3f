"""Checkpoints: what goes in comes out, whole or not at all, and nothing hostile gets through."""

from __future__ import annotations

import builtins
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeprl_cli.runs import checkpoint as module
from deeprl_cli.runs.checkpoint import load_checkpoint, manifests, save_checkpoint
from deeprl_cli.runs.tensor_files import load_weights, save_weights

STATE = {"step": 7, "net": {"weight": torch.arange(6.0).reshape(2, 3)}}


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def data_file(folder: Path, kind: str = "state") -> Path:
    (path,) = folder.glob(f"{kind}-*.safetensors")
    return path


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 2),
        torch.randn(5).bfloat16(),
        torch.randn(5).half(),
        torch.randn(2, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.tensor([0, 255], dtype=torch.uint8),
        torch.tensor([2**62, -(2**62)]),
        torch.tensor(3.5),
        torch.tensor(False),
        torch.zeros(0),
        torch.zeros(0, 3, dtype=torch.int64),
        torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(6)[2:4],
        torch.arange(3.0).expand(2, 3),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_checkpoint(tmp_path, {"x": tensor}, {"s": lambda: {"y": tensor}})
    loaded = load_checkpoint(tmp_path)
    for back in (loaded.state["x"], loaded.segments["s"]["y"]):
        assert back.dtype == tensor.dtype
        assert back.shape == tensor.shape
        original = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(back.reshape(-1).view(torch.uint8), original)
        assert not back.requires_grad
        back.zero_()  # it is the caller's own memory, writable


def test_nested_state_comes_back(tmp_path: Path) -> None:
    state = {
        "text": "ünï\n\ud800",
        "none": None,
        "flags": [True, False],
        "big": 2**127 + 1,  # numpy's generators have such states
        "float": 0.1,
        "minus_zero": -0.0,
        "list": [1, [2.5, {"deep": torch.ones(1)}], []],
        "empty": {},
        "$tensor": "a key, not a reference",
        "$float": {"$$x": 1},
        "a.b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "__metadata__": torch.ones(2),
    }
    save_checkpoint(tmp_path, state)
    loaded = load_checkpoint(tmp_path).state
    tensors = {key: loaded.pop(key) for key in ("a.b", "a", "__metadata__")}
    assert tensors["a.b"] == 0
    assert tensors["a"]["b"] == 1
    assert tensors["__metadata__"].tolist() == [1, 1]
    assert loaded["list"][1][1].pop("deep") == 1
    assert math.copysign(1, loaded["minus_zero"]) == -1
    expected = {key: value for key, value in state.items() if key in loaded}
    expected["list"] = [1, [2.5, {}], []]
    assert loaded == expected
    assert list(loaded) == list(expected)


def test_floats_json_lacks(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"x": [math.nan, math.inf, -math.inf]})
    nan, inf, minus_inf = load_checkpoint(tmp_path).state["x"]
    assert math.isnan(nan)
    assert (inf, minus_inf) == (math.inf, -math.inf)
    assert "NaN" not in (tmp_path / "manifest.json").read_text()


def test_numpy_comes_back_as_tensors_and_python_scalars(tmp_path: Path) -> None:
    arrays = {
        "f": np.arange(3, dtype=np.float32),
        "scalar": np.array(2.0),
        "bool": np.array([True]),
        "reversed": np.arange(4)[::-1],
        "u64": np.array([2**63], dtype=np.uint64),
    }
    scalars = {"i": np.int64(3), "f": np.float64("nan"), "b": np.bool_(True), "f32": np.float32(0.1)}
    save_checkpoint(tmp_path, {"arrays": arrays, "scalars": scalars, "tuple": (1, 2)})
    state = load_checkpoint(tmp_path).state
    for name, array in arrays.items():
        np.testing.assert_array_equal(state["arrays"][name].numpy(), array, strict=True)
    assert state["scalars"]["i"] == 3
    assert type(state["scalars"]["i"]) is int
    assert math.isnan(state["scalars"]["f"])
    assert state["scalars"]["b"] is True
    assert state["scalars"]["f32"] == float(np.float32(0.1))
    assert state["tuple"] == [1, 2]


def test_nothing_at_all(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, {"s": dict})
    loaded = load_checkpoint(tmp_path)
    assert (loaded.state, loaded.segments["s"]) == ({}, {})


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    save_checkpoint(tmp_path, {"a": whole, "b": whole, "c": whole[1:3]})
    state = load_checkpoint(tmp_path).state
    assert state["a"].tolist() == state["b"].tolist() == [0, 1, 2, 3]
    assert state["c"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": {"b": object()}}, r"state\.a\.b: a object can't be saved"),
        ({"a": [b"bytes"]}, r"state\.a\.0: a bytes"),
        ({"a": {1: 2}}, r"state\.a: the key 1 must be a string"),
        ({"a": np.array(["x"])}, r"state\.a: an array of <U1"),
        ({"a": torch.eye(2).to_sparse()}, r"state\.a: a tensor of torch.sparse_coo"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, r"state\.a: a tensor of .*complex128"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, state: dict[str, Any], words: str) -> None:
    save_checkpoint(tmp_path, STATE)
    with pytest.raises(TypeError, match=words):
        save_checkpoint(tmp_path, state)
    assert load_checkpoint(tmp_path).state["step"] == 7


class Crash(BaseException):
    """The process is gone: no further system call happens either."""


class Machine:
    """Counts the system calls of a save; from call `limit` on, each raises, or only that one."""

    def __init__(self, patch: pytest.MonkeyPatch, limit: int, error: BaseException, dead: bool) -> None:
        self.calls = 0
        targets = [(os, "fsync"), (os, "replace"), (os, "open"), (os, "unlink"), (builtins, "open")]
        for owner, name in targets:
            original = getattr(owner, name)

            def call(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
                self.calls += 1
                if self.calls == limit or (dead and self.calls > limit):
                    raise error
                return _original(*args, **kwargs)

            patch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("error", "dead"),
    [(Crash(), True), (OSError(28, "No space left on device"), False)],
    ids=["killed", "one call fails"],
)
def test_a_crash_at_any_step_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, dead: bool
) -> None:
    def segments(upto: int) -> dict[str, Callable[[], dict[str, torch.Tensor]]]:
        return {f"replay-{i}": lambda i=i: {"obs": torch.full((4,), float(i))} for i in range(upto)}

    outcomes = []
    for limit in range(1, 100):
        folder = tmp_path / str(limit)
        save_checkpoint(folder, {"step": 1, "x": torch.tensor(1.0)}, segments(2))
        with monkeypatch.context() as patch:
            machine = Machine(patch, limit, error, dead)
            failed = False
            try:
                save_checkpoint(folder, {"step": 2, "x": torch.tensor(2.0)}, segments(3))
            except type(error):
                failed = True
        loaded = load_checkpoint(folder)
        step = loaded.state["step"]
        assert loaded.state["x"] == step
        assert sorted(loaded.segments) == [f"replay-{i}" for i in range(step + 1)]
        assert all(loaded.segments[f"replay-{i}"]["obs"][0] == i for i in range(step + 1))
        outcomes.append((failed, step))
        # the next save succeeds, and clears what is left over
        save_checkpoint(folder, {"step": 3}, segments(1))
        assert load_checkpoint(folder).state == {"step": 3}
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [*manifest_of(folder)["files"], "manifest.json"]
        )
        if machine.calls < limit:
            break
    assert (True, 1) in outcomes
    assert (True, 2) in outcomes or not dead  # after the rename the new one counts
    assert outcomes[-1] == (False, 2)
    assert len(outcomes) > 8


def test_a_failed_write_gives_its_space_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, STATE)

    def full() -> dict[str, torch.Tensor]:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, STATE, {"a": lambda: {"x": torch.ones(3)}, "b": full})
    assert len(list(tmp_path.iterdir())) == 2


def test_segments_are_written_once(tmp_path: Path) -> None:
    def never() -> dict[str, torch.Tensor]:
        raise AssertionError("asked for a segment that is already there")

    save_checkpoint(tmp_path, STATE, {"a": lambda: {"x": torch.ones(3)}, "b": lambda: {"x": torch.zeros(3)}})
    file = data_file(tmp_path, "segment-a")
    before = file.stat()
    save_checkpoint(tmp_path, STATE, {"a": never, "c": lambda: {"x": torch.full((3,), 3.0)}})
    assert data_file(tmp_path, "segment-a") == file
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    loaded = load_checkpoint(tmp_path)
    assert list(loaded.segments) == ["a", "c"]
    assert len(loaded.segments) == 2
    assert loaded.segments["a"]["x"].tolist() == [1, 1, 1]
    assert not list(tmp_path.glob("segment-b*"))
    with pytest.raises(KeyError):
        loaded.segments["b"]


def test_the_longest_segment_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, STATE, {"x" * 100: lambda: {"x": torch.ones(3)}})
    assert load_checkpoint(tmp_path).segments["x" * 100]["x"].tolist() == [1, 1, 1]


def test_a_segment_that_was_lost_is_written_again(tmp_path: Path) -> None:
    for harm in (lambda path: path.unlink(), lambda path: path.write_bytes(b"short")):
        save_checkpoint(tmp_path, STATE, {"a": lambda: {"x": torch.ones(3)}})
        harm(data_file(tmp_path, "segment-a"))
        save_checkpoint(tmp_path, STATE, {"a": lambda: {"x": torch.ones(3)}})
        assert load_checkpoint(tmp_path).segments["a"]["x"].tolist() == [1, 1, 1]


def test_leftovers_go_and_other_files_stay(tmp_path: Path) -> None:
    leftovers = [tmp_path / f"state-{'0' * 16}.safetensors", tmp_path / f"segment-a.b-{'f' * 16}.safetensors"]
    foreign = [tmp_path / "notes.txt", tmp_path / "state-mine.safetensors"]
    for path in leftovers + foreign:
        path.write_bytes(b"x")
    save_checkpoint(tmp_path, STATE)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in foreign)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\nb", "a\0", "x" * 101, "ü"])
def test_a_segment_name_must_be_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="segment name"):
        save_checkpoint(tmp_path / "c", STATE, {name: dict})


def test_loading_while_another_process_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"step": 1, "x": torch.ones(1)})
    original, saves = module._read_manifest, []

    def read_then_saved(folder: Path, name: str) -> dict[str, Any]:
        manifest = original(folder, name)
        if len(saves) < 2:
            saves.append(None)
            with monkeypatch.context() as patch:
                patch.setattr(module, "_read_manifest", original)
                save_checkpoint(tmp_path, {"step": 1 + len(saves), "x": torch.ones(1)})
        return manifest

    monkeypatch.setattr(module, "_read_manifest", read_then_saved)
    assert load_checkpoint(tmp_path).state["step"] == 3


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """`keep` checkpoints stay loadable, newest first; they share segments, and nothing else is left."""
    for step in range(5):
        segments = {"shared": lambda: {"x": torch.ones(3)}, f"own-{step}": lambda step=step: {"x": torch.tensor(step)}}
        save_checkpoint(tmp_path, {"step": step, "t": torch.tensor(step)}, segments, keep=3)
    assert manifests(tmp_path) == ["manifest.json", "manifest-4.json", "manifest-3.json"]
    for name, step in zip(manifests(tmp_path), (4, 3, 2), strict=True):
        checkpoint = load_checkpoint(tmp_path, name)
        assert checkpoint.state == {"step": step, "t": torch.tensor(step)}
        assert checkpoint.segments[f"own-{step}"]["x"] == step
        assert checkpoint.segments["shared"]["x"].sum() == 3
    assert len(list(tmp_path.glob("segment-shared-*"))) == 1
    assert len(list(tmp_path.glob("*.safetensors"))) == 3 + 3 + 1
    (tmp_path / "manifest.json").write_text("{")
    save_checkpoint(tmp_path, {"step": 5}, keep=2)  # a damaged one isn't kept; numbers go on
    assert [load_checkpoint(tmp_path, name).state["step"] for name in manifests(tmp_path)] == [5, 3]
    save_checkpoint(tmp_path, {"step": 6})
    assert manifests(tmp_path) == ["manifest.json"]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_older_format_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"old": 1})

    def migrate(manifest: dict[str, Any]) -> dict[str, Any]:
        return {**manifest, "format": 2, "state": {"new": manifest["state"]["old"]}}

    monkeypatch.setattr(module, "FORMAT", 2)
    monkeypatch.setattr(module, "MIGRATIONS", {1: migrate})
    assert load_checkpoint(tmp_path).state == {"new": 1}


def test_weights_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "best" / "seed_0.safetensors"
    shared = torch.arange(3.0)
    tensors = {
        "w": shared,
        "tied": shared,
        "half": torch.ones(2, 2).bfloat16().t(),
        "e": torch.zeros(0),
        "s": torch.tensor(1),
    }
    save_weights(path, tensors, {"step": 5, "return": math.inf})
    save_weights(path, tensors, {"step": 6, "return": math.nan, "names": ["a"]})
    loaded, meta = load_weights(path)
    assert meta["step"] == 6
    assert math.isnan(meta["return"])
    assert meta["names"] == ["a"]
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert [entry.name for entry in path.parent.iterdir()] == ["seed_0.safetensors"]
    save_weights(path, {}, {})
    assert load_weights(path) == ({}, {})
    with pytest.raises(TypeError):
        save_weights(path, tensors, {"x": torch.ones(1)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="__metadata__"):
        save_weights(path, {"__metadata__": shared}, {})


def test_a_crash_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    for limit in range(1, 4):
        save_weights(path, {"x": torch.ones(1)}, {})
        with monkeypatch.context() as patch:
            Machine(patch, limit, Crash(), dead=True)
            with pytest.raises(Crash):
                save_weights(path, {"x": torch.zeros(1)}, {})
        assert load_weights(path)[0]["x"] == 1
