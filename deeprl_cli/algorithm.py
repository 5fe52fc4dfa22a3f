"""What an algorithm must provide and may use: the contract between `algos/` and everything else.

Shapes: S seeds, B environments or batch, obs `(S, B, *obs)`, one scalar per transition `(S, B)`, losses `(S,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import gymnasium as gym
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.build import NetworkFactory
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.exploration import Exploration, StateDependentNoise
from deeprl_cli.rl.noise import Noise
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.rl.values import Values
from deeprl_cli.schema.members import Member, as_member
from deeprl_cli.schema.run import AlgoConfig, NetworkConfig

Fields = TypeVar("Fields", bound=tuple[Tensor, ...])
Metrics = dict[str, Tensor]  # name -> (S,), detached
Members = Sequence[Member | int]  # a plain seed: a member without values of its own
Loop = Literal["rollout", "episodes", "replay", "demonstrations"]


class ActionSpaceError(ConfigError):
    """Actions of a kind that the algorithm can't take; the registry knows which others do."""


class Transition(NamedTuple):
    """What happened in one step of each environment. `next_obs` is the true next observation, never a reset one.

    Flags and `weight` are floats 0 or 1; weight 0 marks a dummy or padded transition.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor
    weight: Tensor

    @property
    def ended(self) -> Tensor:
        """e = d or u: an episode's end of either kind."""
        return torch.maximum(self.terminated, self.truncated)


class NoiseSpec(NamedTuple):
    """The random inputs of `act` (one draw per environment) and of one `update` or `step`."""

    act: Noise
    step: Mapping[str, Noise]


