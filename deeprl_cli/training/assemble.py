"""From a checked configuration to a trainer: its parts built, its loop chosen, its graphs compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from deeprl_cli.algorithm import Algorithm
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.envs.make import make_vector_env
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.envs.sync import OneAtATimeError
from deeprl_cli.envs.vector import VectorEnv
from deeprl_cli.errors import UserError
from deeprl_cli.evaluation.evaluate import eval_envs
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.processes import hardware as hw
from deeprl_cli.processes import ranks
from deeprl_cli.processes.fingerprint import is_ours
from deeprl_cli.processes.side_by_side import SideBySide, in_place_of
from deeprl_cli.runs.warm_start import find_source, start_from
from deeprl_cli.schema.run import EpisodeConfig, MultiprocessConfig, RunConfig
from deeprl_cli.training.asynchronous import AsynchronousTrainer, workers_of
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.demonstrations import DemonstrationTrainer
from deeprl_cli.training.episodes import EpisodeTrainer
from deeprl_cli.training.evaluating import most_episodes
from deeprl_cli.training.preflight import own_noise
from deeprl_cli.training.replay import ReplayTrainer
from deeprl_cli.training.rollout import RolloutTrainer
from deeprl_cli.training.services import Services

TRAINERS: dict[str, type[Trainer]] = {
    "rollout": RolloutTrainer,
    "episodes": EpisodeTrainer,
    "replay": ReplayTrainer,
    "demonstrations": DemonstrationTrainer,
}


def training_envs(cfg: RunConfig) -> VectorEnv:
    """The environments that a run, or this rank of it, learns in. Raises ConfigError."""
    group_size = cfg.algo.group_size if isinstance(cfg.algo, EpisodeConfig) else 1
    own = ranks.share_size(cfg.algo.num_envs)
    return make_vector_env(
        cfg.env,
        cfg.seed_list,
        own,
        first_env=ranks.rank() * own,
        training=True,
        groups_of=group_size,
        own_noise=own_noise(cfg),
        own=cfg.member_envs,
    )


def resolved_hardware(cfg: RunConfig, spec: EnvSpec) -> hw.Hardware:
    """What `auto` chooses, so that ranks can be told."""
    policy = make_policy(cfg, spec)
    return choose_hardware(cfg, policy)


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of. `notes` tell the user where the weights came from."""

    policy: Policy
    hardware: hw.Hardware
    envs: VectorEnv
    evaluation_envs: VectorEnv | None  # for the one process that evaluates during training, if any
    notes: list[str]

    def close(self) -> None:
        """Close the environments."""
        for envs in (self.envs, self.evaluation_envs):
            if envs is not None:
                envs.close()


def assemble(cfg: RunConfig, spec: EnvSpec, hardware: hw.Hardware | None, stack: ExitStack, *, fresh: bool) -> Parts:
    """Build the parts; `stack` closes the environments. If `fresh`, weights come from `cfg.init_from`, if given."""
    policy = make_policy(cfg, spec)
    source = find_source(cfg) if fresh else None
    notes = start_from(policy, cfg, source) if source is not None else []
    hardware = hardware or choose_hardware(cfg, policy)
    hw.apply(hardware)
    policy.on(hardware.device)
    with staying(), counted_out(cfg):
        envs = training_envs(cfg)
        stack.callback(envs.close)
        evaluation_envs = None
        if ranks.rank() == 0 and cfg.eval_every:
            evaluation_envs = eval_envs(cfg, cfg.seed_list, most_episodes(cfg.eval))
            stack.callback(evaluation_envs.close)
    hw.apply(hardware)  # again: an environment may have set its own number of threads
    return Parts(policy, hardware, envs, evaluation_envs, notes)


@contextmanager
def counted_out(cfg: RunConfig) -> Iterator[None]:
    """If a run needs more environments than can exist, say how many it needs."""
    try:
        yield
    except OneAtATimeError as error:
        training = cfg.seeds * cfg.algo.num_envs
        evaluating = f" and {cfg.seeds} or more to evaluate in" if cfg.eval_every else ""
        raise UserError(
            f"{error}: this run needs {training} to train in{evaluating}, all at once: "
            "seeds=1 algo.num_envs=1 eval.every=0 needs one"
        ) from error


def make_trainer(cfg: RunConfig, parts: Parts, services: Services) -> tuple[Trainer, hw.GraphCompiler | None]:
    """The trainer for the algorithm's loop; its graphs are compiled if the hardware says so."""
    loop = TRAINERS[get_algorithm(cfg.algo.name).loop_for(cfg.algo)] if workers_of(cfg) is None else AsynchronousTrainer
    trainer = loop(cfg, parts.policy, parts.envs, parts.evaluation_envs, parts.hardware, services)
    compiler = hw.GraphCompiler(trainer.compiling, say=services.progress.message) if parts.hardware.compile else None
    if compiler is not None:
        whole, count = parts.policy.algorithm, math.gcd(parts.hardware.parts, cfg.seeds)
        members = [part_of(cfg, parts.policy, count, number) for number in range(count)] if count > 1 else []
        whole.compile_graphs(SideBySide(compiler, members, parts.hardware.threads) if members else compiler)
        if parts.evaluation_envs is not None:
            parts.policy.algorithm.evaluated = parts.evaluation_envs.num_envs // cfg.seeds
    return trainer, compiler


def choose_hardware(cfg: RunConfig, policy: Policy) -> hw.Hardware:
    """What `auto` chooses for this run on this machine."""
    shares = (cfg.hardware.ranks or 1) if isinstance(cfg.hardware, MultiprocessConfig) else 1
    graphs, ours = policy.algorithm.graphs, is_ours(policy.algorithm)  # a plug-in may look across members
    stored = hw.stored_graphs(policy.algorithm, graphs, shares, lambda count: part_of(cfg, policy, count, 0))
    divisible = ours and cfg.seeds > 1 and shares == 1 and workers_of(cfg) is None
    return hw.resolve(cfg.hardware, workload(cfg, policy), stored, divisible=divisible)


def part_of(cfg: RunConfig, policy: Policy, count: int, number: int) -> Algorithm:
    """One of `count` equal parts of the members, on the tensors of all of them."""
    whole, size = policy.algorithm, cfg.seeds // count
    members = slice(number * size, (number + 1) * size)
    with hw.threads(1):
        part = get_algorithm(cfg.algo.name)(cfg.algo, cfg.network, whole.spec, cfg.members[members])
    in_place_of(part, whole, members)
    return part


def workload(cfg: RunConfig, policy: Policy) -> hw.Workload:
    """Rough arithmetic of the run: a training pass costs about six operations per parameter use and sample."""
    batch, gradient_steps = cfg.algo.gradient_work(cfg.total_steps)
    multiplications = sum(stack.multiplications() for stack in policy.algorithm.stacks().values())
    acts = cfg.total_steps / cfg.algo.num_envs
    shares = (cfg.hardware.ranks or 1) if isinstance(cfg.hardware, MultiprocessConfig) else 1
    return hw.Workload(6.0 * multiplications * batch * cfg.seeds / shares, gradient_steps, cfg.seeds, acts)
