"""The contract of an algorithm, checked by training it a few hundred steps at a time.

What is checked is what the rest of deeprl relies on: seeds that train together equal each one alone, a run that went on
from a checkpoint equals one that never stopped, compiled equals eager, and nothing is drawn but from the noise that is
handed in.
"""

from __future__ import annotations

import dataclasses
import io
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from deeprl_cli.algorithm import Metrics
from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.generators import digest
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluation.trained import evaluate_trained
from deeprl_cli.plugins.classes import where_raised
from deeprl_cli.plugins.files import in_full, is_source
from deeprl_cli.processes.hardware import GraphCompiler
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.runs.reading import read_run
from deeprl_cli.runs.weights_chain import WeightsChain, read_chain
from deeprl_cli.schema.course import NEVER, StopConfig
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.training.assemble import assemble, make_trainer
from deeprl_cli.training.preflight import preflight
from deeprl_cli.training.progress import Progress
from deeprl_cli.training.run import train
from deeprl_cli.training.services import Services
from deeprl_cli.training.share import Outlet

TOLERANCE = 2e-4  # relative, of weights that are computed in another order
# of the fields that an algorithm may have, values for which a few hundred steps are a run
SMALL = {
    "num_envs": 2,
    "hidden": "[8]",
    "rollout_length": 8,
    "batch_size": 8,
    "epochs": 2,
    "buffer_capacity": 500,
    "learning_starts": 32,
    "train_every": 4,
    "gradient_steps": 1,
    "target_every": 40,
    "group_size": 2,
}
RUN = (
    "tuned=none hardware.compile=false hardware.threads=1 total_steps=192 log.every=48 log.tensorboard=false "
    "eval.every=96 eval.episodes=2 eval.final_episodes=2 checkpoint.every=96 env.max_episode_steps=30"
)
ENVIRONMENTS = {Discrete: "CartPole-v1", Box: "Pendulum-v1"}
DEMONSTRATED = "ArithQA-v0"


class Broken(Exception):  # noqa: N818 - a finding
    """A part of the contract that the algorithm doesn't hold to."""


