"""The folder a run leaves behind: its place, `config.yaml`, `summary.json`, and finding it again. No torch here.

`runs/<algo>/<env>/<time>/`; `docs/runs.md` describes every file.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from deeprl_cli import __version__
from deeprl_cli.errors import UserError
from deeprl_cli.plugins.files import digests, is_source, short
from deeprl_cli.runs.machine import machine
from deeprl_cli.schema import format as config_format
from deeprl_cli.schema.named import names_of
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain

CONFIG_NAME = "config.yaml"
SUMMARY_NAME = "summary.json"
# Goes up when the same configuration comes to other numbers, by rounding at least. 2: initial weights on one thread.
# 3: compiled graphs have a tanh and an order of sums of their own; learning rates and the like are 32-bit tensors.
NUMERICS = 3
_MAX_TEXT_BYTES = 4 << 20  # a config or summary is a few kB; anything larger isn't one
LONGEST_NAME = 100  # characters of a name in a folder's
_DEEPEST = 50  # lists and mappings within one another; a configuration has four


def of_other_numerics(resolved: Mapping[str, Any]) -> list[str]:
    """What is to be said of a run whose numbers this deeprl computes with another rounding; `resolved` is recorded."""
    numerics = resolved.get("numerics", 1)
    if numerics == NUMERICS:
        return []
    return [f"it has numerics version {numerics}, this deeprl has {NUMERICS}: weights may differ by rounding"]


def create_run_folder(cfg: RunConfig, resolved: Mapping[str, Any]) -> Path:
    """A new folder for this run, holding `config.yaml`.

    It is `cfg.run_dir` where given, else `runs/<algo>/<env>/<time>` under the working directory, with `_2`, `_3`, …
    behind a time that is taken. `resolved` holds what automatic settings came to (plain scalars, lists and mappings);
    it is written under the key `resolved` beside the configuration, together with the deeprl version and the machine.
    Raises UserError where the folder is in use, is no folder, or can't be written.
    """
    run: Path | None = None
    try:
        run = _claim(Path(cfg.run_dir).expanduser()) if cfg.run_dir is not None else _next_free(cfg)
        made_by = {"deeprl": __version__, "numerics": NUMERICS, **resolved}
        if code := digests(_code_of(cfg)):
            made_by["code"] = code
        made_by["machine"] = machine(str(resolved.get("device")))
        _create(run / CONFIG_NAME, _config_text(cfg, made_by))
    except OSError as error:
        if run is not None and not isinstance(error, FileExistsError):  # a full disk: leave nothing half made
            with suppress(OSError):
                (run / CONFIG_NAME).unlink(missing_ok=True)
                run.rmdir()
        place = cfg.run_dir if cfg.run_dir is not None else "runs/"
        raise UserError(f"{place}: can't create the run folder ({error.strerror}): give another run_dir=…") from error
    return run


def _code_of(cfg: RunConfig) -> list[str]:
    """What the run names that is the user's: its file, module or `module:Class`."""
    named = [cfg.algo.name] if is_source(cfg.algo.name) else []
    named += [cfg.env.id] if ":" in cfg.env.id else []
    return [*named, *names_of(cfg.env.wrappers), *names_of(cfg.callbacks)]


def rewrite_config(run: Path, cfg: RunConfig, resolved: Mapping[str, Any]) -> None:
    """Replace `config.yaml`, of a run that goes on with other values. OSError where the disk refuses."""
    atomic_write(run / CONFIG_NAME, _config_text(cfg, resolved))


