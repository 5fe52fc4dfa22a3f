"""Asks Hydra to compose a list of overrides. The groups are composed once, as long as no file changes.

Hydra takes a tenth of a second for the files of `algo=ppo env=CartPole-v1`, and nearly as long for the next job of a
sweep, which may differ only in a number. So the result of the groups is kept, and other values are set on a copy of it
with Hydra's own function.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathElement
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from deeprl_cli.config import gym_ids
from deeprl_cli.config.files import GROUPS, config_dir, config_dirs
from deeprl_cli.config.overrides import parse
from deeprl_cli.plugins.files import is_source

ROOT = "train"


@contextmanager
def hydra_at_our_folder() -> Iterator[ConfigLoader]:
    """Hydra with our folder of configurations. A caller's own Hydra is set aside meanwhile."""
    gym_ids.register()
    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with initialize_config_dir(str(config_dir()), job_name="deeprl", version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer


def searched(overrides: Sequence[Override]) -> list[str]:
    """The folders of `hydra.searchpath`, as typed: `file:///home/me/configs`."""
    given = [override.value() for override in overrides if override.key_or_group == "hydra.searchpath"]
    return [str(folder) for folders in given if isinstance(folders, list) for folder in folders]


def ask_hydra(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes from `overrides`, including its own part `hydra`. Raises Hydra's and OmegaConf's errors."""
    parsed = OverridesParser.create(None).parse_overrides(list(overrides))
    if any(_from_elsewhere(override) for override in parsed):
        return _compose(tuple(overrides))
    values = [override for override in parsed if _sets_a_value(override)]
    groups = tuple(str(override.input_line) for override in parsed if not _sets_a_value(override))
    config = deepcopy(_compose_once(groups, _what_it_depends_on()))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    task = [override for override in parsed if not override.is_hydra_override()]
    config.hydra.overrides.task = [str(override.input_line) for override in task]
    named = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(task, named.exclude_keys, named.item_sep, named.kv_sep)
    config.hydra.runtime.cwd = os.getcwd()
    return config


@lru_cache(maxsize=64)
def _compose_once(overrides: tuple[str, ...], dependencies: object) -> DictConfig:
    return _compose(overrides)


def _compose(overrides: tuple[str, ...]) -> DictConfig:
    with hydra_at_our_folder() as loader, warnings.catch_warnings():
        _search_before_ids(loader, overrides)
        warnings.simplefilter("error", UserWarning)  # a folder of hydra.searchpath that isn't there
        return compose(ROOT, list(overrides), return_hydra_config=True)


def _search_before_ids(loader: ConfigLoader, overrides: Sequence[str]) -> None:
    """Put the folders of `hydra.searchpath` before all others, so that their files win."""
    path = loader.get_search_path().get_path()
    place = next(index for index, element in enumerate(path) if element.provider == "main")
    for folder in searched(parse([text for text in overrides if text.startswith("hydra.searchpath=")])):
        path.insert(place, SearchPathElement("deeprl", folder))
        place += 1


def _sets_a_value(override: Override) -> bool:
    """Whether the composed files stay the same: it is no option of a group, and not one of Hydra's own keys."""
    key = override.key_or_group
    return key not in GROUPS and "/" not in key and override.package is None and not override.is_hydra_override()


def _from_elsewhere(override: Override) -> bool:
    """Whether it brings in files of the user."""
    value = override.value() if override.key_or_group == "algo" else None
    return override.key_or_group == "hydra.searchpath" or (isinstance(value, str) and is_source(value))


def _what_it_depends_on() -> object:
    """The YAML files with their times, and the number of registered environments (a registered one has a family)."""
    files = [(path, path.stat().st_mtime_ns) for folder in config_dirs() for path in folder.rglob("*.yaml")]
    gymnasium = sys.modules.get("gymnasium")
    return tuple(files), len(gymnasium.registry) if gymnasium else 0
