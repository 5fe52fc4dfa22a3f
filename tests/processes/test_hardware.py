"""What `auto` resolves to, and the compiler's shortcut around dynamo's dispatch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from deeprl_cli.config.compose import load_config
from deeprl_cli.processes import cores, hardware
from deeprl_cli.processes.hardware import GraphCompiler, Workload, layout, resolve

AUTO = load_config().hardware
SMALL, LARGE = Workload(1e6, 1_000, 1), Workload(500e6, 20_000, 1)


def test_small_and_short_runs_stay_eager_on_one_thread() -> None:
    resolved = resolve(AUTO, SMALL)
    assert (resolved.device, resolved.threads, resolved.compile) == ("cpu", 1, False)
    assert resolved.matmul_precision == "highest"
    assert resolved.notes == (
        "1 thread: an update, 1.0 MFLOP, is too small to be shared",
        "eager: compiling would take longer (about 12 s) than it would save (about 2 s)",
    )


def test_large_and_long_runs_use_all_cores_and_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_cores", lambda: 6)
    monkeypatch.setattr(hardware, "find_compiler", lambda: "g++")
    resolved = resolve(AUTO, LARGE)
    assert (resolved.threads, resolved.compile, resolved.matmul_precision) == (6, True, "highest")
    assert resolved.notes == (
        "6 threads: an update, 500.0 MFLOP, is large enough to be shared",
        "compiled: that saves about 130 s, and compiling takes about 12 s once",
    )
    monkeypatch.setattr(hardware, "available_cores", lambda: 1)
    assert resolve(AUTO, LARGE).notes[0] == "1 thread: this process has one core"


def test_auto_sees_the_cores_that_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of a sweep has a share of them; never more than there are."""
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(12), raising=False)
    for share, expected in (("3", 3), ("99", 8), ("0", 8), ("many", 8)):
        monkeypatch.setenv(cores.SHARE, share)
        assert resolve(AUTO, LARGE).threads == expected


def test_without_a_compiler_it_runs_eagerly_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_compiler", lambda: None)
    resolved = resolve(dataclasses.replace(AUTO, compile=True), LARGE)
    assert not resolved.compile
    assert resolved.notes[1:] == (
        "eager: there is no C++ compiler here to compile with (g++ or clang++; CXX names one)",
    )
    assert resolve(AUTO, LARGE).notes == resolved.notes  # and not that compiling saves time


def test_a_run_whose_graphs_are_here_compiles_when_loading_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """PPO on CartPole for 20k steps saves less than compiling takes, and more than loading does."""
    monkeypatch.setattr(hardware, "find_compiler", lambda: "g++")
    short = Workload(1e6, 1_560, 1, 2_500)
    asked: list[tuple[int, str, int]] = []
    assert hardware.LOAD_SECONDS < short.compiling_saves < hardware.COMPILE_SECONDS
    assert not resolve(AUTO, short).compile
    assert resolve(AUTO, short, lambda *key: asked.append(key) or True).compile
    assert asked == [(1, "highest", 1)]
    assert not resolve(AUTO, Workload(1e6, 100, 1, 100), lambda *key: True).compile
    assert not resolve(dataclasses.replace(AUTO, compile=False), LARGE, lambda *key: True).compile


def test_large_members_learn_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there are graphs, and never more threads than members."""
    monkeypatch.setattr(hardware, "available_cores", lambda: 6)
    monkeypatch.setattr(hardware, "find_compiler", lambda: "g++")
    asked: list[tuple[int, str, int]] = []
    large, small = Workload(4 * 150e6, 20_000, 4), Workload(4 * 50e6, 20_000, 4)
    resolved = resolve(AUTO, large, lambda *key: asked.append(key) or False, divisible=True)
    assert (resolved.threads, resolved.parts, resolved.compile) == (4, 4, True)
    assert resolved.notes[0] == "4 threads: each seed learns on one, side by side"
    assert asked == [(1, "highest", 4)]
    assert resolve(dataclasses.replace(AUTO, threads=3), large, divisible=True).threads == 3
    for config, workload, divisible in (
        (AUTO, large, False),
        (AUTO, small, True),
        (dataclasses.replace(AUTO, compile=False), large, True),
    ):
        undivided = resolve(config, workload, divisible=divisible)
        assert (undivided.threads, undivided.parts) == (6, 1)
    hardware.apply(resolved)
    assert torch.get_num_threads() == 1  # each part's
    assert hardware.recorded(resolved.resolved()) == dataclasses.replace(resolved, notes=())
    before = {key: value for key, value in resolved.resolved().items() if key != "parts"}
    assert hardware.recorded(before).parts == 1  # a run of before


def test_what_is_asked_for_is_taken() -> None:
    asked = dataclasses.replace(AUTO, threads=3, compile=False, matmul_precision="high")
    resolved = resolve(asked, LARGE)
    assert (resolved.threads, resolved.compile, resolved.matmul_precision) == (3, False, "high")
    assert resolved.notes == ()


class Counter(nn.Module):
    total: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def step(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            self.total.add_(x.sum())
        return {"total": self.total.clone()}


def test_compiled_calls_keep_state_and_follow_a_new_layout() -> None:
    """The guardless shortcut serves one layout of the inputs; another goes back to dynamo and is right as well."""
    announced: list[str | None] = []
    first, second = Counter(), Counter()
    compiler = GraphCompiler(announced.append, backend="aot_eager")
    step, other = compiler("step", first.step), compiler("step", second.step)
    for _ in range(3):
        assert step(torch.ones(4))["total"].item() == first.total.item()
    assert first.total.item() == 12
    assert other(torch.ones(4))["total"].item() == 4  # another object's graph moves its own state
    step(torch.ones(7))
    step(torch.ones(2, 2).t()[:, :1])
    step(torch.ones(4))
    assert first.total.item() == 12 + 7 + 2 + 4
    assert second.total.item() == 4
    assert sum(word == "compiling step" for word in announced) >= 2
    assert compiler.seconds > 0


def test_a_layout_tells_shapes_strides_and_types_apart() -> None:
    x = torch.ones(2, 2)
    same, turned, typed = layout((x, {"a": x})), layout((x.t(), {"a": x})), layout((x, {"a": x.long()}))
    assert same == layout((x.clone(), {"a": x.clone()}))
    assert len({same, turned, typed}) == 3
