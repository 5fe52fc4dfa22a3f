"""Composing with Hydra: overrides in, a checked `RunConfig` out. OmegaConf is not used beyond this package.

Hydra only composes here. Its folders, logging and job runner are not used, and its messages about wrong overrides are
replaced by messages of one line.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from deeprl_cli.algos.registry import run_config
from deeprl_cli.config import gym_ids
from deeprl_cli.config.files import GROUPS, config_dir, group_options, option_file
from deeprl_cli.config.hydra_compose import ask_hydra, hydra_at_our_folder, searched
from deeprl_cli.config.hydra_job import as_job
from deeprl_cli.config.messages import dotted_keys, some, unknown_key, unknown_option
from deeprl_cli.config.overrides import OPEN, for_example, parse
from deeprl_cli.config.tuned import find_tuned, tuned_path
from deeprl_cli.errors import ConfigError, did_you_mean
from deeprl_cli.plugins.files import is_source, short
from deeprl_cli.schema.run import NETWORKS, LinearConfig, NetworkConfig, RunConfig

SBATCH = "hydra.launcher.additional_parameters"  # free keys of a launcher
DECK = "deck/"  # experiments that follow the deck to the letter
# options of network=linear that only some network.features read
FEATURE_OPTIONS: dict[str, tuple[str, ...]] = {
    "order": ("poly", "fourier"),
    "centres": ("rbf",),
    "width": ("rbf",),
    "tilings": ("tiles",),
    "bins": ("tiles",),
}


def load_config(overrides: Sequence[str] | str = (), job: int = 0) -> RunConfig:
    """The configuration of `deeprl train <overrides>`, checked; `load_config("sac")` is short for `["algo=sac"]`.
    `job`: its number in a sweep.

    Raises ConfigError, one line, for anything that can't be composed, is misspelt, or has the wrong type or range.
    """
    if isinstance(overrides, str):
        overrides = shlex.split(overrides) if "=" in overrides else [f"algo={overrides}"]
    return build_run_config(run_values(overrides, job))


def run_values(overrides: Sequence[str], job: int = 0) -> dict[str, Any]:
    """What `build_run_config` takes, composed; types unchecked."""
    values, choices = compose_choices(overrides, job)
    return {**values, "tuned": None if choices["tuned"] == "none" else choices["tuned"], "typed": list(overrides)}


def build_run_config(values: dict[str, Any]) -> RunConfig:
    """Plain composed values as the typed configuration, the algorithm's own checks included. Raises ConfigError."""
    try:
        run = run_config(values)
    except ConfigError as error:
        owner, name = str(values.get("tuned")).partition("/")[0], short(str(values["algo"]["name"]))
        if values.get("tuned") and owner != name and str(error).startswith("unknown key 'algo."):
            raise ConfigError(
                f"tuned={values['tuned']} is for algo={owner}, and this run's is {name}: {error}"
            ) from error
        raise
    run.algo.validate()
    _check_features(run.network)
    return run


def _check_features(network: NetworkConfig) -> None:
    """Refuse an option that the chosen features don't read. An option with its default counts as not given."""
    if not isinstance(network, LinearConfig):
        return
    defaults = plain(OmegaConf.load(config_dir() / "network" / "linear.yaml"))
    for option, readers in FEATURE_OPTIONS.items():
        value = getattr(network, option)
        if network.features not in readers and value != defaults[option]:
            raise ConfigError(
                f"network.{option}={value} means nothing to network.features={network.features}: leave it out, or "
                f"choose network.features={' or '.join(readers)}"
            )


def compose_values(overrides: Sequence[str]) -> dict[str, Any]:
    """The composed configuration as nested dictionaries, interpolations resolved; types unchecked."""
    return compose_choices(overrides)[0]


def compose_choices(overrides: Sequence[str], job: int = 0) -> tuple[dict[str, Any], dict[str, str]]:
    """`compose_values`, and the option chosen in each group. For `tuned` that is the file that was used (`ppo/mujoco`),
    or `none`."""
    config = _compose(parsed := parse(overrides), with_hydra=True)
    choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items() if option is not None}
    choices["tuned"] = _tuned_choice(choices, parsed)
    with as_job(config, job):
        values = plain(config)
    assert isinstance(values, dict)
    return values, choices


