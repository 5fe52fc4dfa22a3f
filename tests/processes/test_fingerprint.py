"""What a stored graph is found by: another text for whatever could change the code, the same for what can't."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.processes import fingerprint, ranks
from deeprl_cli.processes.fingerprint import UnknownValueError, of_arguments, of_module
from deeprl_cli.processes.graph_store import of_method_owner
from deeprl_cli.schema.members import is_number, own_values, with_values
from tests.contract.harness import ALGORITHMS, Learner, make_algorithm


def key(algorithm: nn.Module) -> str:
    return of_method_owner(algorithm, fingerprint.of_switches())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_can_be_written_down_and_its_seeds_do_not_count(name: str) -> None:
    first, same, third = (make_algorithm(name, seeds=seeds) for seeds in ([0, 1], [7, 8], [0, 1, 2]))
    assert key(first) == key(same)
    assert key(first) != key(third)
    before = key(first)
    first.compile_graphs(lambda name, method: lambda *args: method(*args))
    first.set_progress(10, 100)
    assert key(first) == before, "what the graphs are replaced by isn't in their key, nor is how far the run is"
    alone = make_algorithm(name, seeds=[0])
    before = key(alone)
    learner = Learner(alone)
    with torch.no_grad():
        alone.act_eagerly(learner.obs(), None)
    assert key(alone) == before, "what it keeps to act faster isn't, either: it has addresses in it"
    for _ in range(3):
        learner.learn()
    alone.set_progress(90, 100)
    assert key(alone) == before, "a run that goes on finds the graphs it began with"


def another(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield value + 1
    elif isinstance(value, str):
        yield f"{value}x"
    elif isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value):
        yield type(value)((*value, 9))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_numbers_that_members_may_have_of_their_own_do_not_count(name: str) -> None:
    """They are inputs: a sweep over learning rates compiles once. None is no number, and another graph."""

    def with_config(config: Any) -> str:
        algorithm.config = config
        if hasattr(algorithm, "exploration"):
            algorithm.exploration.config = config.exploration
        return key(algorithm)

    algorithm = make_algorithm(name)
    config, before = algorithm.config, key(algorithm)
    numbers = {at: value for at, value in own_values(config).items() if is_number(value)}
    assert {"gamma", *(at for at in ("lr", "lr_actor") if hasattr(config, at))} <= numbers.keys() | {"gamma"}
    assert with_config(with_values(config, {at: value + 1 for at, value in numbers.items()})) == before
    for at in numbers:
        assert isinstance(getattr(algorithm.hp, at.replace(".", "_")), torch.Tensor)
        assert with_config(with_values(config, {at: None})) != before, at


def test_all_numbers_of_a_plug_in_count() -> None:
    """Its code may read them from the configuration, where they would be constants."""

    class Mine(get_algorithm("ppo")):
        pass

    algorithm = make_algorithm("ppo")
    algorithm.__class__, before = Mine, ""
    before = key(algorithm)
    algorithm.config = dataclasses.replace(algorithm.config, gamma=0.5)
    assert key(algorithm) != before


@pytest.mark.parametrize("name", ["ppo", "sac", "dqn"])
def test_every_other_option_counts(name: str) -> None:
    """Each field of the configuration changed, one at a time, behind the algorithm's back."""
    algorithm = make_algorithm(name)
    keys, fields = {key(algorithm)}, 0
    config = algorithm.config
    for field in dataclasses.fields(config):
        if field.name in own_values(config) and is_number(getattr(config, field.name)):
            continue
        for value in another(getattr(config, field.name)):
            algorithm.config = dataclasses.replace(config)
            object.__setattr__(algorithm.config, field.name, value)
            keys.add(key(algorithm))
            fields += 1
    assert fields > 10
    assert len(keys) == fields + 1


def test_networks_spaces_and_layouts_count() -> None:
    plain = make_algorithm("ppo")
    others = [
        make_algorithm("ppo", options=["algo.hidden=[7]"]),
        make_algorithm("ppo", options=["algo.activation=relu"]),
        make_algorithm("ppo", action="Box"),
        make_algorithm("a2c"),
        make_algorithm("ppo").double(),
    ]
    assert len({key(algorithm) for algorithm in (plain, *others)}) == len(others) + 1


def test_the_bounds_of_actions_count() -> None:
    first, second = make_algorithm("sac"), make_algorithm("sac")
    low, high = second.spec.action_space.low, second.spec.action_space.high
    second.spec = dataclasses.replace(second.spec, action_space=type(second.spec.action_space)(low, high * 3))
    assert key(first) != key(second)


def test_this_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch, the processor, the compiler, our own source, threads, precision, ranks."""

    def place() -> str:
        fingerprint.of_this_place.cache_clear()
        return f"{fingerprint.of_this_place()} {fingerprint.of_switches()}"

    found = {place()}
    changes: list[tuple[Any, str, Any]] = [
        (torch, "__version__", "9.9.9"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "AVX1024"),
        (sys, "version", "3.99"),
        (fingerprint, "_processor", lambda: "another"),
        (fingerprint, "source_of", lambda place: "another"),
        (fingerprint.metadata, "version", lambda name: "0"),
        (torch, "get_num_threads", lambda: 77),
        (torch, "get_float32_matmul_precision", lambda: "medium"),
        (ranks, "size", lambda: 5),
    ]
    for owner, name, value in changes:
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            found.add(place())
    for name in ("CXX", "TORCHINDUCTOR_FREEZING"):
        with monkeypatch.context() as changed:
            changed.setenv(name, "something")
            found.add(place())
    fingerprint.of_this_place.cache_clear()
    assert len(found) == len(changes) + 3


def test_layouts_and_structure_of_arguments() -> None:
    x = torch.ones(2, 3)
    assert of_arguments((x, None)) == of_arguments((x * 5, None)), "what tensors hold doesn't count"
    texts = {
        of_arguments(arguments)
        for arguments in (
            (x,),
            (x.t(),),
            (x.double(),),
            (x[:1],),
            (x.clone().requires_grad_(),),
            ({"a": x},),
            (x, None),
        )
    }
    assert len(texts) == 7


class Scaled(nn.Module):
    def __init__(self, thing: object) -> None:
        super().__init__()
        self.thing = thing


def test_the_source_of_a_plug_in_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    keys = set()
    for factor in (2, 3):
        (tmp_path / "my_plugin.py").write_text(f"class Thing:\n    def scaled(self, x):\n        return {factor} * x\n")
        sys.modules.pop("my_plugin", None)
        fingerprint.source_of.cache_clear()
        import my_plugin

        keys.add(of_module(Scaled(my_plugin.Thing())))
    sys.modules.pop("my_plugin", None)
    assert len(keys) == 2


def test_plain_values_and_arrays_count_and_what_is_unknown_is_refused() -> None:
    things: list[object] = [
        1,
        1.0,
        True,
        "1",
        None,
        (1,),
        [1],
        {"a": 1},
        {1},
        np.float32(1),
        np.ones(2),
        np.zeros(2),
        abs,
    ]
    assert len({of_module(Scaled(thing)) for thing in things}) == len(things)
    for unknown in (np.random.default_rng(0), iter([1]), sys, torch.nn.functional):
        with pytest.raises(UnknownValueError):
            of_module(Scaled(unknown))


def test_an_object_that_holds_itself() -> None:
    module = Scaled([1])
    module.thing.append(module)
    assert "is self" in of_module(module)
