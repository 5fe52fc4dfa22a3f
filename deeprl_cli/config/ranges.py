"""Takes apart what is typed after `deeprl tune`: keys of the study, keys of its runs, and the ranges to search."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep

from deeprl_cli.config.compose import build_run_config, run_values
from deeprl_cli.config.early import early_values
from deeprl_cli.config.files import GROUPS, config_dir, group_options, option_file
from deeprl_cli.config.overrides import NAMES, parse_one
from deeprl_cli.errors import ConfigError, nearest
from deeprl_cli.schema.domain import Domain, Scale
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.tune import OF_PBT, OF_SEARCH, TuneConfig
from deeprl_cli.schema.typed import build

# intervals as other programs write them: uniform(a,b), loguniform(a,b), (a,b), and a..b
_NUMBER = r"-?\d*\.?\d+(?:e[-+]?\d+)?"
_ANOTHER_RANGE = (
    re.compile(rf"[\w.]+=(?:\w*uniform)?\(({_NUMBER}), ?({_NUMBER})\)"),
    re.compile(rf"[\w.]+=({_NUMBER})\.\.({_NUMBER})"),
)
SEARCHED = ("algo", "network", "env")  # groups whose keys may have a range
TAGS: dict[str, Scale] = {"log": "log", "linear": "linear", "one_minus": "one_minus"}
BY_LOG = 10.0  # an interval whose high end is this many times its low end is drawn on a logarithmic scale


@dataclasses.dataclass(frozen=True)
class Words:
    """What was typed: the values of the study's own keys, overrides of the runs, and ranges."""

    own: dict[str, Any]
    overrides: list[str]
    domains: list[Domain]


def taken_apart(words: Sequence[str]) -> Words:
    """Raises ConfigError for a word that can't be read, or a range where there can be none."""
    keys = [field.name for field in dataclasses.fields(TuneConfig)]
    found = Words({}, [], [])
    for word in words:
        key = word.partition("=")[0]
        for form in _ANOTHER_RANGE:
            if match := form.fullmatch(word):
                low, high = sorted(match.groups(), key=float)
                raise ConfigError(f"'{word}': write '{key}=interval({low},{high})'")
        override = parse_one(word)
        if key in keys:
            if override.is_sweep_override():
                raise ConfigError(f"'{word}': {key} takes one value")
            value = override.value()
            found.own[key] = str(value) if isinstance(value, QuotedString) else value
        elif override.is_sweep_override():
            found.domains.append(domain(override))
        else:
            near = nearest(key, keys, cutoff=0.75)
            if near and "." not in key and key not in (*GROUPS, *_run_keys()):
                raise ConfigError(f"unknown key '{key}'; did you mean '{near[0]}'?")
            found.overrides.append(word)
    return found


def defaults() -> dict[str, Any]:
    """Of the study's own keys."""
    found: dict[str, Any] = yaml.safe_load((config_dir() / "tune.yaml").read_text(encoding="utf-8"))
    return found


def settings(own: Mapping[str, Any]) -> TuneConfig:
    """The study's own keys; keys that were not given have their defaults. Raises ConfigError."""
    values = {**defaults(), **own}
    if "trials" not in own and (values["steps"] is not None or values["minutes"] is not None):
        values["trials"] = None
    found = build(TuneConfig, values)
    for key in OF_SEARCH if found.method == "pbt" else OF_PBT:
        if key in own:
            others = ", ".join(OF_PBT if found.method == "pbt" else OF_SEARCH)
            raise ConfigError(f"{key}={own[key]}: method={found.method} doesn't have it; it has {others}")
    return found


def space(algo: str) -> list[Domain]:
    """The space in the file of an algorithm. Raises ConfigError if there is none."""
    if algo not in group_options("tune"):
        raise ConfigError(
            f"there is no tune/{algo}.yaml: say what to search, for example 'algo.lr=interval(1e-5,1e-2)'"
        )
    kept = yaml.safe_load(option_file("tune", algo).read_text(encoding="utf-8"))
    return [domain(parse_one(f"{key}={text}")) for key, text in kept.items()]


