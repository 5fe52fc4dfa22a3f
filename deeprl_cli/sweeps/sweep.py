"""`deeprl train -m`: every combination of the values listed, all checked before the first one runs.

A job that fails is reported at once, and the others go on. `runs/sweeps/<time>/` says what became of each: `sweep.json`
while they run, `sweep.csv` and `sweep.md` when all have ended. The run folders are inside, named by what varies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprl_cli.config.compose import Sweep, build_run_config, expand_sweep, sweep_settings
from deeprl_cli.config.early import early_look, early_values
from deeprl_cli.config.messages import unknown_option
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.processes.cores import available_cores
from deeprl_cli.processes.waiting import wait_politely
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.sweep_folder import folder_name, label, pairs, varying
from deeprl_cli.schema.run import MultiprocessConfig, RunConfig, device_of
from deeprl_cli.schema.typed import PositiveInt, build
from deeprl_cli.sweeps.engines import ENGINES, Engine, make_engine
from deeprl_cli.sweeps.job import attempt_unit, write_plan
from deeprl_cli.sweeps.parallel import run_side_by_side
from deeprl_cli.sweeps.record import Record

if TYPE_CHECKING:
    from deeprl_cli.envs.look import Look

HERE = "basic"  # Hydra's name for one job after the other, in this process
STACKED = "stacked"  # the same, with groups of jobs that train together
SHOWN = 10  # refused jobs named before the rest is counted


def run_sweep(overrides: Sequence[str]) -> int:
    """Check, then run all jobs of a sweep; the exit code: 0, 1 when a job failed, 130 or 143 when it was stopped.

    Raises ConfigError, with nothing written, when any job can't run.
    """
    wait_politely()
    sweep = expand_sweep(overrides)
    wanted, engine, stacking = settings(sweep)
    jobs = check(sweep, engine)
    units = stacking.units(jobs, engine)
    folder = _make_folder(wanted)
    jobs = _placed(jobs, sweep.jobs, folder)
    together = f" in {len(units)} group{'s' if len(units) > 1 else ''}" if stacking.wanted else ""
    with locked(folder):
        record = Record(folder, sweep.jobs)
        one = " (for more, list values: seed=0,1,2)" if len(sweep.jobs) == 1 else "s"
        print(f"sweep of {len(sweep.jobs)} run{one}{together}, recorded in {record.path}", flush=True)
        if stacking.wanted and engine is None:
            write_plan(record.folder, [cfg for cfg, _ in jobs], None, units)  # for `deeprl resume SWEEP`
        try:
            if engine is not None:
                code = run_side_by_side(engine, [cfg for cfg, _ in jobs], record, units)
            else:
                code = _run_here(jobs, record, units)
        finally:
            record.close()
    return code or (1 if record.count("failed") else 0)


@dataclasses.dataclass(kw_only=True, slots=True)
class Stacking:
    """Whether jobs train together if they can, and how many members at most (null: as many as fit)."""

    wanted: bool
    members: PositiveInt | None

    def units(self, jobs: Sequence[tuple[RunConfig, Look]], engine: Engine | None) -> list[list[int]]:
        """The numbers of the jobs that train together, group by group."""
        if not self.wanted:
            return [[number] for number in range(len(jobs))]
        from deeprl_cli.sweeps.groups import grouped

        at_a_time = 1 if engine is None else max(1, available_cores() // (engine.cores(len(jobs)) or available_cores()))
        return grouped(jobs, at_a_time=at_a_time, most=self.members)


def settings(sweep: Sweep) -> tuple[Path, Engine | None, Stacking]:
    """The sweep's folder, not yet made, and what runs its jobs (`hydra/launcher=`); None: this process, one by one.

    Raises ConfigError for a launcher or an option that there isn't, or whose package is missing.
    """
    chosen = [text.partition("=")[2].strip("'\"") for text in sweep.launcher]
    name = chosen[-1] if chosen else HERE
    if name not in (HERE, STACKED, *ENGINES):
        raise unknown_option("hydra/launcher", name, [HERE, STACKED, *ENGINES])
    folder, options = sweep_settings(sweep)
    given = {"wanted": options.pop("stacked", name == STACKED), "members": options.pop("members", None)}
    stacking = build(Stacking, given, "hydra.launcher")
    return folder, None if name in (HERE, STACKED) else make_engine(name, options), stacking


def check(sweep: Sweep, engine: Engine | None = None) -> list[tuple[RunConfig, Look]]:
    """The jobs' configurations, preflighted, with what was seen of their environments, each looked at once.

    One ConfigError names every job that can't run, and why.
    """
    looks: dict[str, Look] = {}
    found: dict[int, dict[str, Any]] = {}
    refused: dict[int, str] = {}
    for number, job in enumerate(sweep.jobs):  # what needs no torch comes first: mostly that is where a mistake is
        try:
            values = early_values([*sweep.search, *job], number)
            env = str(values["env"])
            looks[env] = early_look(values, looks.get(env))
            found[number] = values
        except UserError as error:
            refused[number] = str(error)
    jobs: list[tuple[RunConfig, Look]] = []
    for number, values in found.items():
        from deeprl_cli.training.preflight import preflight

        try:
            cfg = build_run_config(values)
            seen = looks[str(values["env"])]
            jobs.append((cfg, preflight(cfg if engine is None else _on_any_machine(cfg), seen=seen)))
        except UserError as error:
            refused[number] = str(error)
    reasons = set(refused.values())
    if len(refused) == len(sweep.jobs) and len(reasons) == 1:
        raise ConfigError(reasons.pop())  # the same fault in all of them is reported once
    if refused:
        lines = [f"{' '.join(sweep.jobs[number])}: {refused[number]}" for number in sorted(refused)[:SHOWN]]
        lines += [f"… and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        total = len(sweep.jobs)
        raise ConfigError("\n".join([*lines, f"{len(refused)} of {total} runs can't start, so none was started"]))
    _check_folders([cfg for cfg, _ in jobs])
    gpu_option = engine.hides_gpus() if engine is not None else ""
    if gpu_option and any(device_of(cfg.hardware) == "cuda" for cfg, _ in jobs):
        raise ConfigError(f"hardware=cuda: this launcher's jobs see no GPU unless you ask for one: give {gpu_option}")
    return jobs


def _on_any_machine(cfg: RunConfig) -> RunConfig:
    """`cfg` without its GPU: only the machine that runs it knows whether there is one."""
    if device_of(cfg.hardware) != "cuda":
        return cfg
    if isinstance(cfg.hardware, MultiprocessConfig):
        return dataclasses.replace(cfg, hardware=dataclasses.replace(cfg.hardware, device="cpu"))
    return dataclasses.replace(cfg, hardware=dataclasses.replace(cfg.hardware, name="cpu"))


def _check_folders(configs: Sequence[RunConfig]) -> None:
    folders = [run.run_dir for run in configs if run.run_dir is not None]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise ConfigError(f"run_dir={twice} would be one folder for {folders.count(twice)} runs: leave it out")


def _placed(
    jobs: Sequence[tuple[RunConfig, Look]], overrides: Sequence[Sequence[str]], folder: Path
) -> list[tuple[RunConfig, Look]]:
    """The jobs with a name and a folder each, inside the sweep's, that say what varies: `lr=0.003 seed=1`. A name or a
    folder that was given stays; a name that all have in common goes before."""
    told = [{"overrides": job} for job in overrides]
    keys = [key for key in varying(told) if key not in ("name", "run_dir")]
    placed, taken = [], set()
    for number, (cfg, look) in enumerate(jobs):
        name = label({key: pairs(told[number]).get(key, "") for key in keys})
        place = folder_name(name) or str(number)
        place = f"{place}_{number}" if place in taken else place
        taken.add(place)
        whole = " ".join(part for part in (cfg.name, name) if part) or None
        run_dir = cfg.run_dir or str(folder / place)
        placed.append((dataclasses.replace(cfg, name=whole, run_dir=run_dir), look))
    return placed


def _make_folder(wanted: Path) -> Path:
    """`wanted`, with `_2`, `_3`, … at its end if another sweep started in the same second."""
    attempt = 1
    while True:
        folder = wanted if attempt == 1 else wanted.with_name(f"{wanted.name}_{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            attempt += 1
        except OSError as error:
            raise UserError(f"can't create {folder} ({error.strerror}): give another hydra.sweep.dir=…") from error


def _run_here(jobs: Sequence[tuple[RunConfig, Look]], record: Record, units: Sequence[Sequence[int]]) -> int:
    """One job or group after the other, in this process. The exit code of an interruption, which ends all, or 0."""
    for unit in units:
        outcome = attempt_unit(unit, [jobs[number] for number in unit], record.running, record.ended)
        if outcome["status"] == "stopped":  # the run has written its checkpoint
            return int(outcome["code"])
    return 0
