"""The rollout buffer: T steps of every environment, in the order they happened. Shapes `(S, T, B, …)`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeprl_cli.algorithm import Transition
from deeprl_cli.envs.spec import EnvSpec, Step


class Rollout:
    """Filled step by step from numpy, read as one Transition whose tensors stay valid until it is filled again."""

    def __init__(self, spec: EnvSpec, num_seeds: int, length: int, num_envs: int) -> None:
        self.num_seeds, self.length, self.num_envs = num_seeds, length, num_envs
        obs, action = spec.observation_space, spec.action_space
        obs_dtype = torch.uint8 if obs.dtype == np.uint8 else torch.float32 if obs.dtype.kind == "f" else torch.int64  # type: ignore[union-attr]
        action_dtype = torch.float32 if action.dtype.kind == "f" else torch.int64  # type: ignore[union-attr]
        shapes = {
            "obs": (tuple(obs.shape or ()), obs_dtype),
            "action": (tuple(action.shape or ()), action_dtype),
            "reward": ((), torch.float32),
            "next_obs": (tuple(obs.shape or ()), obs_dtype),
            "terminated": ((), torch.float32),
            "truncated": ((), torch.float32),
            "weight": ((), torch.float32),
        }
        self._allocate(
            {n: torch.zeros(num_seeds, length, num_envs, *shape, dtype=dtype) for n, (shape, dtype) in shapes.items()}
        )

    def _allocate(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        # sharing memory: one numpy assignment writes a step of all seeds
        self._steps = {name: t.numpy() for name, t in tensors.items()}

    def clear(self) -> None:
        """Forget everything: what isn't written again is zeros, of weight 0."""
        for tensor in self._tensors.values():
            tensor.zero_()

    def grow(self, length: int) -> None:
        """Make room for `length` steps; the new ones have weight 0."""
        if length > self.length:
            more = {
                name: torch.cat((t, torch.zeros_like(t[:, :1]).expand(-1, length - self.length, *t.shape[2:])), 1)
                for name, t in self._tensors.items()
            }
            self.length = length
            self._allocate(more)

    def put(self, t: int, obs: np.ndarray, action: np.ndarray, step: Step) -> None:
        """Store step `t` of all N = S·B environments."""
        values = (obs, action, step.reward, step.next_obs, step.terminated, step.truncated, step.weight)
        for store, value in zip(self._steps.values(), values, strict=True):
            store[:, t] = value.reshape(store.shape[0], *store.shape[2:])

    def read(self, device: torch.device | str, length: int | None = None) -> Transition:
        """All steps, or the first `length`."""
        if length is None or length == self.length:
            return Transition(**{name: tensor.to(device) for name, tensor in self._tensors.items()})
        # cloned: the layout in memory, too, is that of `length` steps, whatever there is room for
        packed = {n: t[:, :length].clone(memory_format=torch.contiguous_format) for n, t in self._tensors.items()}
        return Transition(**{name: tensor.to(device) for name, tensor in packed.items()})

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._tensors)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self._tensors.items():
            tensor.copy_(state[name])
