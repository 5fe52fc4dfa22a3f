"""Ranks of a synchronous algorithm (`hardware=multiprocess hardware.ranks=N`): which runs have them, and their start.

A run of one machine is launched here, through torch's elastic agent: it starts a process for each rank (rank.py), and
all of them again, from the last checkpoint, when one dies. torchrun, which is the same agent as a program, starts
`deeprl train` as the ranks themselves, on one machine or many.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.errors import ConfigError, TrainingError, UserError
from deeprl_cli.processes import ranks
from deeprl_cli.processes.signals import stop_on_signals
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.folder import CONFIG_NAME, read_summary, write_summary
from deeprl_cli.schema.run import MultiprocessConfig, ReplayConfig, RolloutConfig, RunConfig, device_of

WORD = "DEEPRL_RANKS"  # environment variable: the folder where launcher and ranks leave messages
STOP = "stop"  # a file there: the launcher was asked to stop
LOST = 75  # exit code of a rank that ends because another one ended
QUIT_SECONDS = 10  # seconds for ranks to end when they must end at once
LOOPS = ("rollout", "replay")  # whose steps are the same number in every environment


def parallel(cfg: RunConfig) -> bool:
    """Whether the run has ranks: this process is one of them, or launches them."""
    hardware = cfg.hardware
    if not isinstance(hardware, MultiprocessConfig) or get_algorithm(cfg.algo.name).asynchronous:
        return False
    return in_rank() or (hardware.ranks or 1) > 1


def in_rank() -> bool:
    """Whether torch's launcher, ours or torchrun, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def launched() -> bool:
    """Whether it was ours, which has checked everything and holds the run's lock."""
    return in_rank() and WORD in os.environ


def restarts() -> int:
    """How often the ranks of this job were started before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if in_rank() else 0


def run_before_restart(cfg: RunConfig) -> Path | None:
    """The run that torchrun's ranks go on with, where one of them has died and all are started again; None at their
    first start. Raises UserError where it can't be known."""
    if not restarts():
        return None
    if cfg.run_dir is None:
        raise UserError("a rank died, and without run_dir=… the others don't know which run to go on with")
    return Path(cfg.run_dir) if (Path(cfg.run_dir) / CONFIG_NAME).exists() else None


def asked_to_stop() -> bool:
    """Whether our launcher was, of a rank; a look at a file, a microsecond."""
    return launched() and os.path.exists(os.path.join(os.environ[WORD], STOP))


def counted(cfg: RunConfig) -> RunConfig:
    """The run with the number of ranks that torchrun has started, so that `resume` and `verify` know it without."""
    hardware = cfg.hardware
    if launched() or not (parallel(cfg) and isinstance(hardware, MultiprocessConfig) and in_rank()):
        return cfg
    return replace(cfg, hardware=replace(hardware, ranks=int(os.environ["WORLD_SIZE"])))


@contextmanager
def membership(cfg: RunConfig) -> Iterator[None]:
    """Be the rank that this process was started as; nothing where it wasn't.

    Raises SystemExit where another rank is gone: that one says why.
    """
    if not (parallel(cfg) and in_rank()):
        yield
        return
    try:
        with ranks.joined(device_of(cfg.hardware)):
            yield
    except Exception as error:
        if not ranks.lost():
            raise
        if not launched():
            print(f"deeprl: rank {os.environ['RANK']}: another rank is gone", file=sys.stderr)
        raise SystemExit(LOST) from error


def folder_of_rank(run: Path, stack: ExitStack) -> Path:
    """Where this rank writes: the run's folder is rank 0's, the others' is thrown away in the end."""
    if ranks.rank() == 0:
        return run
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deeprl_rank_")))


# --- what can have ranks --------------------------------------------------------------------------------------------


