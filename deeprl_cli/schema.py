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
    """What every network's options have; each class below adds its own (`NETWORKS` says whose is whose)."""

    name: Literal["auto", "tabular", "linear", "mlp", "cnn", "transformer"]


@dataclass(kw_only=True, slots=True)
class LayersConfig(NetworkConfig):
    """`hidden` and `activation` left null take the algorithm's own (`algo.hidden`, `algo.activation`)."""

    hidden: list[PositiveInt] | None
    activation: Literal["relu", "tanh", "gelu", "silu"] | None
    share: bool


@dataclass(kw_only=True, slots=True)
class LinearConfig(NetworkConfig):
    """`bounds`: [low, high] of each dimension of the observation, null where its space's own will do."""

    features: Literal["identity", "onehot", "poly", "fourier", "rbf", "tiles"]
    bounds: list[list[float] | None] | None
    order: PositiveInt
    centres: PositiveInt | list[PositiveInt]
    width: PositiveFloat
    tilings: PositiveInt
    bins: PositiveInt | list[PositiveInt]


@dataclass(kw_only=True, slots=True)
class TransformerConfig(NetworkConfig):
    d_model: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    share: bool


NETWORKS: dict[str, type[NetworkConfig]] = {
    "auto": LayersConfig,
    "tabular": NetworkConfig,
    "linear": LinearConfig,
    "mlp": LayersConfig,
    "cnn": LayersConfig,
    "transformer": TransformerConfig,
}


@dataclass(kw_only=True, slots=True)
class HardwareConfig:
    """What every choice of hardware has; several processes add their own (`HARDWARE` says whose is whose)."""

    name: Literal["cpu", "cuda", "multiprocess"]
    threads: PositiveInt | Literal["auto"]
    compile: bool | Literal["auto"]
    matmul_precision: Literal["auto", "highest", "high", "medium"]


@dataclass(kw_only=True, slots=True)
class MultiprocessConfig(HardwareConfig):
    """Several processes: `workers` of an asynchronous algorithm over shared parameters, or data-parallel `ranks`."""

    device: Literal["cpu", "cuda"]
    workers: PositiveInt | None
    ranks: PositiveInt | None
    on_death: Literal["restart", "continue", "fail"]
    max_restarts: NonNegativeInt
    heartbeat: PositiveFloat


HARDWARE: dict[str, type[HardwareConfig]] = {
    "cpu": HardwareConfig,
    "cuda": HardwareConfig,
    "multiprocess": MultiprocessConfig,
}


def device_of(config: HardwareConfig) -> Literal["cpu", "cuda"]:
    """Where the networks are."""
    if isinstance(config, MultiprocessConfig):
        return config.device
    return "cuda" if config.name == "cuda" else "cpu"


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    every: NonNegativeInt
    episodes: PositiveInt
    final_episodes: PositiveInt


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    every: NonNegativeInt
    keep: PositiveInt
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
    optim: Literal["adam", "rmsprop", "rmsprop_tf", "sgd"]
    optim_eps: PositiveFloat
    lr_schedule: Literal["constant", "linear"]
    clip_norm: PositiveFloat | None
    clip_value: PositiveFloat | None
    accumulate_steps: PositiveInt

    def validate(self) -> None:
        """Raise ConfigError where fields contradict each other."""

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        """(samples in one gradient step of one seed, number of gradient steps) of a run of `total_steps`."""
        raise NotImplementedError


@dataclass(kw_only=True, slots=True)
class RolloutConfig(AlgoConfig):
    """What algorithms that learn from fresh rollouts share: T steps of each environment, then an update.

    `subepisodes_per_update` stretches of T steps follow one another before each update (the deck's T_update).
    """

    rollout_length: PositiveInt
    subepisodes_per_update: PositiveInt

    @property
    def samples_per_update(self) -> int:
        return self.num_envs * self.rollout_length * self.subepisodes_per_update

    def check_minibatches(self, batch_size: int) -> None:
        """Minibatches of one size are one graph. Raises ConfigError where they don't tile the rollout."""
        samples = self.samples_per_update
        if samples % batch_size:
            fitting = min((n for n in range(1, samples + 1) if samples % n == 0), key=lambda n: abs(n - batch_size))
            raise ConfigError(
                f"algo.batch_size={batch_size} doesn't divide the {samples} samples of an update (num_envs x "
                f"rollout_length x subepisodes_per_update): the nearest that does is algo.batch_size={fitting}"
            )


@dataclass(kw_only=True, slots=True)
class EpisodeConfig(AlgoConfig):
    """What algorithms that wait for whole episodes share: every environment plays its share, then an update."""

    @property
    def episodes_per_env(self) -> int:
        """How many (sub-)episodes each environment plays, one after the other, before an update."""
        raise NotImplementedError

    @property
    def longest(self) -> int | None:
        """Steps after which a sub-episode stops where its episode goes on; None: it never does."""
        return None

    @property
    def group_size(self) -> int:
        """How many environments in a row start each episode from the same reset."""
        return 1

    @property
    def group_noise(self) -> Literal["common", "independent"]:
        """Whether those environments draw the same after that reset, or each its own."""
        return "common"


@dataclass(kw_only=True, slots=True)
class DemonstrationConfig(AlgoConfig):
    """What algorithms that learn from demonstrations share. Steps count demonstrated ones."""

    batch_size: PositiveInt

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        return self.batch_size, total_steps / self.batch_size


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
    horizon: PositiveInt | None
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    init_from: str | None
    run_dir: str | None

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))


VARIANTS: dict[type, Mapping[str, type]] = {NetworkConfig: NETWORKS, HardwareConfig: HARDWARE}  # by their `name`
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
        if kind in VARIANTS:
            kind = VARIANTS[kind][_value(typing.get_type_hints(kind)["name"], value.get("name"), f"{path}.name")]
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
