"""A trained policy in the environment's own terms: its observations in, its actions out.

Shapes: B observations of a batch; `*obs` and `*action` as the environment's own spaces have them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from deeprl_cli.envs.own_terms import FrameMemory, OwnTerms
from deeprl_cli.errors import UserError
from deeprl_cli.nets.stacked import Alone, Stacked
from deeprl_cli.policy import Policy
from deeprl_cli.rl.exploration import StateDependentNoise
from deeprl_cli.rl.optimisers import Optimiser


class TrainedPolicy:
    """One seed's policy, taken over from `policy`, which learns no more. Normalisation, frame stack and the rescaling
    of actions are inside.

    `action_space` and `observation_space` are the environment's. An observation may come as the environment gives it,
    as one frame of a run that stacks frames, or as a whole stack; which one is told by its shape. What the environment
    does over time stays the environment's: skipped frames, no-ops and FIRE at the start of an Atari game.
    """

    def __init__(self, policy: Policy, terms: OwnTerms, name: str = "policy") -> None:
        if policy.num_seeds != 1:
            raise ValueError(f"a policy of one seed, not of {policy.num_seeds}")
        for child_name, child in list(policy.algorithm.named_children()):
            if isinstance(child, Stacked):
                setattr(policy.algorithm, child_name, Alone(child.module(0)))  # quicker, one observation at a time
            elif isinstance(child, Optimiser):
                delattr(policy.algorithm, child_name)
        self.inner, self.terms, self.name = policy.requires_grad_(False), terms, name
        self.observation_space, self.action_space = terms.observation_space, terms.action_space
        self._memory = FrameMemory(terms.stack)
        self._generator = torch.Generator().manual_seed(0)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.observation_space} to {self.action_space}>"

    def act(self, obs: Any, deterministic: bool = True, *, batch: bool | None = None) -> Any:
        """The action for one observation, or actions `(B, *action)` for a batch; a Discrete one as an int.

        `deterministic=False` samples it, as in training. An array that can be read as one observation is one, unless
        `batch=True`. Where the run stacks frames, single ones are remembered, those of B environments in a batch: call
        `reset` as an episode begins. Raises UserError where `obs` has no shape that fits.
        """
        given = self.terms.read(obs, batch)
        stacks = given.items if given.form == "stack" else self._memory.push(self.terms.frames(given))
        return self.terms.acted(
            self.inner.act(self.terms.seen(stacks), None if deterministic else self.draw(len(stacks))), given.many
        )

    def value(self, obs: Any, *, batch: bool | None = None) -> Any:
        """What the policy expects to earn from `obs` on, discounted: V̂(s), or Q̂(s, a) of its own action; a float, or
        `(B,)`. Under `algo.normalize_reward` in units of the rewards it was trained on.

        Nothing is remembered: where frames are stacked, ask before `act`. Raises UserError where none was learned.
        """
        given = self.terms.read(obs, batch)
        stacks = given.items if given.form == "stack" else self._memory.look(self.terms.frames(given))
        values = self.inner.value(self.terms.seen(stacks))
        if values is None:
            raise UserError(f"algo={self.inner.algorithm.config.called} learns no value, only what to do")
        return values if given.many else float(values[0])

    def reset(self, ended: npt.ArrayLike | None = None, *, seed: int | None = None) -> None:
        """An episode begins: forget what is remembered, of all environments or of those that `ended` `(B,)`.

        That is stacked frames, and of sampled actions noise with a memory: an Ornstein-Uhlenbeck process, or
        state-dependent exploration (both go on from step to step for `algo.num_envs` observations at a time, and begin
        anew at each for another number). `seed` seeds the draws.
        """
        self._memory.reset(ended)
        algorithm = self.inner.algorithm
        num_envs = algorithm.config.num_envs
        over = torch.ones(num_envs, dtype=torch.bool) if ended is None else torch.as_tensor(ended, dtype=torch.bool)
        if len(over) == num_envs:
            algorithm.episodes_ended(over.unsqueeze(0).to(self.inner.device))
        for part in algorithm.children():
            if isinstance(part, StateDependentNoise):
                part.begin()
        if seed is not None:
            self._generator.manual_seed(seed)

    def modules(self) -> dict[str, nn.Module]:
        """The networks by name, each an ordinary `nn.Module` with a copy of the weights.

        They take what the algorithm sees: a batch of observations, normalised and flattened.
        """
        children = self.inner.algorithm.named_children()
        return {name: deepcopy(child.module) for name, child in children if isinstance(child, Alone)}

    def to(self, device: str) -> TrainedPolicy:
        """Compute on `device` from now on (`cuda`, `cpu`). Raises UserError where there is no such device."""
        try:
            self.inner.on(device)
        except (AssertionError, RuntimeError) as error:
            raise UserError(f"'{device}' is no device of this machine: {str(error).splitlines()[0]}") from error
        return self

    def draw(self, count: int) -> torch.Tensor:
        """The noise of `count` sampled actions, `(1, count, …)`."""
        return self.inner.algorithm.noise_spec().act.draw((1, count), self._generator).to(self.inner.device)