def check_algorithm(name: str, env: str | None = None, overrides: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Each check with what is wrong, "" where nothing is. `env`: where to train; by default one for each kind of
    actions that the algorithm takes, of those that gymnasium has. Raises ConfigError where there is no such algorithm.
    """
    algorithm = get_algorithm(in_full(name) if is_source(name) else name)
    if env is not None:
        envs = [env]
    elif algorithm.loop == "demonstrations":
        envs = [DEMONSTRATED]
    else:
        envs = [known for kind, known in ENVIRONMENTS.items() if kind in algorithm.action_spaces]
    if not envs:
        kinds = ", ".join(kind.__name__ for kind in algorithm.action_spaces)
        raise ConfigError(f"algo={name} takes {kinds} actions: give --env, an environment that has such")
    for env_id in envs:
        with tempfile.TemporaryDirectory(prefix="deeprl_check_") as folder:
            yield from _checked(_Subject(name, env_id, overrides, Path(folder)))


def _checked(subject: _Subject) -> Iterator[tuple[str, str]]:
    checks: dict[str, Callable[[_Subject], None]] = {
        "it trains": _trains,
        "again, it comes to the same numbers": _repeats,
        "it goes on from a checkpoint as if never stopped": _resumes,
        "seeds together equal each one alone": _seeds,
        "compiled equals eager": _compiles,
        "its saved weights act": _evaluates,
    }
    for told, check in checks.items():
        try:
            with redirect_stdout(io.StringIO()):
                check(subject)
            problem = ""
        except (Broken, UserError) as error:
            problem = str(error)
        except Exception as error:  # of the algorithm's own code
            problem = where_raised(error)
        yield f"{subject.env}: {told}", problem
        if problem and check is _trains:
            return


class _Subject:
    """An algorithm in an environment, and the runs that were trained of it."""

    def __init__(self, name: str, env: str, overrides: Sequence[str], folder: Path) -> None:
        self.name, self.env, self.overrides, self.folder = name, env, list(overrides), folder

    def config(self, *overrides: str) -> RunConfig:
        fields = {field.name for field in dataclasses.fields(get_algorithm(_full(self.name)).Config)}
        small = [f"algo.{key}={value}" for key, value in SMALL.items() if key in fields]
        given = [f"algo={self.name}", f"env={self.env}", *RUN.split(), *small, *self.overrides, *overrides]
        return load_config(list({text.partition("=")[0]: text for text in given}.values()))

    def run(self, place: str, *overrides: str) -> Path:
        """A whole run, whose process draws otherwise each time; trained once for each place."""
        folder = self.folder / place
        if not folder.exists():
            seed = len(list(self.folder.iterdir()))
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            train(self.config(f"run_dir={folder}", *overrides))
        return folder


def _full(name: str) -> str:
    return in_full(name) if is_source(name) else name


def _trains(subject: _Subject) -> None:
    run = subject.run("first", "seeds=2")
    if not read_chain(run):
        raise Broken("no weights were logged: update() must return metrics, and the networks must be Stacked")
    weights = _learned(run)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Broken(f"after {subject.config().total_steps} steps, {name} isn't finite")
    begun = _Stepped(subject.config("seeds=2"), subject.folder / "begun")
    before = {name: value.clone() for name, value in begun.weights().items()}
    if all(torch.equal(before[name], weights[name]) for name in before if name in weights):
        raise Broken("its weights are those that it began with: update() moves nothing")


def _repeats(subject: _Subject) -> None:
    stepped, before = _Stepped(subject.config("seeds=2"), subject.folder / "drawn"), digest()
    stepped.train(subject.config().total_steps // 2)
    if digest() != before:  # a run seeds them, so that two of one seed would not show it
        raise Broken("it draws from the process's own generators: draw from the noise handed in alone")
    _same_chain(
        subject.run("first", "seeds=2"), subject.run("second", "seeds=2"), "draw from the noise handed in alone"
    )


def _resumes(subject: _Subject) -> None:
    part = subject.run("part", "seeds=2", f"stop.return={-1e30:g}")  # ends at its first evaluation
    _go_on(part)
    _same_chain(
        subject.run("first", "seeds=2"), part, "all that moves must be a parameter or a buffer, not a plain attribute"
    )


def _go_on(run: Path) -> None:
    from deeprl_cli.processes import hardware as hw
    from deeprl_cli.processes.signals import began
    from deeprl_cli.runs.checkpoint import newest_checkpoint
    from deeprl_cli.runs.folder import read_config
    from deeprl_cli.training.run import carry_out

    cfg = dataclasses.replace(read_run(run, trust=True)[1], stop=StopConfig(**NEVER))
    saved = newest_checkpoint(run / "checkpoints" / "last")
    hardware = hw.recorded(read_config(run)["resolved"])
    carry_out(cfg, preflight(cfg, fresh=False), began(), lambda stack, chosen: [run], hardware, [saved])


def _seeds(subject: _Subject) -> None:
    together = _learned(subject.run("first", "seeds=2"))
    for index in (0, 1):
        alone = _learned(subject.run(f"seed_{index}", f"seed={index}"))
        for name, tensor in alone.items():
            if tensor.is_floating_point() and tensor.ndim and name.endswith("flat"):
                _close(
                    tensor[0], together[name][index], f"seed {index}: {name}", "every tensor must lead with the seed"
                )


def _compiles(subject: _Subject) -> None:
    torch._dynamo.reset()
    eager, compiled = (
        _Stepped(subject.config("seeds=2"), subject.folder / place, compiled=place == "compiled")
        for place in ("eager", "compiled")
    )
    for stepped in (eager, compiled):
        stepped.train(96)
    for name, tensor in eager.weights().items():
        if tensor.is_floating_point():
            _close(compiled.weights()[name], tensor, name, "step and act must be one graph each, without side effects")


def _evaluates(subject: _Subject) -> None:
    run, cfg = read_run(subject.run("first", "seeds=2"), trust=True)
    first, again = (evaluate_trained(run, cfg, 2, "best", stochastic=False)[1] for _ in range(2))
    if not np.array_equal(first.returns, again.returns):
        raise Broken("two evaluations of one policy differ: act(obs, None) must be deterministic")


class _Stepped:
    """A trainer whose loop is stepped here; `compiled` by a tracing back-end that takes seconds, not minutes."""

    def __init__(self, cfg: RunConfig, folder: Path, *, compiled: bool = False) -> None:
        folder.mkdir()
        with ExitStack() as stack:
            seen = preflight(cfg)
            cfg = dataclasses.replace(cfg, env=seen.env)
            parts = assemble(cfg, seen.spec, None, stack, fresh=True)
            logger = stack.enter_context(RunLogger(folder, cfg.seed_list, False, None))
            progress = Progress(cfg.total_steps, cfg.seeds, io.StringIO())
            services = Services([Outlet(folder, logger, WeightsChain(folder, None))], progress, lambda: False)
            self.trainer, _ = make_trainer(cfg, parts, services)
            self.stack = stack.pop_all()
        if compiled:
            self.trainer.algorithm.compile_graphs(GraphCompiler(lambda doing: None, backend="aot_eager"))

    def train(self, steps: int) -> None:
        with self.stack:
            self.trainer.begin()
            while self.trainer.steps < steps:
                self.trainer.iterate()
                self._check(self.trainer.averaged_metrics())

    def _check(self, metrics: Metrics) -> None:
        seeds = self.trainer.num_seeds
        for name, value in metrics.items():
            if tuple(value.shape) != (seeds,) or value.requires_grad:
                raise Broken(f"metric {name} is {tuple(value.shape)}: must be one number a seed, ({seeds},), detached")

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            f"algorithm.{name}.flat": stack.flat.detach() for name, stack in self.trainer.algorithm.stacks().items()
        }


def _learned(run: Path) -> Mapping[str, torch.Tensor]:
    from deeprl_cli.runs.checkpoint import load_checkpoint

    state: dict[str, Any] = load_checkpoint(run / "checkpoints" / "last").state["policy"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _same_chain(one: Path, other: Path, mend: str) -> None:
    ours, theirs = dict(read_chain(one)), dict(read_chain(other))
    for step, own in ours.items():
        if theirs.get(step) != own:
            raise Broken(f"the weights are others at step {step}: {mend}")


def _close(one: torch.Tensor, other: torch.Tensor, name: str, mend: str) -> None:
    scale = float(other.abs().max()) + 1e-6
    apart = float((one - other).abs().max()) / scale
    if not apart <= TOLERANCE:
        raise Broken(f"{name} is {apart:.1e} apart, relative to its size: {mend}")
