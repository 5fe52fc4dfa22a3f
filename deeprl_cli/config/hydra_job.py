"""Hydra's own interpolations in the values of a run: `run_dir=runs/${hydra:job.num}`, `${now:%Y-%m-%d}`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

_NOTHING = object()


@contextmanager
def as_job(config: DictConfig, number: int = 0) -> Iterator[Any]:
    """Take the part `hydra` out of a composed `config`, and yield it. Inside the context, values still find it.

    `number`: of the job in its sweep, from 0. Hydra's own `${hydra:…}` gives None for an unknown key, and may read what
    the caller's own program has left there. This one refuses unknown keys, and reads only this part.
    """
    with open_dict(config):
        config.hydra.job.num = number
        hydra = config.hydra
        del config["hydra"]

    def lookup(path: str) -> Any:
        value = OmegaConf.select(hydra, path, default=_NOTHING)
        if value is _NOTHING:
            raise ValueError(f"Hydra has no {path}")
        return value

    OmegaConf.register_new_resolver("hydra", lookup, replace=True)
    try:
        yield hydra
    finally:
        setup_globals()  # Hydra's own again
