"""A trained policy as one function of tensors, from the environment's observation to its own action.

Shapes: B batch; `*frame` one observation of the environment's, k frames of a stack; `*action` the environment's own.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from deeprl_cli.deploy.trained import TrainedPolicy
from deeprl_cli.envs.actions import Rescaling
from deeprl_cli.envs.observations import ObservationView, StackedChannels
from deeprl_cli.nets.stacked import Alone
from deeprl_cli.policy import Policy
from deeprl_cli.rl.exploration import StateDependentNoise


class PolicyGraph(nn.Module):
    """`forward(obs, noise=None)`: actions `(B, *action)` and scores `(B, P)` for observations `(B, *frame)`, or
    `(B, k, *frame)` where frames are stacked, in the environment's own numbers.

    Scores are what the network says before an action is made of it: logits, Q̂(s, ·), or means (with log σ behind
    them). Nothing is remembered from one call to the next. A copy: `policy` stays as it is.
    """

    def __init__(self, policy: TrainedPolicy) -> None:
        super().__init__()
        self.inner = forgetful(policy)
        self._heard = hear(self.inner)
        self.see, self.own = Seeing(policy), Acting(policy)

    def forward(self, obs: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen = self.see(obs).unsqueeze(0)
        if self.inner.obs_statistics is not None:
            seen = self.inner.obs_statistics.normalise(seen)
        self._heard.clear()
        action = self.inner.algorithm.act(seen, None if noise is None else noise.unsqueeze(0))
        return self.own(action.squeeze(0)), self._heard[0].squeeze(0)


class Seeing(nn.Module):
    """The environment's observations as the algorithm sees them: a stack's frames put together, choices counted from 0,
    vectors flat and in 32 bits."""

    offset: Tensor | None
    origin: Tensor | None

    def __init__(self, policy: TrainedPolicy) -> None:
        super().__init__()
        view = policy.terms.view
        self.shape = view.shape
        # (k, H, W, C) has its frames brought to the channels; all other stacks are in order as they are
        self.channels_last = any(isinstance(w, StackedChannels) and w.last for w in policy.terms.to_seen)
        self.vector = view.dtype == np.float32
        self.register_buffer("offset", None if view.offset is None else torch.as_tensor(view.offset))
        self.register_buffer("origin", None if view.origin is None else torch.from_numpy(view.origin))

    def forward(self, obs: Tensor) -> Tensor:
        if self.channels_last:
            obs = obs.movedim(1, 3).flatten(3)
        seen = obs.reshape(-1, *self.shape)
        if self.offset is not None:
            seen = seen - self.offset
        if self.origin is not None:
            seen = seen - self.origin
        return seen.float() if self.vector else seen


def input_dtype(view: ObservationView) -> str:
    """Of an observation: float32, whole numbers for choices, bytes for images; 64 bits where 32 would lose a change."""
    return "float64" if view.origin is not None else str(view.dtype)


class Acting(nn.Module):
    """The algorithm's actions as the environment's: counted from its start, rescaled, in bounds and in its shape."""

    scale: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    start: Tensor | None

    def __init__(self, policy: TrainedPolicy) -> None:
        super().__init__()
        view = policy.terms.actions
        self.shape = tuple(view.source.shape or ())
        start = getattr(view.source, "start", None)
        self.register_buffer("start", torch.as_tensor(start) if start is not None and np.any(start) else None)
        self.box = Rescaling(view.source) if isinstance(view.source, Box) else None
        if self.box is not None:
            for name in ("scale", "offset", "low", "high"):
                self.register_buffer(name, torch.from_numpy(getattr(self.box, name)))

    def forward(self, action: Tensor) -> Tensor:
        if self.box is not None:
            action = action.to(self.scale.dtype)
            if self.box.scaled:
                action = action * self.scale
            if self.box.shifted:
                action = action + self.offset
            if self.box.bounded:
                action = torch.maximum(torch.minimum(action, self.high), self.low)
        own = action.reshape(-1, *self.shape)
        return own if self.start is None else own + self.start


def forgetful(policy: TrainedPolicy) -> Policy:
    """A copy on the processor that remembers nothing from one action to the next: state-dependent exploration has the
    matrix of the noise it is handed."""
    inner = deepcopy(policy.inner).on("cpu")
    for part in inner.algorithm.children():
        if isinstance(part, StateDependentNoise):
            part.num_envs = 0  # no batch is that of training
    return inner


def hear(policy: Policy) -> list[Tensor]:
    """A list to which every call of the policy's networks adds its output `(1, B, …)`, that of the first of copies."""
    heard: list[Tensor] = []
    for part in policy.algorithm.children():
        if isinstance(part, Alone):
            part.register_forward_hook(
                lambda module, _, output: heard.append(output[:, 0] if module.copies else output)
            )
    return heard


def digest(policy: TrainedPolicy) -> str:
    """SHA-256 over name, shape and bytes of every weight and observation statistic, in order of their names."""
    inner = policy.inner
    tensors = dict(inner.algorithm.named_parameters())
    if inner.obs_statistics is not None:
        tensors |= {f"obs_statistics.{name}": value for name, value in inner.obs_statistics.named_buffers()}  # type: ignore[misc]
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
