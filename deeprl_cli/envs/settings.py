"""Settings of torch that hold for the whole process, and that a run's numbers depend on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def settings_kept() -> Iterator[Callable[[], str]]:
    """They are in the end what they were. Hands over a function that says which of them, up to now, somebody has set to
    what networks can't be trained with; "" for none. Torch isn't loaded for this: if it isn't yet, it starts with
    float32, with gradients, and with threads of its own choice."""
    torch = sys.modules.get("torch")
    kind = None if torch is None else torch.get_default_dtype()
    gradients = True if torch is None else torch.is_grad_enabled()
    threads = None if torch is None else torch.get_num_threads()

    def changed() -> str:
        if (torch := sys.modules.get("torch")) is None:
            return ""
        if torch.get_default_dtype() != (kind or torch.float32):
            return f"torch.set_default_dtype({torch.get_default_dtype()})"
        return "" if torch.is_grad_enabled() == gradients else f"torch.set_grad_enabled({torch.is_grad_enabled()})"

    try:
        yield changed
    finally:
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_default_dtype(kind or torch.float32)
            torch.set_grad_enabled(gradients)
            if threads is not None and torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
