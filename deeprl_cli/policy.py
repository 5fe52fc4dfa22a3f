"""An algorithm with its normalisers: raw observations in, actions out. Training and evaluation both act through it.

Shapes: S seeds, B environments per seed, N = S·B (seed-major).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from deeprl_cli.algorithm import Algorithm, Transition
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.envs.spec import EnvSpec, Parts, Step
from deeprl_cli.processes import ranks
from deeprl_cli.processes.hardware import threads
from deeprl_cli.rl.normalisers import RewardScaler, RunningStatistics
from deeprl_cli.schema.run import RunConfig


class Policy(nn.Module):
    """Owns the running statistics that `algo.normalize_obs` and `algo.normalize_reward` ask for.

    They move in training only, by `observe…`; `act` and `normalise` read them.
    """

    def __init__(self, algorithm: Algorithm, num_envs: int) -> None:
        super().__init__()
        self.algorithm, self.num_seeds = algorithm, len(algorithm.seeds)
        config, space = algorithm.config, algorithm.spec.observation_space
        vector = isinstance(space, Box) and space.dtype != np.uint8  # bytes are scaled by the network, choices aren't
        shape = tuple(space.shape or ())
        pixels = torch.from_numpy(space.is_pixel()) if isinstance(space, Parts) else None
        self.obs_statistics = (
            RunningStatistics(self.num_seeds, shape, pixels) if config.normalize_obs and vector else None
        )
        self.reward_scaler = RewardScaler(self.num_seeds, num_envs) if config.normalize_reward else None
        self.obs_shape = shape
        self.device = torch.device("cpu")

    def on(self, device: str) -> Policy:
        """Move everything to `device`, in place."""
        self.device = torch.device(device)
        return self.to(self.device)

    def act(self, obs: np.ndarray, noise: Tensor | None, *, evaluating: bool = False) -> np.ndarray:
        """Actions `(N, *action)` for raw observations `(N, *obs)`; `noise` `(S, B, …)`, None for the mode.

        `evaluating`: N may be any number, and cost no compilation of its own.
        """
        x = self._seen(obs)
        action = self.algorithm.act_evaluating(x, noise) if evaluating else self.algorithm.act(x, noise)
        actions: np.ndarray = action.flatten(0, 1).cpu().numpy()
        return actions

    def expected_return(self, obs: np.ndarray) -> np.ndarray | None:
        """What a learned Q̂ says that acting for the best earns from `obs` on, discounted, in the environment's rewards:
        `(N,)`, or None without a Q̂."""
        expected = self.algorithm.expected_return(self._seen(obs))
        if expected is None:
            return None
        if self.reward_scaler is not None:
            expected = expected * self.reward_scaler.std().unsqueeze(-1)
        found: np.ndarray = expected.flatten().cpu().numpy()
        return found

    def value(self, obs: np.ndarray) -> np.ndarray | None:
        """V̂(s) `(N,)`, or the Q̂ of the mode where that is learned instead; None without either. Of scaled rewards
        where those are scaled."""
        values = self.algorithm.state_value(self._seen(obs))
        found: np.ndarray | None = None if values is None else values.flatten().cpu().numpy()
        return found

    def _seen(self, obs: np.ndarray) -> Tensor:
        """Observations `(N, *obs)` as the networks take them, `(S, B, *obs)`."""
        x = torch.from_numpy(obs).view(self.num_seeds, -1, *self.obs_shape).to(self.device)
        return x if self.obs_statistics is None else self.obs_statistics.normalise(x)

    def normalise(self, data: Transition) -> Transition:
        """The same transitions with normalised observations and scaled rewards."""
        if self.obs_statistics is not None:
            data = data._replace(
                obs=self.obs_statistics.normalise(data.obs), next_obs=self.obs_statistics.normalise(data.next_obs)
            )
        if self.reward_scaler is not None:
            data = data._replace(reward=self.reward_scaler.scale(data.reward))
        return data

    def observe(self, obs: Tensor, weight: Tensor) -> None:
        """Take observations `(S, n, *obs)` into the statistics."""
        if self.obs_statistics is not None:
            self.obs_statistics.update(obs, weight)

    def observe_rewards(self, reward: Tensor, terminated: Tensor, truncated: Tensor, weight: Tensor) -> None:
        """Take rewards of consecutive steps `(S, T, B)` into the scale."""
        if self.reward_scaler is not None:
            gamma = self.algorithm.hp.gamma
            self.reward_scaler.update(reward, torch.maximum(terminated, truncated), weight, gamma)

    def observe_step(self, obs: np.ndarray, step: Step) -> None:
        """Both, for one step of N environments."""
        if self.obs_statistics is None and self.reward_scaler is None:
            return
        lead = (self.num_seeds, -1)
        weight = torch.from_numpy(step.weight).view(lead).to(self.device)
        self.observe(torch.from_numpy(obs).view(*lead, *self.obs_shape).to(self.device), weight)
        reward, terminated, truncated = (
            torch.from_numpy(x).float().view(lead).unsqueeze(1).to(self.device)
            for x in (step.reward, step.terminated, step.truncated)
        )
        self.observe_rewards(reward, terminated, truncated, weight.unsqueeze(1))

    def whole_state(self) -> dict[str, Any]:
        """`state_dict()` as one process has it: what belongs to environments is that of all ranks' environments."""
        state = self.state_dict()
        for name in self._per_env():
            state[name] = ranks.gathered(state[name]).movedim(0, 1).flatten(1, 2)
        return state

    def load_whole_state(self, state: Mapping[str, Any]) -> None:
        """Set this rank's share of `whole_state()`."""
        self.load_state_dict({**state, **{name: ranks.share(state[name]) for name in self._per_env()}})

    def _per_env(self) -> list[str]:
        """The entries of `state_dict()` with a number for each environment, `(S, num_envs, …)`."""
        if ranks.size() == 1:
            return []
        names = [
            f"{prefix}.{name}" for prefix, module in self.named_modules() for name in getattr(module, "per_env", ())
        ]
        return [name for name in names if name in self.state_dict()]

    def weights(self, seed_index: int) -> dict[str, Tensor]:
        """All that evaluation needs of one seed: network weights and the frozen observation statistics."""
        tensors = self.algorithm.weights(seed_index)
        if self.obs_statistics is not None:
            tensors |= {
                f"obs_statistics.{name}": value[seed_index].clone()
                for name, value in self.obs_statistics.named_buffers()
            }
        return tensors

    def load_weights(self, seed_index: int, tensors: Mapping[str, Tensor]) -> None:
        """Set one seed from `weights(…)`. Raises ValueError where names or shapes differ."""
        self.algorithm.load_weights(seed_index, tensors)
        if self.obs_statistics is not None:
            for name, value in self.obs_statistics.named_buffers():
                value[seed_index].copy_(tensors[f"obs_statistics.{name}"])


def make_policy(cfg: RunConfig, spec: EnvSpec) -> Policy:
    """The run's algorithm and its normalisers, fresh, on the processor.

    On one thread, whatever a run before this one in the process has left: the decomposition behind orthogonal weights
    rounds otherwise on two.
    """
    with threads(1):
        algorithm = get_algorithm(cfg.algo.name)(cfg.algo, cfg.network, spec, cfg.members)
        return Policy(algorithm, cfg.algo.num_envs)
