"""Small instances of every registered algorithm, data made by hand, and trainers built as `training/assemble.py` does.

Nothing here names an algorithm: a new one is tested from its `loop`, `action_spaces` and configuration alone.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from deeprl_cli.algorithm import Algorithm, EnvSpec, Transition
from deeprl_cli.algos.registry import algorithm_names, get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.make import env_spec
from deeprl_cli.evaluation.evaluate import eval_envs
from deeprl_cli.policy import Policy, make_policy
from deeprl_cli.processes import hardware as hw
from deeprl_cli.rl.noise import NoiseStream
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.schema.members import Member, own_values
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.assemble import TRAINERS, training_envs
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.evaluating import most_episodes
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.run import train
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Outlet

SEEDS = [3, 11, 7]
HORIZON = 1000  # environment steps that schedules run over
MINIBATCHED = ("replay", "demonstrations")  # loops that hand over minibatches
MINIBATCHES = 3  # gradient steps of one update in these

ACTION_SPACES: dict[type, gym.Space] = {
    spaces.Discrete: spaces.Discrete(3),
    spaces.Box: spaces.Box(-1.0, 1.0, (2,)),
    spaces.MultiDiscrete: spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary: spaces.MultiBinary(3),
}
OBSERVATION_SPACES: dict[str, gym.Space] = {
    "vector": spaces.Box(-np.inf, np.inf, (4,)),
    "discrete": spaces.Discrete(5),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
}
# of the fields an algorithm may have, values small enough for a test
SMALL = {
    "num_envs": 2,
    "hidden": "[16,16]",
    "rollout_length": 8,
    "batch_size": 8,
    "epochs": 2,
    "cg_iterations": 3,
    "backtrack_steps": 5,
    "buffer_capacity": 500,
    "learning_starts": 32,
    "train_every": 4,
    "gradient_steps": 1,
    "target_every": 40,
    "group_size": 2,
}
NOISY = ["algo.exploration.kind=ou", "algo.exploration.kind=none", "algo.exploration.sigma_schedule=linear"]
# what an option can't do without
WITH = {
    "algo.td_target=sarsa": "algo.buffer_capacity=2 algo.batch_size=2 algo.train_every=2",
    "algo.td_gradient=full": "algo.target_update=none",
    "algo.update=per_step": "algo.normalize_advantage=false",
    "algo.bootstrap=target": "algo.target_every=50",
}
# options whose alternatives aren't a list of words, and so aren't found by `literal_options`
MORE_OPTIONS = {
    "ppo": [
        "algo.orthogonal=false algo.log_std_init=-2",
        "algo.normalize_advantage=false",
        "network.share=true",
        "algo.minibatch=sample algo.updates=3 algo.batch_size=5",
        "algo.kl.mode=stop algo.kl.target=2e-6 algo.epochs=6",
        "algo.kl.mode=stop algo.kl.target=2e-6 algo.epochs=6 algo.kl.estimator=k3 algo.minibatch=sample",
        "algo.kl.mode=penalty algo.kl.adaptive=true algo.kl.target=1e-5",
        "algo.kl.mode=penalty algo.kl.estimator=k1 algo.kl.importance_weight=true",
        "algo.kl.mode=penalty algo.kl.estimator=k2",
        "algo.kl.mode=penalty algo.kl.estimator=k3 algo.kl.ref=initial",
        "algo.kl.mode=penalty algo.kl.estimator=k1 algo.kl.where=reward algo.kl.ref=initial",
    ],
    "sac": [
        "algo.sde.enabled=true algo.sde.sample_every=2 algo.sde.log_std_init=-1 algo.sde.warm_up=true",
        "algo.sde.enabled=true algo.exploration.kind=ou",
        "algo.alpha=0.2",
        "algo.target_entropy=-0.5",
        "algo.rho=null algo.tau=0.1",
        "algo.exploration.kind=ou algo.exploration.sigma_schedule=linear",
    ],
    "ddpg": ["algo.target_policy=false", "algo.rho=null algo.tau=0.1", *NOISY],
    "td3": ["algo.policy_delay=1", "algo.rho=null algo.tau=0.1", *NOISY],
    "reinforce": [
        "algo.gamma_t=true algo.ent_coef=0.1 algo.update=per_step algo.normalize_advantage=false",
        "algo.baseline=none algo.tail=zero algo.normalize_advantage=false",
        "algo.accumulate_steps=2",
    ],
    "actor_critic": ["algo.gamma_t=true", "algo.rollout_length=1", "algo.accumulate_steps=3"],
    "a2c": [
        "algo.orthogonal=false algo.log_std_init=0.5",
        "algo.advantage=nstep algo.nstep=3 algo.normalize_advantage=true",
        "algo.subepisodes=terminal algo.bootstrap=target algo.target_every=50 algo.ent_coef=0.1",
        "algo.gae_lambda=0.9 algo.bootstrap=target algo.target_every=50",
        "network.share=true",
        "algo.subepisodes_per_update=2",
    ],
    "trpo": ["algo.sub_sampling=4 algo.orthogonal=false algo.log_std_init=-1"],
    "grpo": [
        "algo.updates=2 algo.num_envs=4 algo.gamma=0.9 algo.ent_coef=0.1",
        "algo.updates=2 algo.kl.coef=0.5 algo.ref_sync_every=2",
        "algo.updates=2 algo.kl.coef=0.5 algo.kl.estimator=exact algo.aggregation=sequence",
        "algo.updates=2 algo.kl.coef=0.5 algo.kl.estimator=k1 algo.kl.importance_weight=true",
    ],
    "dqn": [
        "algo.target_update=polyak algo.rho=null algo.tau=0.1",
        "algo.double=clipped algo.target_update=none algo.td_gradient=full",
    ],
}
ENVIRONMENTS = {spaces.Discrete: "CartPole-v1", spaces.Box: "Pendulum-v1"}  # to train on, by action space
IMITATORS = {"bc"}  # learn from demonstrations: rewards and ends mean nothing to them, no episode is played in training

# with everything on that a policy of continuous actions may have: they act in a Box
STATE_DEPENDENT = {
    "ppo": "algo.sde.enabled=true algo.sde.sample_every=3 algo.log_std_init=-1 algo.orthogonal=false",
    "a2c": "algo.sde.enabled=true algo.log_std_init=-1 algo.orthogonal=false network.share=true",
    "trpo": "algo.sde.enabled=true algo.sde.sample_every=2 algo.log_std_init=-1 algo.sub_sampling=2",
    "sac": "algo.sde.enabled=true algo.sde.sample_every=3 algo.sde.log_std_init=-1 algo.sde.warm_up=true",
}
PAIRS = [(name, kind.__name__) for name in algorithm_names() for kind in get_algorithm(name).action_spaces]
ALGORITHMS = algorithm_names()


# --- configurations ---------------------------------------------------------------------------------------------------


@cache
def configured(*overrides: str) -> RunConfig:
    """`load_config`, once for each list of overrides: composing takes longer than the tests themselves."""
    return load_config(overrides)


def small(name: str) -> list[str]:
    """Overrides that make `algo=name` small, for the fields it has."""
    fields = {field.name for field in dataclasses.fields(get_algorithm(name).Config)}
    return [f"algo={name}", "tuned=none", *(f"algo.{key}={value}" for key, value in SMALL.items() if key in fields)]


def literal_options(name: str) -> list[str]:
    """Every value of every option of `name` that is chosen from a list of words, but for the default."""
    Config = get_algorithm(name).Config  # noqa: N806
    default = configured(f"algo={name}", "tuned=none").algo
    found = []
    for key, kind in typing.get_type_hints(Config).items():
        if typing.get_origin(kind) is typing.Literal:
            found += [f"algo.{key}={value}" for value in typing.get_args(kind) if value != getattr(default, key)]
    return [f"{option} {WITH[option]}" if option in WITH else option for option in found]


OPTIONS = [(name, option) for name in ALGORITHMS for option in literal_options(name) + MORE_OPTIONS.get(name, [])]


def training_env(name: str) -> str:
    """An environment that `algo=name` can be trained on."""
    if name in IMITATORS:
        return "ArithQA-v0"
    return next(env for kind, env in ENVIRONMENTS.items() if kind in get_algorithm(name).action_spaces)


# --- algorithms on data made by hand ----------------------------------------------------------------------------------


def make_algorithm(
    name: str,
    action: str | None = None,
    seeds: Sequence[int] = SEEDS,
    options: Sequence[str] = (),
    obs: str = "vector",
    members: Sequence[Member] = (),
) -> Algorithm:
    """A small instance acting in the space named (the first it takes: None), its weights those of `seeds`; or of
    `members`, who have values of their own."""
    cfg = configured(*small(name), *options)
    algorithm_class = get_algorithm(name)
    kinds = {kind.__name__: space for kind, space in ACTION_SPACES.items()}
    space = kinds[action or algorithm_class.action_spaces[0].__name__]
    return algorithm_class(cfg.algo, cfg.network, EnvSpec("Test-v0", OBSERVATION_SPACES[obs], space), members or seeds)


def members_apart(name: str, options: Sequence[str] = ()) -> list[Member]:
    """Three members, the first two of one seed, that differ in every value in which they may."""
    algo = configured(*small(name), *options).algo
    numbers = {key: value for key, value in own_values(algo).items() if not isinstance(value, str | None)}

    def scaled(value: Any, by: float) -> Any:
        return [scaled(item, by) for item in value] if isinstance(value, list) else value * by

    others = ({f"algo.{key}": scaled(value, by) for key, value in numbers.items()} for by in (1.0, 0.8, 0.6))
    return [Member(str(i), seed, values) for i, (seed, values) in enumerate(zip((3, 3, 7), others, strict=True))]


def draw(space: gym.Space, lead: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    """Random members of a space (finite numbers where it is unbounded), `(*lead, *shape)`."""
    if isinstance(space, spaces.Discrete):
        return torch.from_numpy(rng.integers(space.n, size=lead))
    if isinstance(space, spaces.MultiDiscrete):
        return torch.from_numpy(rng.integers(space.nvec, size=(*lead, *space.shape)))
    if isinstance(space, spaces.MultiBinary):
        return torch.from_numpy(rng.integers(2, size=(*lead, *space.shape)))
    if space.dtype == np.uint8:
        return torch.from_numpy(rng.integers(256, size=(*lead, *space.shape), dtype=np.uint8))
    return torch.from_numpy(rng.standard_normal((*lead, *space.shape), np.float32)).clamp(-0.99, 0.99)


def one_seed(algorithm: Algorithm, lead: tuple[int, ...], rng: np.random.Generator) -> Transition:
    """Random transitions of one seed, `(*lead, …)`; episodes end in both ways, and the step after an end is a dummy."""
    spec = algorithm.spec
    ends = rng.random(lead)
    terminated, truncated = ends < 0.15, (ends > 0.1) & (ends < 0.25)  # one in twenty is both
    weight = np.ones(lead, np.float32)
    if algorithm.loop_for(algorithm.config) == "episodes":  # every environment plays one, padded behind its end
        over = np.cumsum(terminated | truncated, 0) - (terminated | truncated) > 0
        weight[over], terminated[over], truncated[over] = 0, False, False
    elif algorithm.loop == "rollout":  # time is the first axis
        for t in range(1, lead[0]):
            dummy = (terminated[t - 1] | truncated[t - 1]) & (weight[t - 1] > 0)
            weight[t][dummy] = 0
            terminated[t][dummy] = truncated[t][dummy] = False
    return Transition(
        obs=draw(spec.observation_space, lead, rng),
        action=draw(spec.action_space, lead, rng),
        reward=torch.from_numpy(rng.standard_normal(lead, np.float32)),
        next_obs=draw(spec.observation_space, lead, rng),
        terminated=torch.from_numpy(terminated).float(),
        truncated=torch.from_numpy(truncated).float(),
        weight=torch.from_numpy(weight),
    )


def batches(algorithm: Algorithm, update: int) -> list[Transition]:
    """The data of one update, each seed's its own: one rollout `(S, T, B, …)`, or minibatches `(S, batch, …)`."""
    config: Any = algorithm.config
    rollout = algorithm.loop not in MINIBATCHED
    lead = (getattr(config, "rollout_length", 16), config.num_envs) if rollout else (config.batch_size,)
    per_seed = []
    for seed in algorithm.seeds:
        rng = np.random.default_rng([seed, update])
        per_seed.append([one_seed(algorithm, lead, rng) for _ in range(1 if rollout else MINIBATCHES)])
    return [
        Transition(*(torch.stack(field) for field in zip(*same, strict=True))) for same in zip(*per_seed, strict=True)
    ]


