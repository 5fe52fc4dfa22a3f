"""What an algorithm is, and what it may know: the contract between `algos/` and everything else.

Shapes: S seeds, B environments or batch, obs `(S, B, *obs)`, one scalar per transition `(S, B)`, losses `(S,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.errors import ConfigError
from deeprl_cli.nets.build import NetworkFactory
from deeprl_cli.nets.stacked import Stacked
from deeprl_cli.rl.noise import Noise
from deeprl_cli.rl.optimisers import Optimiser
from deeprl_cli.schema import AlgoConfig, NetworkConfig

Fields = TypeVar("Fields", bound=tuple[Tensor, ...])
Metrics = dict[str, Tensor]  # name -> (S,), detached


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


class NoiseSpec(NamedTuple):
    """The random inputs of `act` (one draw per environment) and of one `update` or `step`."""

    act: Noise
    step: Mapping[str, Noise]


class Algorithm(nn.Module):
    """S independent learners of one algorithm.

    Subclasses name the loop they live in, what they take, and write `act`, `step` and `update`. `step` is the whole
    update as one graph: losses, gradients, clipping, the optimiser, target networks. Nothing in it draws random
    numbers or leaves tensors. Everything that moves is a parameter or a buffer, so `state_dict()` is all of it.
    """

    loop: ClassVar[Literal["rollout", "replay"]]
    action_spaces: ClassVar[tuple[type[gym.Space[Any]], ...]]
    networks: ClassVar[tuple[str, ...]] = ("linear", "mlp", "cnn")
    # Methods that compile to one full graph each. They carry no decorators: `with torch.no_grad():` stands inside.
    graphs: ClassVar[tuple[str, ...]] = ("act", "step")
    reference: ClassVar[str]
    Config: ClassVar[type[AlgoConfig]]
    config: AlgoConfig

    def __init__(self, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec, seeds: Sequence[int]) -> None:
        super().__init__()
        self.check(config, network, spec)
        self.config, self.spec, self.seeds = config, spec, list(seeds)
        self.make_network = NetworkFactory(spec.observation_space, network, config.hidden, config.activation)
        self.eager: dict[str, Callable[..., Any]] = {}

    @classmethod
    def check(cls, config: AlgoConfig, network: NetworkConfig, spec: EnvSpec) -> None:
        """Raise ConfigError for an action space, an observation or a network that this algorithm can't take."""
        if not isinstance(spec.action_space, cls.action_spaces):
            from deeprl_cli.registry import algorithms_for

            kind = type(spec.action_space).__name__
            raise ConfigError(
                f"algo={config.name} takes {_names(cls.action_spaces)} actions, but {spec.id} has {kind} actions: "
                f"use algo={' or algo='.join(algorithms_for(spec.action_space)) or '(none takes them)'}"
            )
        name = NetworkFactory(spec.observation_space, network, config.hidden, config.activation).name
        if name not in cls.networks:
            raise ConfigError(f"algo={config.name} can't use network={name}: use {' or '.join(cls.networks)}")

    # --- the three things an algorithm does -------------------------------------------------------------------

    def noise_spec(self) -> NoiseSpec:
        raise NotImplementedError

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Actions `(S, B, *action)` for obs `(S, B, *obs)`; `noise=None` is the deterministic policy of evaluation."""
        raise NotImplementedError

    def update(self, data: Any, noise: Any) -> Metrics:
        """Learn from `data`: the deck's loop around `step`.

        `rollout` loop: data is a Transition `(S, T, B, …)` and noise one draw of `noise_spec().step`.
        `replay` loop: data iterates over minibatches, Transition `(S, batch, …)`, and noise over draws for them.
        """
        raise NotImplementedError

    # --- services ---------------------------------------------------------------------------------------------

    def stacks(self) -> dict[str, Stacked]:
        """The networks by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Stacked)}

    def optimisers(self) -> list[Optimiser]:
        return [child for child in self.children() if isinstance(child, Optimiser)]

    def set_progress(self, steps: int, horizon: int) -> None:
        """Move schedules: `steps` environment steps of one seed done of `horizon`."""
        for optimiser in self.optimisers():
            optimiser.set_progress(min(steps / horizon, 1.0))

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

    def compile_graphs(self, compiler: Callable[[str, MethodType], Callable[..., Any]]) -> None:
        """Replace each of `graphs` by `compiler(name, method)`; `self.eager[name]` keeps the plain method."""
        for name in self.graphs:
            method = self.eager[name] = getattr(self, name)
            setattr(self, name, compiler(name, method))

    def act_eagerly(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """`act`, never compiled: evaluation's batch sizes would each cost a compilation."""
        action: Tensor = self.eager.get("act", self.act)(obs, noise)
        return action


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


def _names(spaces: Iterable[type]) -> str:
    return " or ".join(space.__name__ for space in spaces)