def config_text(
    overrides: Sequence[str], which: Literal["job", "hydra", "all"], package: str | None, resolve: bool
) -> str:
    """YAML of the composed configuration, or of its part `package`: what `--cfg` shows."""
    config = _compose(parse(overrides), with_hydra=True)
    with as_job(config) as hydra:
        shown: Any = {"job": config, "hydra": OmegaConf.create({"hydra": hydra})}.get(which)
        if which == "all":
            shown = OmegaConf.merge({"hydra": hydra}, config)
        if package and (shown := OmegaConf.select(shown, package)) is None:
            known = dotted_keys(plain(config))
            raise ConfigError(f"--package {package}: no such part{did_you_mean(package, known)}")
        if not OmegaConf.is_config(shown):
            return f"{shown}\n"
        return OmegaConf.to_yaml(OmegaConf.create(plain(shown)) if resolve and which == "job" else shown)


# ---- sweeps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """`jobs`: for each run, its overrides (without `search`). `hydra`: overrides of Hydra's own settings; of these,
    `search` names folders of more configurations, and `launcher` the launcher."""

    jobs: list[list[str]]
    hydra: list[str]

    @property
    def search(self) -> list[str]:
        return [text for text in self.hydra if text.startswith("hydra.searchpath=")]

    @property
    def launcher(self) -> list[str]:
        return [text for text in self.hydra if text.startswith("hydra/launcher=")]


def expand_sweep(overrides: Sequence[str]) -> Sweep:
    """Every combination of the values listed, the last key varying fastest. Raises ConfigError."""
    with hydra_at_our_folder() as loader:
        choices: dict[str, list[str]] = {}
        hydra: list[str] = []
        for override in parse(overrides, sweep=True):
            override.config_loader = loader  # glob(…) asks it for the options of a group
            text, key = str(override.input_line), override.get_key_element()
            if override.is_hydra_override():
                hydra.append(text)
            elif override.is_sweep_override():
                choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
                if not choices[key]:
                    raise ConfigError(f"'{text}' matches nothing{for_example(key)}")
            else:
                choices[key] = [text]
    return Sweep([list(job) for job in itertools.product(*choices.values())], hydra)


def sweep_settings(sweep: Sweep) -> tuple[Path, dict[str, Any]]:
    """The folder for the sweep's record (`hydra.sweep.dir`; it is not created here), and the launcher's options."""
    options = plain(_compose(parse(sweep.launcher, sweep=True), with_hydra=True).hydra.launcher)
    known = [f"hydra.launcher.{key}" for key in dotted_keys(options) if key != "_target_"]
    for override in parse(sweep.hydra, sweep=True):
        key = override.key_or_group
        if key.startswith("hydra.launcher.") and key not in known and not key.startswith(f"{SBATCH}."):
            meant = (
                did_you_mean(key, known) or f"; known: {some(known)}" if known else ": choose a hydra/launcher=… too"
            )
            raise ConfigError(f"unknown key '{key}'{meant}")
    hydra = _compose(parse(sweep.hydra, sweep=True), with_hydra=True).hydra
    return Path(str(hydra.sweep.dir)), plain(hydra.launcher)


# ---- Hydra --------------------------------------------------------------------------------------------------------


def _tuned_choice(choices: Mapping[str, Any], overrides: Sequence[Override]) -> str:
    """The file of tuned values that was used, or `none`. (Hydra itself reports the file that it was asked for.)"""
    asked = str(choices.get("tuned") or "none")
    folders = [Path(folder.removeprefix("file://")) for folder in searched(overrides)]
    if asked == "none" or any((folder / "tuned" / f"{asked}.yaml").is_file() for folder in folders):
        return asked
    algo, _, name = asked.partition("/")
    return asked if tuned_path(asked).is_file() else find_tuned(algo, name) or "none"


def _compose(overrides: Sequence[Override], *, with_hydra: bool = False) -> DictConfig:
    """Compose with Hydra, and rewrite its errors."""
    for override in overrides:
        if _adds_outside_open(override):
            raise _diagnose(overrides) or ConfigError(f"'{override.input_line}': leave out the '+'")
    try:
        config = ask_hydra([_for_hydra(override) for override in overrides])
    except MissingConfigException as error:
        raise _missing(error, overrides) from None
    except yaml.YAMLError as error:
        raise ConfigError(one_line(str(error))) from None
    except (HydraException, OmegaConfBaseException, ValueError, UserWarning) as error:
        raise _diagnose(overrides) or ConfigError(one_line(str(error) or str(error.__cause__))) from None
    _check_tuned(overrides)
    with open_dict(config):
        _leave_out_other_networks(config, _tuned_choice(config.hydra.runtime.choices, overrides))
        if not with_hydra:
            del config["hydra"]
    return config


def _leave_out_other_networks(config: DictConfig, tuned: str) -> None:
    """Drop tuned values of `network.…` that the chosen network doesn't have: they were tuned for another network."""
    if tuned == "none" or not tuned_path(tuned).is_file() or config.network.name not in NETWORKS:
        return
    known = {field.name for field in fields(NETWORKS[config.network.name])}
    for key in set(config.network) - known:
        if key in plain(OmegaConf.load(tuned_path(tuned))).get("network", {}):
            del config.network[key]