class Learner:
    """An algorithm, its noise, and a count of updates: `learn()` does the next one."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm, self.updates = algorithm, 0
        self.noise = NoiseStream(algorithm.seeds, "update", algorithm.noise_spec().step)

    def data(self) -> list[Transition]:
        return batches(self.algorithm, self.updates)

    def learn(self, data: list[Transition] | None = None) -> dict[str, torch.Tensor]:
        data = self.data() if data is None else data
        self.updates += 1
        self.algorithm.set_progress(self.updates * 50, HORIZON)
        if self.rollout:
            return self.algorithm.update(data[0], self.noise.next())
        return self.algorithm.update(iter(data), (self.noise.next() for _ in data))

    def obs(self) -> torch.Tensor:
        """Observations to act on, `(S, B, *obs)`."""
        return batches(self.algorithm, 1000)[0].obs[:, 0] if self.rollout else batches(self.algorithm, 1000)[0].obs

    @property
    def rollout(self) -> bool:
        return self.algorithm.loop not in MINIBATCHED


def shaken(policy: Policy) -> Policy:
    """A policy whose every weight matters, as after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            fan_in = parameter.shape[1:].numel() if parameter.ndim > 1 else 1
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5 / fan_in**0.5)
        if policy.obs_statistics is not None:
            policy.obs_statistics.mean.normal_(generator=generator).mul_(3)
            policy.obs_statistics.var.uniform_(0.01, 30, generator=generator)
    return policy


