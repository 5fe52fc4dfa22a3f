"""`init_from=RUN`: start from the weights of another run, of this algorithm or another.

Networks are matched by name, and fit where they have the same parameters. A policy and a value function are `actor` and
`critic`, whether an algorithm keeps them in one module or in two: behavioural cloning starts PPO as it starts GRPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deeprl_cli.envs.make import env_spec
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.runs.folder import find_run, read_config
from deeprl_cli.runs.reading import code_named, read_run
from deeprl_cli.runs.tensor_files import load_weights
from deeprl_cli.runs.weights import best_path, load_last
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain

Weights = Mapping[str, Tensor]
STATISTICS = "obs_statistics"


@dataclass(frozen=True)
class Source:
    """The run to start from, and which of its checkpoints: `best` where every seed needed has one, else `last`."""

    run: Path
    cfg: RunConfig
    checkpoint: str
    seeds: list[int]  # of the source, for each seed of the new run

    def weights(self) -> list[dict[str, Tensor]]:
        """The weights for each seed of the new run. Raises UserError where a file is missing or damaged."""
        if self.checkpoint == "best":
            return [load_weights(best_path(self.run, seed))[0] for seed in self.seeds]
        policy = make_policy(self.cfg, env_spec(self.cfg.env))
        load_last(policy, self.run)
        return [policy.weights(self.cfg.seed_list.index(seed)) for seed in self.seeds]


def find_source(cfg: RunConfig) -> Source | None:
    """What `cfg.init_from` names; None where it is null. Raises UserError where it is no run, or one without weights.

    A seed starts from the source's seed of the same number; where that has none, seeds go in order, over and over.
    """
    if cfg.init_from is None:
        return None
    try:
        algo = read_config(find_run(Path(cfg.init_from))).get("algo")
        theirs_too = isinstance(algo, dict) and algo.get("name") == cfg.algo.name  # named by the user
        run, source = read_run(Path(cfg.init_from), trust=theirs_too)
    except UserError as error:
        raise UserError(f"init_from: {error}") from error
    theirs = source.seed_list
    seeds = [seed if seed in theirs else theirs[i % len(theirs)] for i, seed in enumerate(cfg.seed_list)]
    if all(best_path(run, seed).exists() for seed in seeds):
        return Source(run, source, "best", seeds)
    if not (run / "checkpoints" / "last").exists():
        raise UserError(f"init_from={cfg.init_from}: the run has no checkpoint to start from")
    typed = code_named(to_plain(cfg), training=False)  # what the user names needs no leave
    named = [why for why in code_named(to_plain(source), training=False) if why not in typed]
    if named:
        raise UserError(
            f"init_from={cfg.init_from}: reading its last checkpoint runs code, for {'; '.join(named)}: start from a "
            "run that has best checkpoints"
        )
    return Source(run, source, "last", seeds)


def start_from(policy: Policy, cfg: RunConfig, source: Source) -> list[str]:
    """Put the source's weights into a new policy; what to tell the user.

    Raises UserError where none of its networks fits, ConfigError where the two see observations differently.
    """
    copies = {name for name, stack in policy.algorithm.stacks().items() if stack.copy_of}
    for index, weights in enumerate(source.weights()):
        own = policy.weights(index)
        ours = networks({key: tensor for key, tensor in own.items() if key.partition(".")[0] not in copies})
        theirs = networks(weights)
        if (STATISTICS in ours) != (STATISTICS in theirs):
            before = str(STATISTICS in theirs).lower()
            raise ConfigError(
                f"init_from={cfg.init_from} has learned under algo.normalize_obs={before}: give the same here"
            )
        fitting = [name for name in ours if name in theirs and fits(ours[name], theirs[name])]
        if not set(fitting) - {STATISTICS}:
            raise UserError(
                f"init_from={cfg.init_from}: none of its networks ({_described(theirs)}) fits this run's "
                f"({_described(ours)}): the same env=…, network=… and algo.hidden make them alike"
            )
        taken = {key: theirs[name][part][1] for name in fitting for part, (key, _) in ours[name].items()}
        policy.load_weights(index, own | taken)
    policy.algorithm.weights_loaded()
    pairs = ", ".join(f"seed {new} from {old}" for new, old in zip(cfg.seed_list, source.seeds, strict=True))
    notes = [f"starts from {source.run}, {source.checkpoint} checkpoint: {', '.join(fitting)} ({pairs})"]
    if kept := [f"{n} ({'another shape' if n in theirs else 'not'} there)" for n in ours if n not in fitting]:
        notes.append(f"keeps its own initial weights: {', '.join(kept)}")
    return notes


Network = dict[str, tuple[str, Tensor]]  # a parameter's name within it -> (its full name, the tensor)


def networks(weights: Weights) -> dict[str, Network]:
    """Weights `stack.parameter` of one seed by network: a stack, or each part of one that holds an actor and more."""
    stacks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        stack, _, rest = key.partition(".")
        stacks.setdefault(stack, {})[rest] = tensor
    found: dict[str, Network] = {}
    for stack, parameters in stacks.items():
        whole = not any(name.startswith("actor.") for name in parameters)
        for name, tensor in parameters.items():
            network, rest = (stack, name) if whole else (name.partition(".")[0], name.partition(".")[2])
            found.setdefault(network, {})[rest] = (f"{stack}.{name}", tensor)
    return found


def fits(ours: Network, theirs: Network) -> bool:
    """Whether two networks have the same parameters, name by name and shape by shape."""
    return ours.keys() == theirs.keys() and all(ours[n][1].shape == theirs[n][1].shape for n in ours)


def _described(found: Mapping[str, Network]) -> str:
    """`actor of 5,123 weights, critic of …`"""
    sizes = {name: sum(tensor.numel() for _, tensor in n.values()) for name, n in found.items() if name != STATISTICS}
    return ", ".join(f"{name} of {size:,} weights" for name, size in sizes.items())
