"""The typed shape of a run's configuration; `typed.py` turns plain mappings into it.

Dataclass fields carry types and ranges only: each default stands once, in `configs/`, beside its source.
Nothing here knows Hydra; `config/compose.py` hands over plain dictionaries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from deeprl_cli.errors import ConfigError
from deeprl_cli.plugins.files import short
from deeprl_cli.plugins.installed import load, names
from deeprl_cli.schema.course import CheckpointConfig, EvalConfig, LogConfig, StopConfig
from deeprl_cli.schema.members import Member
from deeprl_cli.schema.named import Named
from deeprl_cli.schema.typed import (
    VARIANTS,
    Choice,
    NonNegativeInt,
    PerMember,
    PositiveFloat,
    PositiveInt,
    UnitInterval,
)

EVALUATIONS = 20  # of a run whose `eval.every` is auto, on the way to its end


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
    """`auto` is settled by the look at an environment before a run, and written into the run."""

    id: str
    backend: Literal["sync", "async", "native", "envpool"]
    kwargs: PerMember[dict[str, Any]]
    wrappers: list[Named]
    max_episode_steps: PositiveInt | None
    frame_stack: PositiveInt
    channels: Literal["auto", "first", "last"]
    generators: Literal["auto", "own", "shared"]
    origin: list[float] | Literal["auto"] | None
    atari: AtariConfig


@dataclass(kw_only=True, slots=True)
class NetworkConfig:
    """What every network's options have; each class below adds its own (`NETWORKS` says whose is whose)."""

    name: Annotated[str, Choice(("auto", "tabular", "linear", "mlp", "cnn", "transformer"), "networks")]


@dataclass(kw_only=True, slots=True)
class LayersConfig(NetworkConfig):
    """`hidden` and `activation` left null take the algorithm's own (`algo.hidden`, `algo.activation`), `hidden_critic`
    those of `hidden`."""

    hidden: list[PositiveInt] | None
    hidden_critic: list[PositiveInt] | None
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


class Networks(dict[str, type[NetworkConfig]]):
    """The options of each network; of a plug-in's, the `Config` of its class, which is imported for it."""

    def __missing__(self, name: str) -> type[NetworkConfig]:
        if name not in names("networks"):
            raise KeyError(name)
        config = getattr(load("networks", name), "Config", LayersConfig)
        if not (isinstance(config, type) and issubclass(config, LayersConfig)):
            raise ConfigError(f"network={name}: its Config is no subclass of deeprl_cli.schema.run.LayersConfig")
        return config


NETWORKS = Networks(
    {
        "auto": LayersConfig,
        "tabular": NetworkConfig,
        "linear": LinearConfig,
        "mlp": LayersConfig,
        "cnn": LayersConfig,
        "transformer": TransformerConfig,
    }
)


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
class AlgoConfig:
    """What every algorithm's `Config` has; each adds its own fields."""

    name: str
    num_envs: PositiveInt
    gamma: PerMember[UnitInterval]
    normalize_obs: bool
    normalize_reward: bool
    hidden: list[PositiveInt]
    activation: Literal["relu", "tanh", "gelu", "silu"]
    optim: Literal["adam", "rmsprop", "rmsprop_tf", "sgd"]
    optim_eps: PerMember[PositiveFloat]
    lr_schedule: Literal["constant", "linear"]
    clip_norm: PerMember[PositiveFloat | None]
    clip_value: PerMember[PositiveFloat | None]
    accumulate_steps: PositiveInt

    @property
    def called(self) -> str:
        """Its name in words: of a file or a module of the user's, without where it is."""
        return short(self.name)

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
class SubepisodeConfig(RolloutConfig, EpisodeConfig):
    """What algorithms share whose stretches of T steps may end where an episode does, and wait for one another."""

    @property
    def episodes_per_env(self) -> int:
        return self.subepisodes_per_update

    @property
    def longest(self) -> int:
        return self.rollout_length

    def gradient_work(self, total_steps: int) -> tuple[int, float]:
        return self.samples_per_update, total_steps / self.samples_per_update


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

    @property
    def acts_in_warm_up(self) -> bool:
        """Whether the policy acts before `learning_starts`, in the place of uniform random actions."""
        return False

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
    """A whole run, checked. `seed` is the first of `seeds` consecutive seeds trained together; for the
    record, `tuned` names the file of tuned values that it took (`ppo/mujoco`), and `typed` are its overrides."""

    algo: AlgoConfig
    env: EnvConfig
    network: NetworkConfig
    hardware: HardwareConfig
    seed: PerMember[NonNegativeInt]
    seeds: PositiveInt
    total_steps: PositiveInt
    horizon: PositiveInt | None
    eval: EvalConfig
    stop: StopConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    callbacks: list[Named]
    init_from: str | None
    run_dir: str | None
    tuned: str | None
    typed: list[str] | None
    name: str | None
    tags: list[str]

    def __post_init__(self) -> None:
        self.eval = dataclasses.replace(self.eval, every=self.eval_every)

    @property
    def eval_every(self) -> int:
        """Steps between evaluations; 0: only at the end."""
        every = self.eval.every
        return every if isinstance(every, int) else max(1, self.total_steps // EVALUATIONS)

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def members(self) -> list[Member]:
        """Who stands on the seed axis."""
        return [Member(str(seed), seed) for seed in self.seed_list]

    @property
    def jobs(self) -> Sequence[RunConfig]:
        """The runs that train as one, in the order of their members: this one, alone (`GroupConfig` has several)."""
        return [self]

    @property
    def member_envs(self) -> list[EnvConfig]:
        """The environment of each member."""
        return [job.env for job in self.jobs for _ in job.seed_list]


VARIANTS[NetworkConfig], VARIANTS[HardwareConfig] = NETWORKS, HARDWARE