def act_noise(algorithm: Algorithm, obs: torch.Tensor) -> torch.Tensor:
    return NoiseStream(algorithm.seeds, "act", {"act": algorithm.noise_spec().act}, (obs.shape[1],)).next()["act"]


def state(algorithm: Algorithm) -> dict[str, Any]:
    """A copy of everything that moves."""
    return copy.deepcopy(algorithm.state_dict())


def assert_close(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float, seed: int | None = None) -> None:
    """Two states or metrics are equal to float tolerance; `seed`: this one's share of ours `(S, …)`, alone in theirs.

    What isn't a tensor `(S, …)` is shared by all seeds, and equal.
    """
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if not isinstance(value, torch.Tensor):
            assert ours[key] == value, key
            continue
        got = ours[key] if seed is None or not value.ndim else ours[key][seed : seed + 1]
        torch.testing.assert_close(
            got, value, rtol=tolerance, atol=tolerance / 10, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
        )


def perturb(data: list[Transition], where: str, fields: Sequence[str]) -> list[Transition]:
    """The same data with other numbers in `fields` of the transitions that a condition picks.

    `where`: "terminated", "truncated" (and not terminated), or "dummy".
    """

    def changed(batch: Transition) -> Transition:
        mask = {
            "terminated": batch.terminated > 0,
            "truncated": (batch.truncated > 0) & (batch.terminated == 0) & (batch.weight > 0),
            "dummy": batch.weight == 0,
        }[where]
        new = {}
        for field in fields:
            value = getattr(batch, field)
            wide = mask.view(*mask.shape, *[1] * (value.ndim - mask.ndim))
            new[field] = torch.where(wide, value + 1 if value.is_floating_point() else 1 - value.clamp(0, 1), value)
        return batch._replace(**new)

    return [changed(batch) for batch in data]


