"""A compiled graph as what is left of it at the end: a shared object, and the code that gathers its arguments.

Torch's own way to load a graph imports its tracer and its compiler, which takes longer than many trainings. What they
have made needs neither: dynamo's code, which takes tensors from a module and hands them on, and the library that
inductor's C++ was compiled to. Graphs that need more of the two than that are kept torch's way.
"""

from __future__ import annotations

import builtins
import dis
import importlib
import importlib.util
import marshal
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ENTRY = "inductor_entry_cpp"  # as inductor names the function, and the module, in each library
TENSOR_DATA = "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"  # in the environment: where a library finds torch's accessor
# Dynamo's code calls these two around the gathering of arguments, for a profiler.
UNPROFILED = SimpleNamespace(record_pregraph_bytecode_enter=lambda: None, record_pregraph_bytecode_exit=lambda at: None)


class NotPlainError(Exception):
    """A graph is more than a library and the code before it."""


def taken_apart(made: Any) -> bytes:
    """What `put_together` takes, of what `aot_compile` made. Raises NotPlainError, and whatever torch raises, whose
    affair the parts are."""
    environment = made._artifacts.runtime_env
    entry = made._artifacts.compiled_fn.compiled_fn.serialize()
    _check(entry)
    graph = made._artifacts.backend_id
    names = {i.argval for i in dis.get_instructions(environment.bytecode) if i.opname == "LOAD_GLOBAL"}
    profiler, modules = [], {}
    for name in names - {graph}:
        module = environment.import_sources.get(name)
        if module == "torch._dynamo.utils":
            profiler.append(name)
        elif module is not None and not module.startswith("torch._"):
            modules[name] = module
        elif not hasattr(builtins, name):
            raise NotPlainError(f"its code reads {name}")
    if environment.closure or environment.argdefs or environment.kwdefaults:
        raise NotPlainError("its function has a closure or defaults")
    library = Path(_module(entry.compiled_fw.result.cache_key).__file__).read_bytes()
    code, objects = environment.bytecode, {}  # classes and functions among its constants: marshal has no word for them
    for at, constant in enumerate(code.co_consts):
        try:
            marshal.dumps(constant)
        except ValueError:
            objects[at] = constant
    plain = code.replace(co_consts=tuple(None if at in objects else c for at, c in enumerate(code.co_consts)))
    return pickle.dumps((marshal.dumps(plain), objects, graph, profiler, modules, library))


def put_together(payload: bytes, scope: dict[str, Any], folder: Path) -> FunctionType:
    """The function that `taken_apart` was given, in the globals `scope`. The library passes through `folder`.

    Raises OSError where it can't be written there, ImportError where it can't be loaded, and anything where the payload
    is something else.
    """
    plain, objects, graph, profiler, modules, library = pickle.loads(payload)
    code: CodeType = marshal.loads(plain)
    code = code.replace(co_consts=tuple(objects.get(at, c) for at, c in enumerate(code.co_consts)))
    found = {name: importlib.import_module(module) for name, module in modules.items()}
    known = {**scope, **found, **dict.fromkeys(profiler, UNPROFILED), graph: _calling(_loaded(library, folder))}
    return FunctionType(code, known)


def _check(entry: Any) -> None:
    """Raise NotPlainError where torch does more around the library than to hand tensors in and out."""
    data, forward = entry.runtime_metadata, entry.compiled_fw.result
    kinds = {output.output_type.name for output in data.output_info}
    unusual = {
        "a backward pass of its own": entry.compiled_bw is not None,
        "tensors of a subclass": entry.maybe_subclass_meta is not None,
        "inputs that are changed outside of it": data.num_mutated_inp_runtime_indices > 0,
        "a change of gradient mode": data.grad_enabled_mutation is not None,
        "tokens": bool(data.tokens),
        "random state": data.num_graphsafe_rng_states > 0,
        f"outputs that are {', '.join(sorted(kinds))}": not kinds <= {"non_alias", "alias_of_input", "is_input"},
        "constants": bool(forward.constants or forward.torchbind_constants or forward.frozen_param_names),
        "inputs to be aligned": bool(forward.inputs_to_check),
        f"devices {', '.join(forward.device_types)}": set(forward.device_types) != {"cpu"},
        "calls of Python": "custom_op_wrapper" in forward.source_code or "cpp_wrapper_src" not in forward.source_code,
    }
    if found := [what for what, has in unusual.items() if has]:
        raise NotPlainError(f"it has {found[0]}")


def _module(key: str) -> Any:
    """The library of inductor's generated module `key`, as Python has it."""
    for module in list(sys.modules.values()):
        if key in getattr(module, "__name__", "") and (entry := getattr(module, "inductor_entry", None)):
            return entry.__self__
    raise NotPlainError("its library isn't found")


def _loaded(library: bytes, folder: Path) -> Callable[..., Any]:
    """The entry of a library. Its file is needed only until it is loaded."""
    os.environ[TENSOR_DATA] = str(torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place, f"{ENTRY}.so")
        path.write_bytes(library)
        spec = importlib.util.spec_from_file_location(ENTRY, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    entry: Callable[..., Any] = getattr(module, ENTRY)
    return entry


def _calling(entry: Callable[..., Any]) -> Callable[..., list[Tensor]]:
    """`entry`, which takes and gives handles, as a function of tensors, without gradients: it has its own inside."""
    handles_of, tensors_of = (
        torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors,
        torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs,
    )

    def graph(*inputs: Tensor) -> list[Tensor]:
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            outputs: list[Tensor] = tensors_of(entry(handles_of(list(inputs))))
        finally:
            torch._C._set_grad_enabled(before)
        return outputs

    return graph
