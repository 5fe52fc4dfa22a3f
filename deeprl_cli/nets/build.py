"""From an observation space and the network options to a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from torch import nn

from deeprl_cli.envs.spec import SMALLEST_PICTURE, Parts, Picture, channels_last
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.features import Fourier, Linear, Polynomial, RadialBasis
from deeprl_cli.nets.modules import (
    PLAIN,
    ActorCritic,
    Convolutions,
    Flatten,
    Joined,
    Network,
    OneHot,
    PolicyNetwork,
    PolicyStart,
    orthogonal,
    orthogonal_head,
)
from deeprl_cli.nets.spaces import MOST_FEATURES, MOST_ROWS, bounds_of, fits, is_image, per_dimension, shown, sizes_of
from deeprl_cli.nets.tables import JointIndex, Table, Tiles, UnitBox
from deeprl_cli.nets.transformer import Transformer
from deeprl_cli.plugins.classes import where_raised
from deeprl_cli.plugins.installed import load, names_beside
from deeprl_cli.schema.run import LayersConfig, LinearConfig, NetworkConfig, TransformerConfig

OWN = ("auto", "tabular", "linear", "mlp", "cnn", "transformer")


class NetworkFactory:
    """Makes networks for one observation space: `factory(out_features, …)` builds a fresh single-agent module.

    `hidden` and `activation` are the algorithm's own, used where the network options leave them null. Raises
    ConfigError when the named network can't read the observation. `bounded`: the network scales observations by their
    bounds, so that it must see them as they are (not normalised).
    """

    def __init__(self, space: gym.Space[Any], config: NetworkConfig, hidden: Sequence[int], activation: str) -> None:
        self.space, self.name = space, resolve_name(space, config.name)
        self.custom = load("networks", self.name) if self.name in names_beside("networks", OWN) else None
        self.features = config.features if isinstance(config, LinearConfig) else "identity"
        self.bounded = self.features not in ("identity", "onehot")
        self.hidden: list[int] = []
        self.hidden_critic: list[int] | None = None
        self.activation = activation
        self.share = isinstance(config, LayersConfig | TransformerConfig) and config.share
        if isinstance(config, LayersConfig):
            self.hidden = list(config.hidden if config.hidden is not None else hidden)
            if self.name == "cnn" and config.hidden is None:
                self.hidden = [512]  # the fully connected layer of Mnih et al. (2015)
            self.hidden_critic = config.hidden_critic
            self.activation = config.activation or ("relu" if self.name == "cnn" else activation)
        self._make = self._maker(config, self.hidden)
        self._make_critic = self._make if self.hidden_critic is None else self._maker(config, self.hidden_critic)

    def __call__(
        self, out_features: int, *, extra: int = 0, head_gain: float | None = None, critic: bool = False
    ) -> nn.Module:
        """Output `(B, out_features)`; `extra` inputs join after the encoder; a `head_gain` asks for orthogonal. A
        `critic`, as what reads an `extra` action is, has layers of its own where it was given some.

        Tables and weights of features start at zero either way. Raises ConfigError where the network takes no `extra`.
        """
        if extra:
            self.check_extra()
        network = (self._make_critic if critic or extra else self._make)(out_features, extra)
        if head_gain is None or not isinstance(network, Network):
            return network
        if self.name == "transformer":  # whose blocks have a start of their own
            orthogonal_head(network.head, head_gain)
            return network
        return orthogonal(network, head_gain)

    def actor_critic(self, out_features: int, *, log_std: bool, start: PolicyStart = PLAIN) -> ActorCritic:
        """A policy head of `out_features` and a state value, sharing their trunk under `network.share`."""
        return ActorCritic(self, out_features, share=self.share, log_std=log_std, start=start)

    def policy(self, out_features: int, *, log_std: bool, start: PolicyStart = PLAIN) -> PolicyNetwork:
        """A policy head of `out_features` alone, for algorithms without a critic or with one of its own."""
        return PolicyNetwork(self, out_features, log_std=log_std, start=start)

    def check_hidden_features(self) -> None:
        """Raise ConfigError for networks without features φ(s) that state-dependent exploration could weigh."""
        if self.name == "tabular" or self.features != "identity":
            raise ConfigError(
                f"algo.sde.enabled=true weighs the features of the last hidden layer, and network={self.name} has "
                "none: use network=mlp or network=cnn, or algo.sde.enabled=false"
            )

    def check_extra(self) -> None:
        """Raise ConfigError for networks that can't read continuous actions beside the observation."""
        if self.custom is not None:
            return
        if self.name not in ("linear", "mlp", "cnn") or self.features != "identity":
            chosen = f"network={self.name}" + (f" network.features={self.features}" if self.name == "linear" else "")
            raise ConfigError(
                f"{chosen} can't be a critic Q(s, a) of continuous actions: use network=mlp, or network=linear with "
                "network.features=identity; or an algorithm whose networks read observations alone, such as algo=ppo"
            )

    def _maker(self, config: NetworkConfig, hidden: list[int]) -> Callable[[int, int], nn.Module]:
        """(out_features, extra) to a module; everything that can be wrong is found here."""
        if self.name == "tabular":
            sizes = sizes_of(self.space)
            fits(math.prod(sizes), MOST_ROWS, "network=tabular", "rows", "network=linear network.features=onehot")
            return lambda out, _: Table(JointIndex(sizes), out)
        if isinstance(config, LinearConfig):
            if config.bounds is not None and not self.bounded:
                raise ConfigError(
                    f"network.bounds means nothing to network.features={self.features}: leave it out, or choose "
                    "network.features=poly, fourier, rbf or tiles"
                )
            if self.features != "identity":
                return _feature_maker(self.space, config)
        encoder = self._transformer_maker(config) if isinstance(config, TransformerConfig) else self.encoder
        if self.custom is not None:
            encoder = self._custom_maker(self.custom, config)
        return lambda out, extra: Network(encoder(), extra, hidden, out, self.activation)

    def _transformer_maker(self, config: TransformerConfig) -> Callable[[], Transformer]:
        values, length = sizes_of(self.space)[0], len(sizes_of(self.space))
        if config.d_model % config.heads:
            raise ConfigError(
                f"network.d_model={config.d_model} doesn't divide among network.heads={config.heads}: "
                f"use network.d_model={-(-config.d_model // config.heads) * config.heads}"
            )
        return lambda: Transformer(values, length, config.d_model, config.layers, config.heads)

    def _custom_maker(self, made: Any, config: NetworkConfig) -> Callable[[], nn.Module]:
        """Of a plug-in's encoder. It is made once here, so that what is wrong is found before the run."""

        def encoder() -> nn.Module:
            try:
                found = made(self.space, config)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f"network={self.name} can't be made: {where_raised(error)}") from error
            if not isinstance(found, nn.Module) or not isinstance(getattr(found, "out_features", None), int):
                raise ConfigError(
                    f"network={self.name}: must be an nn.Module with out_features, the size of its output"
                )
            return found

        encoder()
        return encoder

    def encoder(self) -> nn.Module:
        if isinstance(self.space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            return OneHot(sizes_of(self.space))
        assert isinstance(self.space, gym.spaces.Box)
        if isinstance(self.space, Parts):
            return Joined(self.space, [self._encoder_of(picture) for picture in self.space.pictures])
        if self.name == "cnn":
            return Convolutions(self.space.shape, channels_last(self.space), brightest(self.space))
        return Flatten(self.space.shape, 1 / brightest(self.space) if self.space.dtype == "uint8" else 1.0)

    def _encoder_of(self, picture: Picture) -> Convolutions | Flatten:
        """Of an image among other numbers, with the channels of all its frames."""
        axis = 2 if picture.channels_last else 0
        frames = len(picture.starts)
        shape = [side * frames if i == axis else side for i, side in enumerate(picture.shape)]
        if self.name == "cnn":
            return Convolutions(shape, picture.channels_last, picture.brightest)
        return Flatten(shape, 1 / picture.brightest)


def starts_at_zero(config: NetworkConfig) -> bool:
    """Whether every seed and copy starts with the same outputs: tables, and weights of features."""
    return config.name == "tabular" or (isinstance(config, LinearConfig) and config.features != "identity")


def _feature_maker(space: gym.Space[Any], config: LinearConfig) -> Callable[[int, int], nn.Module]:
    """Linear in features other than the observation itself. Raises ConfigError where they don't fit the space."""
    name = f"network.features={config.features}"
    if config.features == "onehot":
        if isinstance(space, gym.spaces.Box):
            raise ConfigError(
                f"{name} reads Discrete or MultiDiscrete observations, not {shown(space)}: use "
                "network.features=tiles or network.features=identity"
            )
        sizes = sizes_of(space)
        return lambda out, _: Linear(OneHot(sizes), out)
    if not isinstance(space, gym.spaces.Box) or is_image(space):
        instead = "network=cnn" if is_image(space) else "network.features=onehot or network=tabular"
        raise ConfigError(f"{name} reads vectors, not {shown(space)}: use {instead}")
    unit = UnitBox(bounds_of(space, config.bounds))
    k = len(unit.scales)
    if config.features == "tiles":
        tiles = Tiles(unit, config.tilings, per_dimension(config.bins, k, "network.bins"))
        fits(tiles.rows, MOST_ROWS, name, "tiles", "fewer network.bins or network.tilings, or network=mlp")
        return lambda out, _: Table(tiles, out)
    features: Polynomial | Fourier | RadialBasis
    if config.features == "rbf":
        features = RadialBasis(unit, per_dimension(config.centres, k, "network.centres"), config.width)
        fits(features.out_features, MOST_FEATURES, name, "features", "fewer network.centres, or network=mlp")
    else:
        features = (Polynomial if config.features == "poly" else Fourier)(unit, config.order)
        fits(features.out_features, MOST_FEATURES, name, "features", "a lower network.order, or network=mlp")
    return lambda out, _: Linear(features, out)


def brightest(space: gym.spaces.Box[Any]) -> float:
    """What bytes are divided by: 255 of pictures, 2 of a board of 0, 1 and 2."""
    return max(float(space.high.max()), 1.0)


def resolve_name(space: gym.Space[Any], name: str) -> str:
    """The network for this space; `auto` picks cnn for images as large as screens, mlp otherwise, also for boards.

    Raises ConfigError where the one that is named can't read it.
    """
    image = is_image(space) or isinstance(space, Parts)
    if name == "auto":
        name = "cnn" if image and _is_large(space) else "mlp"
    if name == "cnn" and not image:
        raise ConfigError(
            f"network=cnn reads images (bytes in three axes, or large ones of bounded floats), not {shown(space)}: use "
            "network=mlp or network=auto"
        )
    if name == "tabular" and isinstance(space, gym.spaces.Box):
        raise ConfigError(
            f"network=tabular looks up Discrete or MultiDiscrete observations, not {shown(space)}: use "
            + ("network=cnn" if image else "network=linear network.features=tiles (tables over a grid), or network=mlp")
        )
    if name == "transformer" and not (isinstance(space, gym.spaces.MultiDiscrete) and len(set(space.nvec.flat)) == 1):
        raise ConfigError(
            f"network=transformer reads tokens (MultiDiscrete, all of one size), not {shown(space)}: use network=auto"
        )
    return name


def _is_large(space: gym.Space[Any]) -> bool:
    """Whether an image of it has the size of a screen."""
    shapes = [picture.shape for picture in space.pictures] if isinstance(space, Parts) else [space.shape or ()]
    return any(sorted(shape)[-2] >= SMALLEST_PICTURE for shape in shapes)
