"""Settings of torch that hold for the whole process, and that a run's numbers depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def settings_kept() -> Iterator[Callable[[], str]]:
    """They are in the end what they were. Hands over a function that says which of them, up to now, somebody has set to
    what networks can't be trained with; "" for none."""
    threads, kind, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()

    def changed() -> str:
        if torch.get_default_dtype() != kind:
            return f"torch.set_default_dtype({torch.get_default_dtype()})"
        return "" if torch.is_grad_enabled() == gradients else f"torch.set_grad_enabled({torch.is_grad_enabled()})"

    try:
        yield changed
    finally:
        torch.set_default_dtype(kind)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
