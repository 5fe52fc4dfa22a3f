"""Compiled graphs of a run that was killed while it compiled: gone before the next one would load them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from deeprl_cli.processes import compile_cache
from deeprl_cli.processes.compile_cache import remove_half_made
from deeprl_cli.processes.hardware import GraphCompiler

KEY = "cejpqwzcrjra5x6gie6imc4mhj"


def build(folder: Path, name: str, suffix: str, *, cut_short: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}{suffix}"
    made.write_bytes(b"" if cut_short else b"\x7fELF")
    if cut_short:
        (folder / f"{name}_CxxBuild").mkdir()
        (folder / f"{name}_CxxBuild" / "piece.o").write_bytes(b"x")
    return made


@pytest.fixture
def headers(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(compile_cache, "_headers", lambda: tmp_path / "headers")
    return tmp_path / "headers"


def test_what_was_cut_short_goes_and_the_rest_stays(tmp_path, headers):
    cache = tmp_path / "cache"
    whole = build(cache / "ab", "cabc.main", ".so", cut_short=False)
    source = cache / "ej" / f"{KEY}.main.cpp"
    broken = build(cache / "ej", f"{KEY}.main", ".so", cut_short=True)
    source.write_text("int main() {}")
    header = build(headers, "cxyz.h", ".gch", cut_short=True)
    assert set(remove_half_made(cache)) == {broken, header}
    assert not list(tmp_path.rglob("*_CxxBuild"))
    assert whole.exists()
    assert source.exists()
    assert remove_half_made(cache) == []
    assert remove_half_made(tmp_path / "none") == []


def test_what_another_process_builds_is_left_alone(tmp_path, headers):
    """It holds inductor's lock, as torch takes it."""
    broken = build(tmp_path / "ej", f"{KEY}.main", ".so", cut_short=True)
    (tmp_path / "locks").mkdir()
    code = "import sys, time; from torch.utils._filelock import FileLock\n"
    code += "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "locks" / f"{KEY}.lock")], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert remove_half_made(tmp_path) == []
        assert broken.exists()
    finally:
        holder.kill()
        holder.wait()
    assert remove_half_made(tmp_path) == [broken]


def test_inductor_builds_as_is_assumed_here():
    """Its names of folders and locks are no promise: a new torch may need new ones here."""
    import inspect

    from torch._inductor import codecache, cpp_builder

    assert f"_{cpp_builder._BUILD_TEMP_DIR}" == compile_cache.BUILDING
    assert "_BUILD_TEMP_DIR" in inspect.getsource(cpp_builder.CppBuilder.build)
    assert 'os.path.join(get_lock_dir(), key + ".lock")' in inspect.getsource(codecache.CppCodeCache)
    assert str(compile_cache._headers()) == codecache._HEADER_DIR


def test_before_anything_is_compiled_what_was_cut_short_goes(tmp_path, headers, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    broken = build(tmp_path / "ej", f"{KEY}.main", ".so", cut_short=True)
    compiler = GraphCompiler(lambda name: None)
    assert broken.exists()  # it is inductor that says where: not imported where graphs are only loaded
    compiler._compile("looked", nn.Linear(2, 2).forward)
    assert not broken.exists()
