"""Networks written for one agent. Batch first: obs `(B, *obs)`, output `(B, out)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeprl_cli.envs.spec import SMALLEST_PICTURE, Parts

SDE_EPSILON = 1e-6  # under the root of a state-dependent variance
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


class Flatten(nn.Module):
    """A Box of any shape: `(B, *obs)` to `(B, prod(obs))`; bytes are brought to 0…1 by `scale`."""

    def __init__(self, shape: Sequence[int], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.out_features = math.prod(shape)

    def forward(self, obs: Tensor) -> Tensor:
        features = obs.flatten(1).float()
        return features if self.scale == 1.0 else features * self.scale


class OneHot(nn.Module):
    """Discrete `(B,)` or MultiDiscrete `(B, k)` to concatenated one-hot vectors `(B, sum(sizes))`."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.out_features = sum(self.sizes)

    def forward(self, obs: Tensor) -> Tensor:
        columns = obs.reshape(obs.shape[0], len(self.sizes)).long()
        # a comparison, not F.one_hot: that one checks its values and can't be batched over seeds
        ranges = [torch.arange(size, device=obs.device) for size in self.sizes]
        return torch.cat([(columns[:, i, None] == r).float() for i, r in enumerate(ranges)], -1)


class Convolutions(nn.Module):
    """Frames `(B, C, H, W)` or `(B, H, W, C)` of 0…`brightest` to `(B, features)`: those of Mnih et al. (2015); for
    boards and other frames that are too small for them, three of 3x3 that keep the edges."""

    SCREEN = ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))  # channels, kernel, stride, padding
    BOARD = ((32, 3, 1, 1), (64, 3, 2, 1), (64, 3, 2, 1))

    def __init__(self, shape: Sequence[int], channels_last: bool, brightest: float = 255.0) -> None:
        super().__init__()
        self.channels_last, self.brightest = channels_last, brightest
        channels, height, width = (shape[2], *shape[:2]) if channels_last else shape
        self.multiplications = 0  # of one frame, beyond one a weight
        first, second, third = self.SCREEN if min(height, width) >= SMALLEST_PICTURE else self.BOARD
        self.conv1 = nn.Conv2d(channels, *first)
        self.conv2 = nn.Conv2d(first[0], *second)
        self.conv3 = nn.Conv2d(second[0], *third)
        convs = self.conv1, self.conv2, self.conv3
        for conv, (_, kernel, stride, padding) in zip(convs, (first, second, third), strict=True):
            height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
            self.multiplications += conv.weight.numel() * (height * width - 1)
        self.out_features = third[0] * height * width

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.permute(0, 3, 1, 2) if self.channels_last else obs
        x = x.float() / self.brightest
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return F.relu(self.conv3(x)).flatten(1)


