"""For all tests."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from functools import cache

import pytest


@pytest.fixture(autouse=True, scope="session")
def _nobody_pulls_the_plug():
    """Files need not reach the disk: processes are killed here, machines are not. What is written, and in which order,
    stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """`whole_run(name)`: the folder of `short_run(name, …, *whole_run.options)`, and what was said.

    Trained once, for all tests that hold another run against it; they only read it.
    """
    from deeprl_cli.training.run import train
    from tests.contract.harness import short_run

    @cache
    def made(name):
        said = io.StringIO()
        with redirect_stdout(said):
            run = train(short_run(name, tmp_path_factory.mktemp(f"whole_{name}") / "run", *made.options))
        return run, said.getvalue()

    made.options = ["seeds=2", "checkpoint.every=50"]
    return made


@pytest.fixture(scope="session")
def one_onnx_registry():
    """torch looks all of ONNX's operators up again for each export, which takes three times as long as the rest."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    pytest.importorskip("onnxscript")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            registration.ONNXRegistry, "from_torchlib", staticmethod(cache(registration.ONNXRegistry.from_torchlib))
        )
        yield