class Algorithm(nn.Module):
    """S independent learners of one algorithm, the `members` of the seed axis.

    `hp` holds the numbers of the configuration that members may have of their own, each `(S,)`; what a
    field without that mark says is `config`'s, and the same for all.

    Subclasses name the loop they live in, what they take, and write `act`, `step` and `update`. `step` is the whole
    update as one graph: losses, gradients, clipping, the optimiser, target networks. Nothing in it draws random
    numbers or leaves tensors. Everything that moves is a parameter or a buffer, so `state_dict()` is all of it.
    """

    loop: ClassVar[Loop]
    action_spaces: ClassVar[tuple[type[gym.Space[Any]], ...]]
    bounded_actions: ClassVar[bool] = False  # a policy squashed into [−1, 1] needs Box actions with finite bounds
    joint: ClassVar[bool] = False  # policy and V are one network, which may share layers (`network.share`)
    has_critic: ClassVar[bool] = False  # beside its actor, with layers of its own (`network.hidden_critic`)
    asynchronous: ClassVar[bool] = False  # it may train in workers over shared weights (training/worker.py)
    networks: ClassVar[tuple[str, ...]] = ("tabular", "linear", "mlp", "cnn", "transformer")
    # Methods that compile to one full graph each. They carry no decorators: `with torch.no_grad():` stands inside.
    graphs: ClassVar[tuple[str, ...]] = ("act", "step")
    untraced: ClassVar[tuple[str, ...]] = ()  # attributes that move and no graph reads: counts of the host's
    per_env: ClassVar[tuple[str, ...]] = ()  # buffers `(S, num_envs, …)`, of which a rank has its share
    reference: ClassVar[str]
    Config: ClassVar[type[AlgoConfig]]
    config: AlgoConfig

    def __init__(self, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__()
        self.check(config, network, spec)
        self.config, self.spec = config, spec
        self.members = [as_member(member) for member in members]
        self.seeds = [member.seed for member in self.members]
        # of each member, and `config` is their structure
        self.configs: list[Any] = [member.config(config) for member in self.members]
        self.hp = Values(self.configs)
        self.make_network = NetworkFactory(spec.observation_space, network, config.hidden, config.activation)
        self.eager: dict[str, Callable[..., Any]] = {}
        self.evaluated = 0  # the batch size, of each seed, that evaluation's `act` is compiled for; 0: for none
        self.worker = 0  # which of the workers it is the algorithm of, where there are several

    @classmethod
    def loop_for(cls, config: AlgoConfig) -> Loop:
        """The loop of this configuration, where an option chooses another than the class's own."""
        return cls.loop

    @classmethod
    def check(cls, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec) -> None:
        """Raise ConfigError for an action space, an observation or a network that this algorithm can't take."""
        if not isinstance(spec.action_space, cls.action_spaces):
            kind = type(spec.action_space).__name__
            raise ActionSpaceError(
                f"algo={config.called} takes {_names(cls.action_spaces)} actions, but {spec.id} has {kind} actions"
            )
        if cls.bounded_actions and isinstance(spec.action_space, Box) and not spec.action_space.is_bounded():
            raise ConfigError(
                f"algo={config.called} needs actions with finite bounds, and those of {spec.id} have none: use algo=ppo"
            )
        factory = NetworkFactory(spec.observation_space, network, config.hidden, config.activation)
        if factory.name not in cls.networks and (factory.custom is None or "mlp" not in cls.networks):
            raise ConfigError(f"algo={config.called} can't use network={factory.name}: use {' or '.join(cls.networks)}")
        if factory.share and not cls.joint:
            raise ConfigError(
                f"network.share=true joins a policy and its state value V in one network, and algo={config.called} has "
                "no V, or an optimiser for each: use network.share=false, or algo=a2c or algo=ppo"
            )
        if factory.hidden_critic is not None and (factory.share or not cls.has_critic):
            why = "network.share=true leaves the critic no layers" if factory.share else "it has no critic"
            raise ConfigError(f"network.hidden_critic: algo={config.called}: {why}: use network.hidden_critic=null")
        if cls.loop == "replay" and isinstance(spec.action_space, Box):
            factory.check_extra()  # a critic Q(s, a) reads them beside the observation
        if config.normalize_obs and factory.bounded:
            raise ConfigError(
                "algo.normalize_obs=true moves observations out of the bounds that network.features="
                f"{factory.features} divides: use algo.normalize_obs=false"
            )

    # --- the three things an algorithm does -------------------------------------------------------------------

    def noise_spec(self) -> NoiseSpec:
        raise NotImplementedError

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Actions `(S, B, *action)` for obs `(S, B, *obs)`; `noise=None` is the deterministic policy of evaluation."""
        raise NotImplementedError

    def update(self, data: Any, noise: Any) -> Metrics:
        """Learn from `data`: the deck's loop around `step`.

        `rollout` loop: data is a Transition `(S, T, B, …)` and noise one draw of `noise_spec().step`.
        `episodes` loop: the same, time padded behind each episode's end with transitions of weight 0; a seed of which
        all weights are 0 has had its share of the run and must not move.
        `replay` loop: data iterates over minibatches, Transition `(S, batch, …)`, and noise over draws for them.
        `demonstrations` loop: the same, of observations and the actions demonstrated; the rest of a Transition is 0.
        """
        raise NotImplementedError

    def expected_return(self, obs: Tensor) -> Tensor | None:
        """Q̂(s, a) `(S, B)` of the action that evaluation takes in `obs`; None where no Q̂ is learned. Held against what
        is earned from there on, it shows overestimation (deck, "Overestimation bias")."""
        return None

    def state_value(self, obs: Tensor) -> Tensor | None:
        """V̂(s) `(S, B)`, or the Q̂ of the action that evaluation takes; None where neither is learned."""
        return self.expected_return(obs)

    # --- services ---------------------------------------------------------------------------------------------

    def stacks(self) -> dict[str, Stacked]:
        """The networks by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Stacked)}

    def optimisers(self) -> list[Optimiser]:
        return [child for child in self.children() if isinstance(child, Optimiser)]

    def set_progress(self, steps: int | Tensor, horizon: int) -> None:
        """Move schedules: `steps` environment steps, of every seed or `(S,)`, done of `horizon`."""
        progress = done(steps, horizon)
        for optimiser in self.optimisers():
            optimiser.set_progress(progress)
        for part in self.children():
            if isinstance(part, StateDependentNoise):
                part.begin()  # an update is to come
        self.explore_at(progress)

    def explore_at(self, progress: float | Tensor) -> None:
        """Explore as at `progress` in [0, 1] of the run, of every seed or `(S,)`: what `act` with noise goes by."""
        for part in self.children():
            if isinstance(part, Exploration):
                part.set_progress(progress)

    def counted(self, before: int, after: int, horizon: int) -> None:
        """Of asynchronous algorithms, called on the shared weights, by one worker at a time: its sub-episode has moved
        the count of all workers' steps, and its update is to come. What goes by that count is done here, once."""
        self.set_progress(before, horizon)

    def episodes_ended(self, ended: Tensor) -> None:
        """Told after a step in which episodes ended, `(S, B)`, before the next `act`; for noise with a memory."""
        for part in self.children():
            if isinstance(part, Exploration):
                part.episodes_ended(ended)

    def weights(self, seed_index: int) -> dict[str, Tensor]:
        """One seed's network weights under their real names, without the seed axis."""
        return {
            f"{name}.{key}": tensor.clone()
            for name, stack in self.stacks().items()
            for key, tensor in stack.tensors(seed_index)
        }

    def load_weights(self, seed_index: int, tensors: Mapping[str, Tensor]) -> None:
        """Set one seed's weights from `weights(…)`. Raises ValueError where names or shapes differ."""
        for name, stack in self.stacks().items():
            prefix = f"{name}."
            stack.load(seed_index, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})

    def weights_loaded(self) -> None:
        """Told after weights came from elsewhere (`init_from`): targets and references are copies of what they copy."""
        for stack in self.stacks().values():
            for original in stack.copy_of:
                stack.flat.data.copy_(original.flat)

    def compile_graphs(self, compiler: Callable[[str, MethodType], Callable[..., Any]]) -> None:
        """Replace each of `graphs` by `compiler(name, method)`; `self.eager[name]` keeps the plain method."""
        for name in self.graphs:
            method = self.eager[name] = getattr(self, name)
            setattr(self, name, compiler(name, method))

    def act_eagerly(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`act`, never compiled: each batch size would cost a compilation."""
        action: Tensor = self.eager.get("act", self.act)(obs, noise)
        return action

    def act_evaluating(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`act` for batches of any size; without noise `evaluated` observations at a time, where that is compiled."""
        if noise is not None or not self.evaluated or "act" not in self.eager:
            return self.act_eagerly(obs, noise)
        count, size = obs.shape[1], self.evaluated
        if count == size:
            return self.act(obs, None)
        if missing := -count % size:
            obs = torch.cat((obs, obs[:, :1].expand(-1, missing, *obs.shape[2:])), 1)
        parts = [part.clone(memory_format=torch.contiguous_format) for part in obs.split(size, 1)]
        return torch.cat([self.act(part, None) for part in parts], 1)[:, :count]


def done(steps: int | Tensor, horizon: int) -> float | Tensor:
    """The share of the run, in [0, 1], of every seed or `(S,)`."""
    return min(steps / horizon, 1.0) if isinstance(steps, int) else (steps / horizon).clamp_max(1.0)


def average(metrics: Iterable[Metrics], counts: Sequence[Tensor] = ()) -> Metrics:
    """Mean of each metric over several steps; `counts`, a bool `(S,)` for each step: the seeds it counts for."""
    collected = list(metrics)
    if len(collected) < 2:
        return collected[0] if collected else {}
    stacked = {name: torch.stack([m[name] for m in collected]) for name in collected[0]}
    if not counts:
        return {name: values.mean(0) for name, values in stacked.items()}
    counted = torch.stack(list(counts))
    return {name: torch.where(counted, values, 0.0).sum(0) / counted.sum(0) for name, values in stacked.items()}


def take(samples: Fields, index: Tensor) -> Fields:
    """The samples at `index` `(S, M)`, each seed its own, of a tuple of tensors `(S, N, …)`."""
    seeds = torch.arange(index.shape[0], device=index.device).unsqueeze(-1)
    picked: Fields = type(samples)(*(field[seeds, index] for field in samples))
    return picked


def at_time(samples: Fields, t: int) -> Fields:
    """The samples of step `t`, `(S, B, …)`, of a tuple of tensors `(S, T, B, …)`; laid out alike for every t and T."""
    picked: Fields = type(samples)(*(field[:, t].clone(memory_format=torch.contiguous_format) for field in samples))
    return picked


def _names(spaces: Iterable[type]) -> str:
    return " or ".join(space.__name__ for space in spaces)
