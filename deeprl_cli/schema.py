"""The typed shape of a run's configuration, and the one function that turns plain mappings into it.

Dataclass fields carry types and ranges only: each default stands once, in `configs/`, beside its source.
Nothing here knows Hydra; `config.py` hands over plain dictionaries.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from deeprl_cli.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both inclusive unless said otherwise."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'greater than' if self.open_low else 'at least'} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]


@dataclass(kw_only=True, slots=True)
class AtariConfig:
    """Atari preprocessing (gymnasium's own `AtariPreprocessing`); reward clipping and life loss in training only."""

    enabled: bool
    screen_size: PositiveInt
    frame_skip: PositiveInt
    noop_max: NonNegativeInt
    fire_reset: bool
    clip_reward: bool
    terminal_on_life_loss: bool


@dataclass(kw_only=True, slots=True)
class EnvConfig:
    id: str
    backend: Literal["sync", "async", "native", "envpool"]
    kwargs: dict[str, Any]
    max_episode_steps: PositiveInt | None
    frame_stack: PositiveInt
    atari: AtariConfig


@dataclass(kw_only=True, slots=True)
class NetworkConfig:
    """`hidden` and `activation` left null take the algorithm's own (`algo.hidden`, `algo.activation`)."""

    name: Literal["auto", "linear", "mlp", "cnn"]
    hidden: list[PositiveInt] | None
    activation: Literal["relu", "tanh", "gelu", "silu"] | None
    share: bool


@dataclass(kw_only=True, slots=True)
class HardwareConfig:
    name: Literal["cpu", "cuda"]
    threads: PositiveInt | Literal["auto"]
    compile: bool | Literal["auto"]
    matmul_precision: Literal["auto", "highest", "high", "medium"]


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    every: NonNegativeInt
    episodes: PositiveInt
    final_episodes: PositiveInt


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    every: NonNegativeInt
    replay: bool


@dataclass(kw_only=True, slots=True)
class LogConfig:
    every: PositiveInt
    tensorboard: bool


@dataclass(kw_only=True, slots=True)
class AlgoConfig:
    """What every algorithm's `Config` has; each adds its own fields."""

    name: str
    num_envs: PositiveInt
    gamma: UnitInterval
    normalize_obs: bool
    normalize_reward: bool
    hidden: list[PositiveInt]
    activation: Literal["relu", "tanh", "gelu", "silu"]
    optim: Literal["adam", "rmsprop", "sgd"]
    optim_eps: PositiveFloat
    lr_schedule: Literal["constant", "linear"]
    clip_norm: PositiveFloat | None

    def validate(self) -> None:
        """Raise ConfigError where fields contradict each other."""

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        """(samples in one gradient step of one seed, number of gradient steps) of a run of `total_steps`."""
        raise NotImplementedError


@dataclass(kw_only=True, slots=True)
class RolloutConfig(AlgoConfig):
    """What algorithms that learn from fresh rollouts share: T steps of each environment, then an update."""

    rollout_length: PositiveInt

    def check_minibatches(self, batch_size: int) -> None:
        """Minibatches of one size are one graph. Raises ConfigError where they don't tile the rollout."""
        samples = self.num_envs * self.rollout_length
        if samples % batch_size:
            fitting = min((n for n in range(1, samples + 1) if samples % n == 0), key=lambda n: abs(n - batch_size))
            raise ConfigError(
                f"algo.batch_size={batch_size} doesn't divide num_envs x rollout_length = {self.num_envs} x "
                f"{self.rollout_length} = {samples} samples: the nearest that does is algo.batch_size={fitting}"
            )


@dataclass(kw_only=True, slots=True)
class ReplayConfig(AlgoConfig):
    """What algorithms that learn from a replay memory share. Counts are environment steps of one seed."""

    buffer_capacity: PositiveInt
    batch_size: PositiveInt
    learning_starts: NonNegativeInt
    train_every: PositiveInt
    gradient_steps: PositiveInt

    def validate(self) -> None:
        if self.batch_size > self.buffer_capacity:
            raise ConfigError(
                f"algo.batch_size={self.batch_size} is larger than algo.buffer_capacity={self.buffer_capacity}: "
                f"give algo.buffer_capacity={self.batch_size} or more, or a smaller batch"
            )

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        steps = max(total_steps - self.learning_starts, 0)
        return self.batch_size, steps / self.train_every * self.gradient_steps


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """A whole run, checked. `seed` is the first of `seeds` consecutive seeds trained together."""

    algo: AlgoConfig
    env: EnvConfig
    network: NetworkConfig
    hardware: HardwareConfig
    seed: NonNegativeInt
    seeds: PositiveInt
    total_steps: PositiveInt
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    run_dir: str | None

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))


T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """An instance of dataclass `cls` from a plain mapping, every key and value checked.

    Raises ConfigError naming the full key (`path`.key), the nearest valid key, or the type or range expected.
    """
    fields = typing.get_type_hints(cls, include_extras=True)
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key '{_join(path, key)}'{did_you_mean(str(key), fields)}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ConfigError(f"missing value for '{_join(path, missing[0])}': give {_join(path, missing[0])}=…")
    return cls(**{key: _value(kind, values[key], _join(path, key)) for key, kind in fields.items()})


def to_plain(config: Any) -> Any:
    """The inverse of `build`: nested dictionaries, lists and scalars, in field order."""
    return dataclasses.asdict(config)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)


def _value(kind: Any, value: Any, path: str) -> Any:
    """`value` as `kind`, or ConfigError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        inner = _value(args[0], value, path)
        if inner not in args[1]:
            raise ConfigError(f"{path}={_show(value)}: must be {args[1]}")
        return inner
    if origin in (typing.Union, types.UnionType):
        return _first_fitting(args, value, path)
    if origin is Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
        options = ", ".join(str(arg) for arg in args)
        raise ConfigError(f"{path}={_show(value)}: must be one of {options}{did_you_mean(str(value), map(str, args))}")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value  # built already: an algorithm's own, richer Config
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={_show(value)}: must be a group of values, for example {path}.{_first(kind)}=…")
        return build(kind, value, path)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{path}={_show(value)}: must be a list, for example '{path}=[64,64]'")
        return [_value(args[0], item, f"{path}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={_show(value)}: must be a mapping, for example '{path}={{key:value}}'")
        return dict(value)
    return _scalar(kind, value, path)


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 is a float in YAML and an honest count
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    raise ConfigError(f"{path}={_show(value)}: must be {names.get(kind, str(kind))}")


def _first_fitting(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first member of a union that takes `value`; a range error says more than 'none of these'."""
    errors: list[ConfigError] = []
    for option in options:
        try:
            return _value(option, value, path)
        except ConfigError as error:
            errors.append(error)
    ranged = [error for error in errors if "must be at least" in str(error) or "must be in" in str(error)]
    if ranged:
        raise ranged[0]
    kinds = " or ".join(str(error).rpartition("must be ")[2] for error in errors)
    raise ConfigError(f"{path}={_show(value)}: must be {kinds}")


def _first(kind: type) -> str:
    return dataclasses.fields(kind)[0].name


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