class Joined(nn.Module):
    """A row of numbers with images in it, `(B, F)`, to `(B, features)`: each image through an encoder of its own, its
    frames in the channels; behind them the other numbers as they are."""

    def __init__(self, row: Parts, encoders: Sequence[Convolutions | Flatten]) -> None:
        super().__init__()
        self.pictures, self.encoders = row.pictures, nn.ModuleList(encoders)
        edges = np.flatnonzero(np.diff(np.concatenate(([True], row.is_pixel(), [True]))))
        self.numbers = [slice(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
        sizes = [encoder.out_features for encoder in encoders] + [part.stop - part.start for part in self.numbers]
        self.out_features = sum(sizes)

    def forward(self, obs: Tensor) -> Tensor:
        found = []
        for picture, encoder in zip(self.pictures, self.encoders, strict=True):
            pixels = [obs[:, part.start : part.stop].unflatten(1, picture.shape) for part in picture.pixels()]
            found.append(encoder(torch.cat(pixels, 3 if picture.channels_last else 1)))
        return torch.cat([*found, *(obs[:, part] for part in self.numbers)], 1)


class Network(nn.Module):
    """An encoder, then fully connected layers: `forward(obs, *extra)` joins extra inputs (actions) to the features."""

    def __init__(
        self, encoder: nn.Module, extra: int, hidden: Sequence[int], out_features: int, activation: str
    ) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = [int(encoder.out_features) + extra, *hidden]  # type: ignore[arg-type]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], out_features)
        self.activation = ACTIVATIONS[activation]()

    def features(self, obs: Tensor, *extra: Tensor) -> Tensor:
        x: Tensor = self.encoder(obs)
        if extra:
            x = torch.cat((x, *extra), -1)
        for layer in self.layers:
            x = self.activation(layer(x))
        return x

    def forward(self, obs: Tensor, *extra: Tensor) -> Tensor:
        output: Tensor = self.head(self.features(obs, *extra))
        return output


class PolicyStart(NamedTuple):
    """How a policy's network begins: its log standard deviation, orthogonal weights (`head_gain`) or torch's own.

    `sde`: generalised state-dependent exploration (Raffin et al. 2021), log σ a matrix `(F, A)` over the F features of
    the last hidden layer and the A actions.
    """

    log_std: float = 0.0
    orthogonal: bool = True
    sde: bool = False


PLAIN = PolicyStart()


class PolicyNetwork(nn.Module):
    """A policy alone: obs to `(B, P)`. Its parameters have the names of an ActorCritic's policy, so that the weights of
    one start the other (`init_from`).

    `log_std` adds a log standard deviation for each of the `out_features` means, so that P is twice as wide: one number
    a mean, the same for all states, or under `start.sde` that of φ(s)ᵀW, W ~ N(0, σ²), through which no gradient
    reaches φ. Part `explore` is then the means and φ(s), `(B, A + F)`.
    """

    def __init__(
        self,
        make: Callable[..., nn.Module],
        out_features: int,
        *,
        log_std: bool,
        start: PolicyStart = PLAIN,
    ) -> None:
        super().__init__()
        self.actor = make(out_features, head_gain=0.01 if start.orthogonal else None)
        self.sde = log_std and start.sde
        shape: tuple[int, ...] = (out_features,)
        if self.sde:
            assert isinstance(self.actor, Network)
            shape = (self.actor.head.in_features, out_features)
        self.log_std = nn.Parameter(torch.full(shape, start.log_std)) if log_std else None

    def forward(self, obs: Tensor, part: str = "policy") -> Tensor:
        if self.sde:
            features = self.actor.features(obs)  # type: ignore[operator]
            means = self.actor.head(features)  # type: ignore[operator]
            assert self.log_std is not None
            second = features if part == "explore" else state_dependent_log_std(features.detach(), self.log_std)
            return torch.cat((means, second), -1)
        logits: Tensor = self.actor(obs)
        return logits if self.log_std is None else torch.cat((logits, self.log_std.expand_as(logits)), -1)


class ActorCritic(PolicyNetwork):
    """A policy and a state value in one module: `forward(obs, part)`, part `policy` `(B, P)` or `value` `(B,)`.

    `share` gives both one trunk with two heads (the deck: "V̂ and π' may share parameters").
    """

    def __init__(
        self,
        make: Callable[..., nn.Module],
        out_features: int,
        *,
        share: bool,
        log_std: bool,
        start: PolicyStart = PLAIN,
    ) -> None:
        super().__init__(make, out_features, log_std=log_std, start=start)
        if share:
            assert isinstance(self.actor, Network)
            head = nn.Linear(self.actor.head.in_features, 1)
            self.critic: nn.Module = orthogonal_head(head, 1.0) if start.orthogonal else head
        else:
            self.critic = make(1, head_gain=1.0 if start.orthogonal else None, critic=True)
        self.share = share

    def forward(self, obs: Tensor, part: str = "policy") -> Tensor:
        if part == "value":
            value: Tensor = self.critic(self.actor.features(obs) if self.share else obs)  # type: ignore[operator]
            return value.squeeze(-1)
        return super().forward(obs, part)


class SquashedPolicyNetwork(nn.Module):
    """SAC's policy under generalised state-dependent exploration: obs to means, log standard deviations and features
    φ(s), `(B, 2A + F)`. Gradients reach φ through both; means stay within ±`clip_mean`, where tanh is not yet flat (as
    SB3 has it)."""

    def __init__(self, make: Callable[..., nn.Module], size: int, log_std: float, clip_mean: float) -> None:
        super().__init__()
        self.actor = make(size)
        assert isinstance(self.actor, Network)
        self.log_std = nn.Parameter(torch.full((self.actor.head.in_features, size), log_std))
        self.clip_mean = clip_mean

    def forward(self, obs: Tensor) -> Tensor:
        features = self.actor.features(obs)  # type: ignore[operator]
        means = self.actor.head(features).clamp(-self.clip_mean, self.clip_mean)  # type: ignore[operator]
        return torch.cat((means, state_dependent_log_std(features, self.log_std), features), -1)


def state_dependent_log_std(features: Tensor, log_std: Tensor) -> Tensor:
    """log of the standard deviation of φᵀW with W ~ N(0, σ²): ½ log(φ² σ² + 1e-6), `(B, A)` for φ `(B, F)` and log σ
    `(F, A)` (Raffin et al. 2021, eq. 9; SB3's 1e-6)."""
    return 0.5 * (features.square() @ (2 * log_std).exp() + SDE_EPSILON).log()


def orthogonal_head(layer: nn.Linear, gain: float) -> nn.Linear:
    orthogonal_layer(layer, gain)
    return layer


def orthogonal_layer(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def orthogonal(network: Network, head_gain: float) -> Network:
    """Orthogonal weights of gain √2, zero biases, and a head of its own gain: the on-policy habit (PPO's code)."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            orthogonal_layer(module, math.sqrt(2))
    orthogonal_layer(network.head, head_gain)
    return network
