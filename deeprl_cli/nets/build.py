"""From an observation space and the network options to a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from torch import nn

from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.modules import ActorCritic, Flatten, NatureCNN, Network, OneHot, orthogonal
from deeprl_cli.schema import NetworkConfig

SMALLEST_FRAME = 36  # pixels a side that survive the three convolutions of the Nature CNN


class NetworkFactory:
    """Makes networks for one observation space: `factory(out_features, …)` builds a fresh single-agent module.

    `hidden` and `activation` are the algorithm's own, used where the network options leave them null. Raises
    ConfigError when the named network can't read the observation.
    """

    def __init__(self, space: gym.Space[Any], config: NetworkConfig, hidden: Sequence[int], activation: str) -> None:
        self.space, self.name = space, resolve_name(space, config.name)
        self.hidden = [] if self.name == "linear" else list(config.hidden if config.hidden is not None else hidden)
        if self.name == "cnn" and config.hidden is None:
            self.hidden = [512]  # the fully connected layer of Mnih et al. (2015)
        self.activation = config.activation or ("relu" if self.name == "cnn" else activation)
        self.share = config.share

    def __call__(self, out_features: int, *, extra: int = 0, head_gain: float | None = None) -> Network:
        """Output `(B, out_features)`; `extra` inputs join after the encoder; a `head_gain` asks for orthogonal."""
        network = Network(self.encoder(), extra, self.hidden, out_features, self.activation)
        return network if head_gain is None else orthogonal(network, head_gain)

    def actor_critic(self, out_features: int, *, log_std: bool) -> ActorCritic:
        """A policy head of `out_features` and a state value, sharing their trunk under `network.share`."""
        return ActorCritic(self, out_features, share=self.share, log_std=log_std)

    def encoder(self) -> nn.Module:
        if isinstance(self.space, gym.spaces.Discrete):
            return OneHot([int(self.space.n)])
        if isinstance(self.space, gym.spaces.MultiDiscrete):
            return OneHot([int(n) for n in self.space.nvec])
        assert isinstance(self.space, gym.spaces.Box)
        if self.name == "cnn":
            return NatureCNN(self.space.shape, channels_last(self.space.shape))
        return Flatten(self.space.shape, 1 / 255 if self.space.dtype == "uint8" else 1.0)


def is_image(space: gym.Space[Any]) -> bool:
    """A Box of three axes of bytes."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == "uint8"


def channels_last(shape: Sequence[int]) -> bool:
    """(H, W, C) as gymnasium's environments give them, against (C, H, W), a stack of grey frames."""
    return shape[2] <= shape[0]


def resolve_name(space: gym.Space[Any], name: str) -> str:
    """The network for this space: `auto` picks cnn for images, mlp otherwise. Raises ConfigError where it can't fit."""
    image = is_image(space)
    if name == "auto":
        name = "cnn" if image else "mlp"
    if name == "cnn" and not image:
        raise ConfigError(f"network=cnn reads images (bytes, three axes), not {space}: use network=mlp or network=auto")
    if name == "cnn" and min(sorted(space.shape or ())[-2:]) < SMALLEST_FRAME:
        raise ConfigError(
            f"network=cnn needs frames of at least {SMALLEST_FRAME}x{SMALLEST_FRAME}, "
            f"not {space.shape}: use network=mlp"
        )
    return name