def check_ranks(cfg: RunConfig) -> None:
    """Raise ConfigError if a synchronous run can't be divided among its ranks."""
    hardware, algo = cfg.hardware, cfg.algo
    if not isinstance(hardware, MultiprocessConfig) or get_algorithm(algo.name).asynchronous:
        return
    count = int(os.environ["WORLD_SIZE"]) if in_rank() else hardware.ranks
    if count is None:
        raise ConfigError(
            f"hardware=multiprocess: algo={algo.called} is synchronous, so processes are ranks: give hardware.ranks=2"
        )
    if hardware.ranks not in (None, count):
        raise ConfigError(
            f"hardware.ranks={hardware.ranks}, and torchrun has started {count}: give hardware.ranks={count}, or leave "
            "it out"
        )
    if count == 1:
        return
    if hardware.on_death == "continue":
        raise ConfigError(
            "hardware.on_death=continue: ranks go on together or not at all: give hardware.on_death=restart or fail"
        )
    _check_kind(cfg)
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if in_rank() else count
    if hardware.device == "cuda" and here > torch.cuda.device_count():
        raise ConfigError(
            f"hardware.ranks={count} with hardware.device=cuda takes {here} GPUs on this machine, one each, and torch "
            f"sees {torch.cuda.device_count()}: give fewer ranks, or hardware.device=cpu"
        )
    if algo.num_envs % count:
        raise ConfigError(
            f"algo.num_envs={algo.num_envs} environments can't be shared equally by {count} ranks: give "
            f"algo.num_envs={_nearest(algo.num_envs, count)}"
        )
    if isinstance(algo, ReplayConfig) and getattr(getattr(algo, "sde", None), "enabled", False):
        raise ConfigError(
            f"algo.sde.enabled=true: algo={algo.called} weighs a whole minibatch by one matrix, which ranks don't "
            "share: use algo.sde.enabled=false, or hardware=cpu"
        )
    batch = getattr(algo, "batch_size", None)
    if batch is not None and batch % count:
        whole = algo.samples_per_update if isinstance(algo, RolloutConfig) else None
        raise ConfigError(
            f"algo.batch_size={batch} can't be shared equally by {count} ranks: give "
            f"algo.batch_size={_nearest(batch, count, whole)}"
        )


def _check_kind(cfg: RunConfig) -> None:
    """Of loop and environments."""
    name, backend = cfg.algo.called, cfg.env.backend
    algorithm = get_algorithm(cfg.algo.name)
    loop = algorithm.loop_for(cfg.algo)
    if loop not in LOOPS:
        why = "learns from demonstrations" if loop == "demonstrations" else "waits for whole episodes"
        form = " in this form" if algorithm.loop in LOOPS else ""
        raise ConfigError(
            f"hardware.ranks: algo={name}{form} {why}, which ranks can't share equally: use hardware=cpu, or algo=ppo"
        )
    if backend in ("native", "envpool"):
        raise ConfigError(
            f"hardware.ranks: env.backend={backend} steps all environments as one, which ranks can't share: use "
            "env.backend=sync or env.backend=async"
        )


def _nearest(number: int, divisor: int, whole: int | None = None) -> int:
    """The number nearest to `number` that `divisor` divides, and that divides `whole`."""
    candidates = range(divisor, (whole or 2 * number + divisor) + 1, divisor)
    return min((n for n in candidates if whole is None or whole % n == 0), key=lambda n: abs(n - number))


# --- one machine's launcher -----------------------------------------------------------------------------------------


