"""What a run tells its user: its seeds, what may be a surprise, the result, and what to type next."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from deeprl_cli.envs.ids import metadata
from deeprl_cli.errors import ConfigError
from deeprl_cli.runs.reading import code_named
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain
from deeprl_cli.training.rounding import iteration_of
from deeprl_cli.training.stopping import release


def span(seeds: Sequence[int]) -> str:
    """`seed 0`, or `seeds 0 to 7`."""
    return f"seed {seeds[0]}" if min(seeds) == max(seeds) else f"seeds {min(seeds)} to {max(seeds)}"


def schedule_notes(cfg: RunConfig, done: int) -> list[str]:
    """A note if the schedule ends early, so that steps would be trained with a learning rate of zero."""
    if cfg.horizon is None or cfg.algo.lr_schedule != "linear" or cfg.total_steps <= cfg.horizon:
        return []
    first = max(done, cfg.horizon)
    return [
        f"nothing will be learned from step {first:,} on: the learning rate falls to 0 at step {cfg.horizon:,} "
        f"(algo.lr_schedule=linear, horizon={cfg.horizon}): give horizon={cfg.total_steps} to stretch it"
    ]


def farewell(run: Path, cfg: RunConfig, summary: Mapping[str, Any], *, advise: bool) -> str:
    """How the run in the folder `run` ended, and what to type next, if that is wanted."""
    evaluation, steps = summary["eval"], summary["total_steps"]
    counted = f"{steps:,} steps"
    if steps < cfg.total_steps:
        counted = f"{steps:,} of {cfg.total_steps:,} steps"
    elif steps > cfg.total_steps and iteration_of(cfg) is None:
        counted += f" instead of {cfg.total_steps:,} (episodes were played to their end)"
    why = f" ({summary['reason']})" if summary["reason"] else ""
    lines = [f"{summary['status']}: {counted} in {summary['wall_seconds']:.0f} s{why}"]
    if evaluation is not None:
        lines.append(f"return of the last policy  {_returns(evaluation['return_mean'])}")
        lines.append(f"return of the best policy  {_returns(evaluation['best_return_mean'])}")
    if any(summary["skipped_updates"]):
        each = zip(summary["seeds"], summary["skipped_updates"], strict=True)
        skipped = ", ".join(f"{count} of seed {seed}" for seed, count in each if count)
        lines.append(f"updates left out           {skipped} (they weren't finite)")
    lines.append(f"run folder                 {run}")
    return "\n".join([*lines, *(next_steps(run, cfg, summary) if advise else [])])


def next_steps(run: Path, cfg: RunConfig, summary: Mapping[str, Any]) -> list[str]:
    """What to type next: to go on if it was stopped; else to look at the result, and to train further."""
    name = quote(str(run))
    trust, again = (" --trust" if code_named(to_plain(cfg), training=training) else "" for training in (False, True))
    stopped = summary["status"] == "interrupted" and summary["total_steps"] < cfg.total_steps
    further = "" if summary["total_steps"] < cfg.total_steps else f" total_steps={2 * summary['total_steps']}"
    further += f" {release(summary['reason'])}" if summary["reason"] else ""
    rows = [("see its curves", f"tensorboard --logdir {name}")]
    if _installed("matplotlib"):
        rows.append(("", f"deeprl plot {name}"))
    if not stopped:
        rows.append(("evaluate it", f"deeprl eval {name}{trust}"))
        if _installed("moviepy") and _can_be_filmed(cfg):
            rows.append(("film it", f"deeprl eval {name}{trust} --video {quote(str(run / 'videos'))}"))
    rows.append(("go on with it" if stopped else "train it further", f"deeprl resume {name}{again}{further}"))
    return [f"{what:<27}{command}" for what, command in rows]


def _can_be_filmed(cfg: RunConfig) -> bool:
    try:
        return "rgb_array" in (metadata(cfg.env.id).get("render_modes") or ())
    except ConfigError:
        return False  # EnvPool's ids are its own


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _returns(means: Sequence[float]) -> str:
    shown = ", ".join(f"{mean:.1f}" for mean in means)
    return shown if len(means) == 1 else f"{sum(means) / len(means):.1f} (seeds: {shown})"