def _check_tuned(overrides: Sequence[Override]) -> None:
    """Refuse an unknown `tuned` (it is optional in the defaults list, so Hydra accepts any name), and tuned values in
    an experiment of the deck."""
    chosen = {override.key_or_group: override.value() for override in overrides if override.key_or_group in GROUPS}
    if str(chosen.get("experiment")).startswith(DECK) and chosen.get("tuned", "none") != "none":
        raise ConfigError(
            f"tuned={chosen['tuned']}: deck experiments take no tuned values; leave it out, or leave out "
            f"experiment={chosen['experiment']}"
        )
    if any(override.key_or_group == "hydra.searchpath" for override in overrides):
        return  # the file may be in that folder
    if "tuned" in chosen and chosen["tuned"] not in (options := group_options("tuned")):
        raise unknown_option("tuned", str(chosen["tuned"]), options)


def _for_hydra(override: Override) -> str:
    """The override's text. Hydra adds a new key, here below `env.kwargs`, only with `++` in front."""
    text = str(override.input_line)
    new = f"{override.key_or_group}.".startswith((f"{OPEN}.", f"{SBATCH}."))
    new = new and not (override.is_delete() or override.is_force_add())
    return f"++{text.lstrip('+')}" if new else text


def _adds_outside_open(override: Override) -> bool:
    adds = override.is_add() or override.is_force_add()
    return adds and not override.is_hydra_override() and not f"{override.key_or_group}.".startswith(f"{OPEN}.")


def _diagnose(overrides: Sequence[Override]) -> ConfigError | None:
    """The message for the override that is wrong, found by composing the groups alone. None if all keys exist."""
    chosen = [o for o in overrides if o.key_or_group in GROUPS and isinstance(o.value(), str | None)]
    groups = [f"{o.key_or_group}={o.get_value_element_as_str()}" for o in chosen]
    searchpath = [str(o.input_line) for o in overrides if o.key_or_group == "hydra.searchpath"]
    try:
        base = plain(ask_hydra(groups + searchpath), resolve=False)
        del base["hydra"]
    except MissingConfigException as error:
        return _missing(error, overrides)
    except (HydraException, OmegaConfBaseException, ValueError, UserWarning):
        return None
    known = set(dotted_keys(base))
    for override in overrides:
        key = override.key_or_group
        if override.is_hydra_override() or key.startswith(f"{OPEN}."):
            continue
        if key not in known and key not in GROUPS:
            value = str(override.input_line).partition("=")[2]
            return unknown_key(key, value, base, GROUPS, {group: _option_keys(group) for group in ("algo", "network")})
        if override.is_add() or override.is_force_add():
            return ConfigError(f"'{override.input_line}': {key} is there already, leave out the '+'")
    return None


def _option_keys(group: str) -> dict[str, list[str]]:
    """The keys of every file of the group, so that a message can say which option has a key."""
    files = {name: OmegaConf.load(option_file(group, name)) for name in group_options(group)}
    return {name: dotted_keys(plain(file, resolve=False)) for name, file in files.items()}


def _missing(error: MissingConfigException, overrides: Sequence[Override]) -> ConfigError:
    """The message for an option that doesn't exist, named by an override or by a file's defaults list."""
    group, _, name = str(error.missing_cfg_file).partition("/")
    if group not in GROUPS:
        return ConfigError(one_line(str(error)))
    for override in overrides:
        source = override.value() if override.key_or_group == group == "algo" else None
        if isinstance(source, str) and is_source(source) and short(source) == name:
            return ConfigError(
                f"algo={source}: it has no file of values: write {name}.yaml beside it, or algo/{name}.yaml in a "
                "folder that --config-dir names"
            )
    if group != "env":
        return unknown_option(group, name, group_options(group))
    return gym_ids.unknown(name)


def plain(config: Any, resolve: bool = True) -> Any:
    try:
        return OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {one_line(str(error))}") from None


def one_line(message: str) -> str:
    """The part of a library's message that says what is wrong, without the hints and search paths after it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    kept = list(
        itertools.takewhile(lambda line: not line.startswith(("Config search path", "See https", "full_key")), lines)
    )
    return "; ".join(kept[:3])
