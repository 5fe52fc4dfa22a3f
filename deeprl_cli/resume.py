"""`deeprl resume RUN`: a run goes on from its last whole checkpoint as if it had never stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from deeprl_cli import config, ranks, typed
from deeprl_cli import hardware as hw
from deeprl_cli.checkpoint import Checkpoint, load_checkpoint, manifests
from deeprl_cli.config_files import config_dir, group_options
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.evaluate import check_trust, read_run
from deeprl_cli.launch import counted, in_rank, launch, launched, membership, parallel, restarts
from deeprl_cli.lock import locked
from deeprl_cli.run_folder import read_config, read_summary, rewrite_config
from deeprl_cli.schema import HardwareConfig, RunConfig
from deeprl_cli.signals import began
from deeprl_cli.train import carry_out, preflight, resolved_hardware

FREE = ("total_steps", "horizon", "eval", "checkpoint", "log", "hardware")  # what may change on the way


def resume(path: Path, overrides: Sequence[str], *, trust: bool = False) -> Path:
    """Continue the run at `path`; the run folder. `overrides` may change the keys of FREE;
    `trust` allows it to name a module to import.

    Raises UserError where it isn't a run, is finished or in use, or no checkpoint of it can be read; SystemExit as
    `train` does.
    """
    start = began()
    run, before = read_run(path)
    check_trust(run, before, trust)
    resolved = read_config(run)["resolved"]
    cfg = changed(counted(before), overrides)
    spec = preflight(cfg, fresh=False)
    with membership(cfg), ExitStack() as stack:
        if not launched() and ranks.rank() == 0:
            stack.enter_context(locked(run))
        saved = ranks.told(newest(run / "checkpoints" / "last") if ranks.rank() == 0 else None)
        done = saved.state.get("steps") if saved is not None else 0
        if type(done) is not int:
            raise UserError(f"{run / 'checkpoints' / 'last'}: damaged: it doesn't say how many steps were done")
        if done >= cfg.total_steps and _finished(run):
            if launched():
                return run  # a rank died when all was done
            raise UserError(f"{run}: has done its {done} steps: to train on, give total_steps={2 * cfg.total_steps}")
        hardware = _hardware(before.hardware, cfg.hardware, resolved)
        launching = parallel(cfg) and not in_rank()
        if launching and hardware is None:
            hardware = resolved_hardware(cfg, spec)
        if ranks.rank() == 0 and (cfg != before or hardware is None):
            rewrite_config(run, cfg, resolved if hardware is None else {**resolved, **hardware.resolved()})
        if saved is None and ranks.rank() == 0 and (restarts() or not launched()):
            print("no checkpoint yet: it starts again from its first step", flush=True)
        if launching:
            assert hardware is not None
            launch(run, cfg, hardware.threads)
            return run
        return carry_out(cfg, spec, start, lambda _stack, _hardware: run, hardware, saved)


def changed(before: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration with `overrides`. Raises ConfigError for a key that would make it another run.

    Schedules keep the horizon the run started with, unless `horizon` is given.
    """
    values = typed.to_plain(before)
    for override in config.parse(overrides):
        key, text = override.key_or_group, str(override.input_line)
        head, *rest = key.split(".")
        if head not in FREE:
            raise ConfigError(
                f"'{text}': {head} is what this run is, and stays; a run with another starts afresh: deeprl train … "
                f"(resume takes {', '.join(FREE)})"
            )
        if key in ("eval", "checkpoint", "log"):
            raise ConfigError(f"'{text}': give one of its keys, {key}.…")
        if key == "hardware":
            values["hardware"] = _of_hardware(str(override.value()), values["hardware"])
            continue
        place = values
        for name in [head, *rest][:-1]:
            place = place.get(name, {})
        if not isinstance(place, dict) or key.rpartition(".")[2] not in place:
            known = [head] if not rest else [f"{head}.{name}" for name in values[head]]
            raise ConfigError(f"unknown key '{key}': there are {', '.join(known)}")
        place[key.rpartition(".")[2]] = override.value()
    if values["total_steps"] != before.total_steps and values["horizon"] == before.horizon:
        values["horizon"] = before.horizon or before.total_steps
    values |= {"algo": before.algo, "env": before.env, "network": before.network}
    return typed.build(RunConfig, values)


def _of_hardware(name: str, before: dict[str, Any]) -> dict[str, Any]:
    """The values of `hardware=name`: those it had before, and the defaults of what that had no need of."""
    if name not in group_options("hardware"):
        return {**before, "name": name}  # refused where it is built
    defaults = yaml.safe_load((config_dir() / "hardware" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: before.get(key, value) for key, value in defaults.items()} | {"name": name}


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder` that can be read whole, saying so where it isn't the last one; None where
    there is none. Raises UserError where all that there are is damaged."""
    problems: list[UserError] = []
    for name in manifests(folder) if folder.is_dir() else []:
        if name == manifests(folder)[0] and not (folder / name).exists():
            continue
        try:
            checkpoint = load_checkpoint(folder, name)
            for segment in checkpoint.segments.values():
                del segment  # read and verified; one at a time, as they may be large
        except UserError as error:
            problems.append(error)
            continue
        for problem in problems:
            print(f"{problem}: going on from the checkpoint before it", flush=True)
        return checkpoint
    if problems:
        raise problems[0]
    return None


def _finished(run: Path) -> bool:
    try:
        return bool(read_summary(run).get("status") == "finished")
    except UserError:
        return False  # killed before its last words


def _hardware(before: HardwareConfig, now: HardwareConfig, resolved: dict[str, Any]) -> hw.Hardware | None:
    """What the run resolved to, unless told otherwise; None: to be resolved anew, on another device."""
    if now.name != before.name:
        return None
    kept = {key: resolved.get(key) for key in hw.CHOICES}
    for field in dataclasses.fields(HardwareConfig):
        value = getattr(now, field.name)
        if field.name in kept and value != getattr(before, field.name) and value != "auto":
            kept[field.name] = value
    return hw.recorded(kept)
