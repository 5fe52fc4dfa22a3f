"""Networks written for one agent. Batch first: obs `(B, *obs)`, output `(B, out)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class NatureCNN(nn.Module):
    """The convolutions of Mnih et al. (2015): frames `(B, C, H, W)` or `(B, H, W, C)` of 0…`brightest` to
    `(B, features)`."""

    def __init__(self, shape: Sequence[int], channels_last: bool, brightest: float = 255.0) -> None:
        super().__init__()
        self.channels_last, self.brightest = channels_last, brightest
        channels, height, width = (shape[2], *shape[:2]) if channels_last else shape
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3, stride=1)
        self.multiplications = 0  # of one frame, beyond one a weight
        for conv in (self.conv1, self.conv2, self.conv3):
            kernel, stride = conv.kernel_size[0], conv.stride[0]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            self.multiplications += conv.weight.numel() * (height * width - 1)
        self.out_features = 64 * height * width

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.permute(0, 3, 1, 2) if self.channels_last else obs
        x = x.float() / self.brightest
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return F.relu(self.conv3(x)).flatten(1)


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


class ActorCritic(nn.Module):
    """A policy and a state value in one module: `forward(obs, part)`, part `policy` `(B, P)` or `value` `(B,)`.

    `share` gives both one trunk with two heads (the deck: "V̂ and π' may share parameters"). `log_std` adds a
    state-independent log standard deviation for each of the `out_features` means, so that P is twice as wide.
    """

    def __init__(self, make: Callable[..., nn.Module], out_features: int, *, share: bool, log_std: bool) -> None:
        super().__init__()
        self.actor = make(out_features, head_gain=0.01)
        if share:
            assert isinstance(self.actor, Network)
            self.critic: nn.Module = orthogonal_head(nn.Linear(self.actor.head.in_features, 1), 1.0)
        else:
            self.critic = make(1, head_gain=1.0)
        self.share = share
        self.log_std = nn.Parameter(torch.zeros(out_features)) if log_std else None

    def forward(self, obs: Tensor, part: str) -> Tensor:
        if part == "value":
            value: Tensor = self.critic(self.actor.features(obs) if self.share else obs)  # type: ignore[operator]
            return value.squeeze(-1)
        logits: Tensor = self.actor(obs)
        return logits if self.log_std is None else torch.cat((logits, self.log_std.expand_as(logits)), -1)


class PolicyNetwork(nn.Module):
    """A policy alone: obs to `(B, P)`. Its parameters have the names of an ActorCritic's policy, so that the weights of
    one start the other (`init_from`)."""

    def __init__(self, make: Callable[..., nn.Module], out_features: int, *, log_std: bool) -> None:
        super().__init__()
        self.actor = make(out_features, head_gain=0.01)
        self.log_std = nn.Parameter(torch.zeros(out_features)) if log_std else None

    def forward(self, obs: Tensor) -> Tensor:
        logits: Tensor = self.actor(obs)
        return logits if self.log_std is None else torch.cat((logits, self.log_std.expand_as(logits)), -1)


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