# --- whole runs -------------------------------------------------------------------------------------------------------


def short_run(name: str, run_dir: Path, *options: str) -> RunConfig:
    """A run of a few hundred steps: at least two evaluations and a checkpoint on the way."""
    return load_config(
        [
            *small(name),
            f"env={training_env(name)}",
            "hardware.compile=false",
            "hardware.threads=1",
            "total_steps=240",
            "eval.every=100",
            "eval.episodes=2",
            "eval.final_episodes=2",
            "checkpoint.every=100",
            "log.every=48",
            "log.tensorboard=false",
            "env.max_episode_steps=30",
            f"run_dir={run_dir}",
            *options,
        ]
    )


def trained(cfg: RunConfig) -> tuple[Path, dict[str, torch.Tensor]]:
    """`train(cfg)`: the run folder, and everything its last checkpoint holds of the policy."""
    with redirect_stdout(io.StringIO()):
        run = train(cfg)
    return run, load_checkpoint(run / "checkpoints" / "last").state["policy"]


class SilentServices(Services):
    """Keeps what a trainer reports instead of writing and showing it."""

    def __init__(self, run_dir: Path, runs: int = 1) -> None:
        self.logged: list[tuple[int, Mapping[str, Sequence[float]]]] = []
        self.messages: list[str] = []
        logger: Any = SimpleNamespace(
            log=lambda steps, values: self.logged.append((min(steps), dict(values))), flush=dict
        )
        ignore = lambda *_: None  # noqa: E731
        progress = Progress(1, 1, io.StringIO())
        progress.message = self.messages.append  # type: ignore[method-assign]
        chain: Any = SimpleNamespace(extend=ignore, state_dict=dict)
        folders = [run_dir] if runs == 1 else [run_dir / str(number) for number in range(runs)]
        super().__init__([Outlet(folder, logger, chain) for folder in folders], progress, lambda: False)


