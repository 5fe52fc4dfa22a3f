"""`deeprl verify RUN`: train a run again from its config.yaml, and compare the weights with the hashes it left."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from deeprl_cli import __version__
from deeprl_cli.commands.arguments import Parser, positive
from deeprl_cli.errors import UserError
from deeprl_cli.processes.waiting import wait_politely
from deeprl_cli.runs.folder import find_run

if TYPE_CHECKING:
    from deeprl_cli.processes.hardware import Hardware
    from deeprl_cli.runs.weights_chain import Comparison
    from deeprl_cli.schema.run import RunConfig


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl verify",
        description="Train a run again from its config.yaml, and compare the weights by their hashes. Exit code 0 if "
        "all are equal, 1 if they differ.",
        allow_abbrev=False,
    )
    parser.takes_run()
    parser.add_argument("--steps", type=positive, metavar="N", help="only the first N environment steps")
    flags = parser.parse_args(arguments)
    wait_politely()
    return verify(flags.run, steps=flags.steps, trust=flags.trust)


def verify(path: Path, *, steps: int | None, trust: bool) -> int:
    """Compare up to `steps`; the exit code is 0 if all hashes agree, else 1. Raises UserError."""
    from deeprl_cli.runs.catalogue import find

    path = find(path)
    find_run(path)  # a mistyped folder is refused before torch is loaded

    from deeprl_cli.envs.generators import seeded_apart
    from deeprl_cli.processes import hardware as hw
    from deeprl_cli.processes.signals import stop_on_signals
    from deeprl_cli.runs.folder import of_other_numerics, read_config
    from deeprl_cli.runs.group_record import alone_from, read_group
    from deeprl_cli.runs.logger import RunLogger
    from deeprl_cli.runs.machine import others_than
    from deeprl_cli.runs.reading import check_trust, read_run
    from deeprl_cli.runs.weights_chain import CHAIN_NAME, Comparison, WeightsChain, read_chain
    from deeprl_cli.schema.course import NEVER, StopConfig
    from deeprl_cli.schema.group import as_one
    from deeprl_cli.training.assemble import assemble, make_trainer
    from deeprl_cli.training.asynchronous import workers_of
    from deeprl_cli.training.launch import parallel
    from deeprl_cli.training.preflight import preflight
    from deeprl_cli.training.progress import Progress
    from deeprl_cli.training.services import Services
    from deeprl_cli.training.share import Outlet

    run, cfg = read_run(path, trust)
    check_trust(run, cfg, trust)
    resolved = read_config(run)["resolved"]
    workers = workers_of(cfg)
    if workers is not None:
        raise UserError(
            f"{run}: was trained by {workers} asynchronous worker{'s' if workers > 1 else ''}, which race: no two such "
            "runs are alike, so there is nothing to verify; with hardware=cpu there is"
        )
    number, jobs, _ = read_group(run, cfg)
    alone = alone_from(run)
    if alone is not None:
        print(f"from step {alone} on it trained without the others of its group, so it is compared up to there")
        steps = alone if steps is None else min(steps, alone)
    expected = [line for line in read_chain(run) if steps is None or line[0] <= steps]
    if not expected:
        raise UserError(
            f"{run / CHAIN_NAME}: holds no hash{f' up to step {steps}' if steps else ''}: nothing to verify"
        )
    if resolved.get("deeprl") != __version__:
        print(f"written by deeprl {resolved.get('deeprl')}, this is {__version__}: its numbers may differ")
    for told in (*of_other_numerics(resolved), *others_than(resolved.get("machine"))):
        print(told)
    quiet = dataclasses.replace(cfg.checkpoint, every=0, history=0, replay=False)
    unseen, never = dataclasses.replace(cfg.eval, every=0), StopConfig(**NEVER)
    untold = dataclasses.replace(cfg.log, video_every=0, to=[])
    cfg = as_one(
        [dataclasses.replace(job, eval=unseen, checkpoint=quiet, stop=never, log=untold, callbacks=[]) for job in jobs]
    )
    seen = preflight(cfg)
    if parallel(cfg):
        return verify_in_ranks(run, cfg, hw.recorded(resolved), expected)
    with seeded_apart(cfg.seed), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deeprl_verify_")))
        parts = assemble(cfg, seen.spec, hw.recorded(resolved), stack, fresh=True)
        folders = [folder / str(place) for place in range(len(jobs))]
        loggers = [
            stack.enter_context(RunLogger(place, job.seed_list, tensorboard=False))
            for place, job in zip(folders, jobs, strict=True)
        ]
        signals = stack.enter_context(stop_on_signals())
        progress = stack.enter_context(Progress(expected[-1][0], cfg.seeds))
        others = f" with the {len(jobs) - 1} others of its group" if len(jobs) > 1 else ""
        progress.message(f"training {run} again{others}, up to step {expected[-1][0]}")
        chain = Comparison(folder, expected)
        chains = [chain if place == number else WeightsChain(folders[place]) for place in range(len(jobs))]
        outlets = [Outlet(*parts_of) for parts_of in zip(folders, loggers, chains, strict=True)]
        services = Services(outlets, progress, lambda: chain.decided or signals.requested())
        make_trainer(cfg, parts, services)[0].run()
    if signals.received is not None and not chain.decided:
        print(f"stopped: {chain.agreed} of {len(expected)} hashes compared, all the same")
        return 128 + signals.received
    return report(chain, *(note for note in seen.notes if not seen.repeatable))


def verify_in_ranks(run: Path, cfg: RunConfig, hardware: Hardware, expected: list[tuple[int, str]]) -> int:
    """Train it again with as many ranks as the run had, and compare the two chains at the end."""
    from deeprl_cli.runs.folder import create_run_folder
    from deeprl_cli.runs.weights_chain import Comparison, read_chain
    from deeprl_cli.training.launch import launch

    steps = expected[-1][0]
    quick = dataclasses.replace(cfg.eval, every=0, episodes=1, final_episodes=1)
    cfg = dataclasses.replace(cfg, total_steps=steps, horizon=cfg.horizon or cfg.total_steps, eval=quick)
    with tempfile.TemporaryDirectory(prefix="deeprl_verify_") as name:
        folder = Path(name) / "run"
        print(f"training {run} again in ranks, up to step {steps}", flush=True)
        create_run_folder(dataclasses.replace(cfg, run_dir=str(folder)), hardware.resolved())
        launch(folder, cfg, hardware.threads)
        chain = Comparison(Path(name), expected)
        for step, head in read_chain(folder):
            chain.compare(step, head)
    return report(chain)


def report(chain: Comparison, *reasons: str) -> int:
    """Print the verdict, and the `reasons` there are for a bad one; the exit code."""
    if chain.differs is not None:
        step, how = chain.differs
        before = f"the same up to step {chain.expected[chain.agreed - 1][0]}" if chain.agreed else "never the same"
        print("\n".join([f"NOT reproduced: {how} at step {step}; {before}", *reasons]))
        return 1
    if chain.agreed < len(chain.expected):
        print(f"NOT reproduced: it ended before step {chain.expected[chain.agreed][0]}, the run's next hash")
        return 1
    print(f"reproduced: all {chain.agreed} hashes of the weights agree, up to step {chain.expected[-1][0]}")
    return 0