def domain(override: Override) -> Domain:
    """A range as typed. Raises ConfigError, which says how to write one."""
    key, text = override.key_or_group, str(override.input_line)
    typed = text.partition("=")[2]
    head = key.split(".")[0]
    if key in GROUPS:
        raise ConfigError(f"'{text}': a study tunes one {key}; for several, deeprl train -m {shlex.quote(text)}")
    if key in NAMES or key.startswith("env.wrappers"):
        raise ConfigError(f"'{text}': all trials of a study have the same {key}: give one value")
    if head not in SEARCHED or "." not in key:
        hint = "; for several seeds of each trial, seeds=3" if key == "seed" else ""
        raise ConfigError(f"'{text}': a range is for keys of {', '.join(f'{name}.…' for name in SEARCHED)}{hint}")
    value = override.value()
    if isinstance(value, ChoiceSweep):
        choices = tuple(_plain(item) for item in value.list)
        if len({str(choice) for choice in choices}) < len(choices):
            raise ConfigError(f"'{text}': a value is listed twice")
        return Domain(key, typed, choices=choices)
    if isinstance(value, RangeSweep):
        return Domain(key, typed, choices=tuple(value.range()))
    if isinstance(value, IntervalSweep):
        return _interval(key, typed, value)
    raise ConfigError(f"'{text}': write {key}=interval(LOW,HIGH), {key}=choice(A,B,…) or {key}=range(START,STOP,STEP)")


def _interval(key: str, typed: str, found: IntervalSweep) -> Domain:
    text = f"{key}={typed}"
    low, high = found.start, found.end
    if low is None or high is None or not low < high:
        raise ConfigError(f"'{text}': an interval is (LOW,HIGH), with LOW below HIGH")
    unknown = sorted(found.tags - set(TAGS))
    if unknown or len(found.tags) > 1:
        raise ConfigError(f"'{text}': an interval takes one tag, of {', '.join(TAGS)}: tag(log,interval({low},{high}))")
    whole = isinstance(low, int) and isinstance(high, int)
    scale = next((TAGS[tag] for tag in found.tags), "log" if low > 0 and high / low >= BY_LOG else "linear")
    if scale == "log" and low <= 0:
        raise ConfigError(f"'{text}': on a logarithmic scale, LOW must be above 0")
    if scale == "one_minus" and (high >= 1 or whole):
        raise ConfigError(f"'{text}': tag(one_minus,…) is for numbers below 1")
    return Domain(key, typed, float(low), float(high), scale, whole)


def with_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain composed `values` with some changed, by their dotted keys. New keys: below `env.kwargs` only."""
    changed = dict(values)
    for key, value in changes.items():
        place, *names = changed, *key.split(".")
        for name in names[:-1]:
            place[name] = dict(place[name])
            place = place[name]
        place[names[-1]] = value
    return changed


def checked(overrides: Sequence[str], domains: Sequence[Domain]) -> dict[str, Any]:
    """The composed values of the run as typed. Raises ConfigError where it, a range's key, or an end of it is wrong."""
    values = early_values(overrides)
    if domains:  # composing refuses a key that doesn't exist
        run_values([*overrides, *(f"{one.key}={as_typed(one.extremes[0])}" for one in domains)])
    build_run_config(values)
    for one in domains:
        for value in one.extremes:
            try:
                _typed_right(with_values(values, {one.key: value}))
            except ConfigError as error:
                raise ConfigError(f"{one.key}={one.typed}: {error}") from error
    return values


def _typed_right(values: dict[str, Any]) -> RunConfig:
    """Checks types and ranges only: whether values fit together depends on the other values that are drawn."""
    from deeprl_cli.algos.registry import run_config

    return run_config(values)


def as_typed(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def _plain(item: Any) -> Any:
    if isinstance(item, QuotedString):
        return item.text
    return [_plain(one) for one in item] if isinstance(item, list) else item


def _run_keys() -> list[str]:
    return [field.name for field in dataclasses.fields(RunConfig)]
