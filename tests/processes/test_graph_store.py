"""Graphs that outlive the process: found again, equal to fresh ones, and trusted only where nobody else writes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deeprl_cli.processes import graph_store, hardware, shared_object
from deeprl_cli.processes.graph_store import GraphStore, why_not
from deeprl_cli.processes.hardware import GraphCompiler
from deeprl_cli.processes.shared_object import NotPlainError


def compiles(test):
    """For tests of a graph that is really compiled."""
    needs = pytest.mark.skipif(hardware.find_compiler() is None, reason="needs a C++ compiler")
    return pytest.mark.slow(needs(test))


class Walker(nn.Module):
    """Moves its weight by a gradient that is taken inside of the graph, as an algorithm's step does."""

    graphs = ("step",)

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.weight, self.rate = nn.Parameter(torch.ones(3)), rate

    def step(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = ((self.weight * x).sum() - 1.0) ** 2
        (gradient,) = torch.autograd.grad(loss, [self.weight])
        with torch.no_grad():
            self.weight.sub_(self.rate * gradient)
        return {"loss": loss.detach()}


class Compiled:
    """A compiled step of a fresh Walker, and what was said about it."""

    def __init__(self, walker: Walker) -> None:
        self.walker, self.announced, self.said = walker, [], []
        self.compiler = GraphCompiler(self.announced.append, say=self.said.append)
        self.step = self.compiler("step", walker.step)

    @property
    def done(self) -> list[str]:
        return [word.split()[0] for word in self.announced if word]


@pytest.fixture(scope="module")
def cache_once(tmp_path_factory) -> Path:
    """A cache folder of this module's own, with the graph of a Walker in it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder))
        first = Compiled(Walker())
        first.step(torch.arange(3.0))
        assert first.done == ["compiling"]
        assert first.said == []
    return folder


@pytest.fixture
def cache(cache_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_once))
    return cache_once


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("deeprl/graphs/*/*.graph"))


@compiles
def test_a_stored_graph_is_loaded_and_computes_what_eager_does(cache: Path) -> None:
    eager, loaded = Walker(), Compiled(Walker())
    for seed in range(3):
        x = torch.randn(3, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(loaded.step(x), eager.step(x))
        torch.testing.assert_close(loaded.walker.weight, eager.weight)
    assert loaded.done == ["loading"]
    assert loaded.said == []
    assert loaded.compiler.seconds > 0
    (file,) = stored(cache)
    assert file.stat().st_mode & 0o077 == 0
    assert (cache / "deeprl" / "graphs").stat().st_mode & 0o077 == 0


@compiles
def test_what_is_held_is_known_before_anything_is_called(cache: Path) -> None:
    store = GraphStore(cache / "deeprl" / "graphs", pytest.fail)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    assert store.holds(Walker(), ["step"], threads, precision)
    assert not store.holds(Walker(), ["step", "act"], threads, precision)
    assert not store.holds(Walker(0.2), ["step"], threads, precision)
    assert not store.holds(Walker(), ["step"], threads + 1, precision)
    assert not store.holds(Walker(), ["step"], threads, precision, processes=2)
    parts = {1: Walker(), 4: Walker(), 5: Walker(0.2)}
    stored = hardware.stored_graphs(Walker(), ["step"], 1, parts.__getitem__)
    assert stored(threads, precision, 1)
    assert stored(threads, precision, 4)  # a part has its own graphs
    assert not stored(threads, precision, 5)
    assert not hardware.stored_graphs(Walker(), ["step", "act"], 1, parts.__getitem__)(threads, precision, 4)
    assert not hardware.stored_graphs(Walker(0.2), ["step"], 1, parts.__getitem__)(threads, precision, 1)


@compiles
def test_a_graph_is_loaded_without_the_compiler(cache: Path) -> None:
    """Importing dynamo and inductor takes longer than many trainings. In a process of its own: here they may be in."""
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from test_graph_store import Compiled, Walker\n"
        "torch.set_num_threads(int(sys.argv[2])); loaded = Compiled(Walker()); loaded.step(torch.arange(3.0))\n"
        "heavy = [name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules]\n"
        "print(loaded.done, loaded.said, heavy, loaded.walker.weight.tolist())"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(torch.get_num_threads())]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    eager = Walker()
    eager.step(torch.arange(3.0))
    assert said.stdout.strip() == f"['loading'] [] [] {eager.weight.tolist()}"


@compiles
def test_what_cannot_be_taken_apart_is_kept_torchs_way(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(made: object) -> bytes:
        raise NotPlainError("it has tokens")

    (file,) = stored(cache)
    whole = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(graph_store, "taken_apart", refused)
    try:
        first, eager = Compiled(Walker()), Walker()
        first.step(torch.arange(3.0))
        assert graph_store._read(file)[:1] == graph_store.TORCHS
        second = Compiled(Walker())
        torch.testing.assert_close(second.step(torch.arange(3.0)), eager.step(torch.arange(3.0)))
        assert (first.done, second.done, second.said) == (["compiling"], ["loading"], [])
    finally:
        file.write_bytes(whole)
        file.chmod(0o600)


def test_what_torch_does_around_a_graph_is_not_left_out() -> None:
    """Each of these would be lost if only the library were kept."""

    def entry(**changes: object) -> SimpleNamespace:
        result = SimpleNamespace(
            constants={},
            torchbind_constants={},
            frozen_param_names={},
            inputs_to_check=[],
            device_types={"cpu"},
            source_code="cpp_wrapper_src = …",
        )
        data = SimpleNamespace(
            num_mutated_inp_runtime_indices=0,
            grad_enabled_mutation=None,
            tokens={},
            num_graphsafe_rng_states=0,
            output_info=[SimpleNamespace(output_type=SimpleNamespace(name="non_alias"))],
        )
        whole = SimpleNamespace(compiled_bw=None, maybe_subclass_meta=None)
        for name, value in changes.items():
            owner = next(part for part in (whole, data, result) if hasattr(part, name))
            setattr(owner, name, value)
        whole.runtime_metadata, whole.compiled_fw = data, SimpleNamespace(result=result)
        return whole

    shared_object._check(entry())
    other = [SimpleNamespace(output_type=SimpleNamespace(name="alias_of_intermediate"))]
    for name, value in [
        ("compiled_bw", object()),
        ("maybe_subclass_meta", object()),
        ("num_mutated_inp_runtime_indices", 1),
        ("grad_enabled_mutation", False),
        ("tokens", {"t": 1}),
        ("num_graphsafe_rng_states", 1),
        ("output_info", other),
        ("constants", {"c": 1}),
        ("torchbind_constants", {"c": 1}),
        ("frozen_param_names", {"c": 1}),
        ("inputs_to_check", [0]),
        ("device_types", {"cpu", "cuda"}),
        ("source_code", "cpp_wrapper_src = custom_op_wrapper"),
        ("source_code", "async_compile.cpp_pybinding"),
    ]:
        with pytest.raises(NotPlainError):
            shared_object._check(entry(**{name: value}))


@compiles
@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "not torch's", "not ours"])
def test_a_damaged_graph_is_said_and_compiled_anew(cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = stored(cache)
    whole = file.read_bytes()
    if damage == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        monkeypatch.setattr(graph_store, "why_not", lambda folder: "")
    else:
        payload = graph_store.APART if damage == "not ours" else graph_store.TORCHS
        payload += b"not a pickle"
        other = graph_store.MAGIC + hashlib.sha256(payload).digest() + payload
        file.write_bytes(
            {"cut": whole[:-9], "changed": whole[:-1] + b"!", "not torch's": other, "not ours": other}[damage]
        )
    again = Compiled(Walker())
    monkeypatch.setattr(again.compiler, "_compile", lambda name, method: pytest.skip("it would be compiled"))
    try:
        with pytest.raises(pytest.skip.Exception, match="it would be compiled"):
            again.step(torch.arange(3.0))
    finally:
        file.write_bytes(whole)
        file.chmod(0o600)
    assert again.done == ["loading", "compiling"]
    assert "compiled anew" in again.said[0]


def test_only_a_folder_of_the_users_own_is_trusted(tmp_path: Path) -> None:
    assert why_not(tmp_path / "new" / "graphs") == ""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    assert "open to other users" in why_not(tmp_path / "open")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    assert "is a link" in why_not(tmp_path / "link")
    (tmp_path / "file").write_text("")
    assert why_not(tmp_path / "file") != ""
    said: list[str] = []
    store = GraphStore(tmp_path / "open", said.append)
    assert store.place("step", Walker().step, (torch.ones(3),)) is None
    assert len(said) == 1


def test_what_another_user_could_have_written_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "graphs"
    assert why_not(folder) == ""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in why_not(folder)


def test_the_least_used_go_when_there_are_too_many(tmp_path: Path) -> None:
    store = GraphStore(tmp_path / "graphs", pytest.fail)
    (store.folder / "key").mkdir()
    files = [store.folder / "key" / f"{number}.graph" for number in range(4)]
    for age, file in enumerate(files):
        file.write_bytes(b"x" * 100)
        os.utime(file, (time.time() - age, time.time() - age))
    store.shrink(250)
    assert [file.exists() for file in files] == [True, True, False, False]
