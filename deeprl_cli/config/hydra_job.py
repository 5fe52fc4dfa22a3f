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
    """Take `hydra` out of a composed `config`, whose values find it all the same for as long as this lasts; that part.

    `number` is the job's in its sweep, from 0. Hydra's own `${hydra:…}` makes None of a key that there isn't, and asks
    for what a program of the caller's has left there; this one refuses, and asks that part.
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