@contextmanager
def opened_trainer(cfg: RunConfig, run_dir: Path) -> Iterator[Trainer]:
    """A trainer for `cfg` that has not started; its environments are closed at the end."""
    spec = env_spec(cfg.env)
    policy = make_policy(cfg, spec)
    envs = training_envs(cfg)
    evaluation_envs = eval_envs(cfg, cfg.seed_list, most_episodes(cfg.eval))
    hardware = hw.Hardware("cpu", 1, False, "highest")
    try:
        yield TRAINERS[policy.algorithm.loop_for(cfg.algo)](
            cfg, policy, envs, evaluation_envs, hardware, SilentServices(run_dir, len(cfg.jobs))
        )
    finally:
        envs.close()
        evaluation_envs.close()


def held(trainer: Trainer) -> list[Transition]:
    """What a replay memory holds, each seed's in storage order, fields `(n, …)`; [] in other loops."""
    memory = getattr(trainer, "memory", None)
    if memory is None:
        return []
    # bits counting up take every place in turn
    counts = [min(int(n), memory.capacity) for n in memory.written]
    batches = [memory.sample(torch.arange(n).expand(memory.num_seeds, n)) for n in counts]
    return [Transition(*(field[s] for field in batch)) for s, batch in enumerate(batches)]


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested states differ, bit for bit (NaN equals NaN)."""
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(a)} and {sorted(b)}"]
        return [found for key in a for found in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: lengths {len(a)} and {len(b)}"]
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{path}[{i}]")]
    if isinstance(a, torch.Tensor | np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        same = x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        return [] if same else [path]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a!r} and {b!r}"]
