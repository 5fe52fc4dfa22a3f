"""What the documents show of Python does what they say: docs/python.md as doctests, README's snippet, the notebook."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("one_onnx_registry")
def test_python_md(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "python.md"),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert tried > 25
    assert not failed


@pytest.mark.usefixtures("one_onnx_registry")
def test_the_snippet_of_the_readme(tmp_path, monkeypatch):
    """As it stands, but for how long it trains and plays."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippet.strip().replace("\n\n", "\n").splitlines()) == 5
    quick = snippet.replace('CartPole-v1"', 'CartPole-v1 hardware.compile=false eval.final_episodes=1"')
    quick = quick.replace("20_000", "256").replace("episodes=100", "episodes=2")
    assert quick.count("256") == quick.count("episodes=2") == 1
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(quick, "README.md", "exec"), names)
    assert names["action"] in (0, 1)
    assert (tmp_path / "policy.onnx").is_file()


@pytest.mark.slow  # a kernel of its own, which imports torch
def test_the_notebook(tmp_path):
    """docs/tour.ipynb, from the first cell to the last."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    written = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    executed = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert executed == list(range(1, len(written) + 1))
    assert (tmp_path / "policy.onnx").is_file()