def launch(run: Path, cfg: RunConfig, threads: int) -> None:
    """Train the run in this folder, which this process has locked, in ranks; `config.yaml` is all they are told.

    Returns when they have finished. Raises UserError where one failed, TrainingError where they died too often,
    SystemExit(130 or 143) after a clean stop by a signal.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory(prefix="deeprl_ranks_") as name:
        folder, failure = Path(name), None
        with (
            stop_on_signals((folder / STOP).touch) as signals,
            _quiet(),
            _environment(_rank_environment(name, threads)),
        ):
            try:
                _start(run, cfg, folder)
            except ChildFailedError as error:
                failure = min(
                    error.failures.values(), key=lambda f: (f.exitcode in (LOST, -15), f.timestamp), default=None
                )
            except RuntimeError as error:  # the agent's own: no address to meet at, say
                _mark_failed(run, cfg)
                raise UserError(f"{run}: its ranks couldn't be started ({error})") from error
        words = [json.loads(path.read_text()) for path in sorted(folder.glob("word-*.json"))]
    if errors := [word for word in words if word["line"]]:
        _mark_failed(run, cfg)
        raise (UserError if errors[0]["code"] == 2 else TrainingError)(errors[0]["line"])
    stopped = signals.received or next((word["signal"] for word in words), None)
    if stopped is not None:
        raise SystemExit(128 + stopped)
    if failure is not None:
        times = f"after {_max_restarts(cfg)} restarts" if _max_restarts(cfg) else "and isn't restarted"
        raise TrainingError(
            f"{run}: rank {failure.local_rank} {_how(failure.exitcode)}, {times}; {_standing(run, cfg)}; once the "
            f"cause is gone, `deeprl resume {run}`"
        )


def _start(run: Path, cfg: RunConfig, folder: Path) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    assert isinstance(cfg.hardware, MultiprocessConfig)
    assert cfg.hardware.ranks is not None
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=cfg.hardware.ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        rdzv_configs={"is_host": True},
        local_addr="127.0.0.1",
        max_restarts=_max_restarts(cfg),
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
        signals_to_handle="SIGQUIT",  # the other fields are our own
        shutdown_timeout=QUIT_SECONDS,
    )
    elastic_launch(config, sys.executable)("-m", "deeprl_cli.commands.rank", str(run))


def _max_restarts(cfg: RunConfig) -> int:
    assert isinstance(cfg.hardware, MultiprocessConfig)
    return 0 if cfg.hardware.on_death == "fail" else cfg.hardware.max_restarts


def _rank_environment(folder: str, threads: int) -> dict[str, str]:
    values = {WORD: folder, "OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    # a meeting point of their own at each start: the agent's would remember where those that died could be reached
    values["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
        values["GLOO_SOCKET_IFNAME"] = "lo"  # one machine: whatever its name resolves to
    return values


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*values, "TORCHELASTIC_SIGNALS_TO_HANDLE")}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the agent's messages about each process that ends; our own message is one line."""

    def nothing(record: logging.LogRecord) -> bool:
        return not record.name.startswith("torch.distributed")

    handlers = [h for name in (None, "torch", "torch.distributed") for h in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(nothing)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(nothing)


def _how(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    return f"was killed by signal {-exitcode}" + (" (out of memory is the usual cause)" if exitcode == -9 else "")


def _standing(run: Path, cfg: RunConfig) -> str:
    """Which checkpoint there is. Also writes to `summary.json` that the run failed."""
    step = _mark_failed(run, cfg)
    return f"the last whole checkpoint is of step {step}" if step is not None else "there is no checkpoint yet"


def _mark_failed(run: Path, cfg: RunConfig) -> int | None:
    """Say so in `summary.json`, which a rank that died couldn't; the last checkpoint's step."""
    step = None
    with suppress(UserError, KeyError):
        step = int(load_checkpoint(run / "checkpoints" / "last").state["steps"])
    summary: dict[str, Any] = {"algo": cfg.algo.name, "env": cfg.env.id, "seeds": cfg.seed_list, "eval": None}
    with suppress(UserError):
        summary = read_summary(run)
    with suppress(OSError):
        write_summary(run, {**summary, "total_steps": step or 0, "status": "failed"})
    return step


# --- messages that ranks leave -------------------------------------------------------------------------------------


def leave_word(line: str, code: int, signal: int | None = None) -> None:
    """Tell our launcher why this rank ends, so that it says it once, and starts none of them again."""
    path = Path(os.environ[WORD]) / f"word-{os.environ['RANK']}.json"
    path.write_text(json.dumps({"line": line, "code": code, "signal": signal}))


def word_left() -> bool:
    """Whether a rank has left a message: then the job is over."""
    return any(Path(os.environ[WORD]).glob("word-*.json"))


def replay_notes(cfg: RunConfig) -> list[str]:
    """What a user should know before ranks train from replay memories."""
    if not isinstance(cfg.algo, ReplayConfig) or not cfg.checkpoint.replay:
        return []
    return ["each rank has its own replay memory, and checkpoints hold none of them; a resumed run fills them again"]