def _config_text(cfg: RunConfig, resolved: Mapping[str, Any]) -> bytes:
    record = {config_format.KEY: config_format.FORMAT, **to_plain(cfg), "resolved": dict(resolved)}
    text: str = yaml.dump(record, None, _PlainDumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def _claim(run: Path) -> Path:
    if run.exists() and not run.is_dir():
        raise UserError(f"run_dir={run}: is a file: give a folder")
    if run.is_dir() and any(run.iterdir()):
        raise UserError(f"run_dir={run}: the folder is not empty: give another")
    run.mkdir(parents=True, exist_ok=True)
    return run


def _next_free(cfg: RunConfig) -> Path:
    parent = Path("runs", slug(short(cfg.algo.name)), slug(cfg.env.id))
    parent.mkdir(parents=True, exist_ok=True)
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if cfg.name:
        time += f"_{slug(cfg.name)[:LONGEST_NAME]}"
    attempt = 1
    while True:
        run = parent / (time if attempt == 1 else f"{time}_{attempt}")
        try:
            run.mkdir()  # fails where it exists: two runs never share a folder
            return run
        except FileExistsError:
            attempt += 1


def slug(text: str) -> str:
    """`text` as a folder name: `ALE/Pong-v5` -> `ALE-Pong-v5`."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip(".-") or "env"


def read_config(run: Path) -> dict[str, Any]:
    """What `config.yaml` holds, an older one in today's format: the configuration's own keys, and `resolved`.

    Raises UserError where it can't be read, or a later deeprl wrote it.
    """
    path = run / CONFIG_NAME
    text = _read_text(path, missing=f"{run}: not a run (it has no {CONFIG_NAME})")
    try:
        config = _plain_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}: damaged: not valid YAML{where}") from error
    if not isinstance(config, dict) or "algo" not in config or not isinstance(config.get("resolved"), dict):
        raise UserError(f"{path}: damaged: not the configuration of a run")
    return config_format.up_to_date(config, path)


def write_summary(run: Path, summary: Mapping[str, Any]) -> None:
    """Replace `summary.json` whole. NaN and infinities, which JSON lacks, become null."""
    text = json.dumps(_finite(summary), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(run / SUMMARY_NAME, (text + "\n").encode())


def read_summary(run: Path) -> dict[str, Any]:
    """What `summary.json` holds. UserError where it is missing or damaged."""
    path = run / SUMMARY_NAME
    text = _read_text(path, missing=f"{run}: has no {SUMMARY_NAME} (the run has not ended yet, or it isn't a run)")
    try:
        summary = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not valid JSON") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path}: damaged: not the summary of a run")
    return summary


def find_run(path: Path) -> Path:
    """The run folder that `path` is, or lies in: a run, its `seed_<k>`, or anything under its `checkpoints`.

    UserError where there is none, naming the newest run below `path` if there is one.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such folder: name a run, for example one of runs/<algo>/<env>/<time>")
    for run in (path, *path.absolute().parents[:3]):
        inside = path.absolute().relative_to(run.absolute()).parts
        if (run / CONFIG_NAME).is_file() and (not inside or re.fullmatch(r"checkpoints|seed_\d+", inside[0])):
            return run
    if path.is_file() and (path.parent / CONFIG_NAME).is_file():
        raise UserError(f"{path}: is a file of a run: name its folder, {path.parent}")
    below = [config.parent for depth in ("*", "*/*", "*/*/*") for config in path.glob(f"{depth}/{CONFIG_NAME}")]
    hint = f": name one run, for example {max(below, key=lambda run: run.name)}" if below else ""
    raise UserError(f"{path}: not a run (no {CONFIG_NAME} there){hint}")


def seed_in(path: Path, run: Path) -> int | None:
    """The seed whose folder or file in the run `path` is; None where it isn't one seed's."""
    inside = path.expanduser().absolute().relative_to(run.absolute()).parts
    named = [re.fullmatch(r"seed_(\d+)(\.safetensors)?", part) for part in inside]
    return next((int(match[1]) for match in named if match), None)


def chosen_seed(path: Path, asked: int | None, seeds: Sequence[int]) -> int | None:
    """The one seed that the path or --seed means; None: all. Raises UserError."""
    named = seed_in(path, find_run(path))
    if asked is not None and named not in (None, asked):
        raise UserError(f"--seed {asked}: {path} is seed {named}: leave one of them out")
    seed = named if asked is None else asked
    if seed is not None and seed not in seeds:
        raise UserError(f"{path}: has no seed {seed}: this run's are {', '.join(map(str, seeds))}")
    return seed


def atomic_write(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, whole or not at all, and on the disk when this returns."""
    # One name per target, so that what a killed attempt left is overwritten by the next.
    partial = path.with_name(f".{path.name}.tmp")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def _create(path: Path, data: bytes) -> None:
    """A new file, whole or not at all. FileExistsError where it exists: of two runs started on one empty folder, the
    second is refused."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with path.open("xb") as file:
                file.write(data)
    finally:
        with suppress(OSError):
            partial.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries (created, renamed, deleted) on the disk."""
    if os.name != "posix":
        return  # Windows can't open a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_text(path: Path, missing: str) -> str:
    try:
        if not path.is_file():
            raise UserError(missing)
        with path.open("rb") as file:
            data = file.read(_MAX_TEXT_BYTES + 1)
        if len(data) > _MAX_TEXT_BYTES:
            raise UserError(f"{path}: damaged: larger than {_MAX_TEXT_BYTES >> 20} MiB")
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged: not text") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _PlainDumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes a list used twice out twice: anchors are hard to read, and refused by the loader."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Scalars, lists and mappings only. libyaml's form, where PyYAML was built with it, is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _plain_yaml(text: str) -> Any:
    """Refuses aliases, which let a small file unfold into a huge one, and a nesting so deep that it would exhaust the
    stack. Raises YAMLError or ValueError."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.events.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias", problem_mark=event.start_mark)
        depth += isinstance(event, yaml.events.CollectionStartEvent)
        depth -= isinstance(event, yaml.events.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
    return yaml.load(text, _LOADER)
