"""The best setting as a file `tuned/<algo>/<Id>.yaml`, which runs take by themselves where its folder is searched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import join
from typing import Any

import yaml

from deeprl_cli.config.compose import run_values
from deeprl_cli.config.ranges import with_values
from deeprl_cli.errors import UserError
from deeprl_cli.plugins.files import is_source, short
from deeprl_cli.reports.cells import interval, number
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.tuning.plan import Plan


def tuned_text(plan: Plan, values: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """All that the best setting has other than its algorithm's own defaults: what was tuned, what was typed, and what a
    tuned file brought that this one takes the place of."""
    algo, env = plan.typed["algo"]["name"], plan.typed["env"]["id"]
    plain = run_values([f"algo={algo}", f"env={env}", "tuned=none"])
    best = with_values(plan.typed, values)
    content: dict[str, Any] = {"total_steps": plan.total_steps, "algo": _differing(plain["algo"], best["algo"])}
    own_network = best["network"]["name"] == plain["network"]["name"]
    if own_network and (network := _differing(plain["network"], best["network"])):
        content["network"] = network
    searched = [one.key for one in plan.domains if one.key.startswith("env.")]
    if searched:
        content = with_values({**content, "env": {"kwargs": {}}}, {key: values[key] for key in searched})
    sides = [f"{number(result[side]['iqm'])} {interval(result[side]['iqm_ci95'])}" for side in ("best", "defaults")]
    lines = [
        "# @package _global_",
        f"# Found by deeprl tune (trial {result['trial']}): IQM {sides[0]} on {plan.settings.fresh_seeds} fresh seeds, "
        f"at {plan.total_steps:,} steps; the values before: {sides[1]}.",
        *([] if own_network else [f"# It was found with network={best['network']['name']}."]),
    ]
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    return "\n".join([*lines, text])


def write_tuned(plan: Plan, text: str) -> list[Path]:
    """Write it into the study's folder, and where `out` says; the folders. Raises UserError where the disk refuses."""
    folders = [plan.folder] + ([Path(plan.settings.out).expanduser()] if plan.settings.out is not None else [])
    for folder in folders:
        path = folder / "tuned" / f"{name_of(plan)}.yaml"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text.encode())
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror}): give another out=…") from error
    return folders


def name_of(plan: Plan) -> str:
    """`ppo/CartPole-v1`"""
    return f"{short(str(plan.typed['algo']['name']))}/{plan.typed['env']['id']}"


def how_to_use(plan: Plan, folder: Path) -> str:
    algo, env = plan.typed["algo"]["name"], plan.typed["env"]["id"]
    words = [f"algo={algo}", f"env={env}", *([f"tuned={name_of(plan)}"] if is_source(algo) else [])]
    return f"deeprl train {join([*words, '--config-dir', str(folder)])}"


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in after.items():
        if key == "name":
            continue
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping):
            if inner := _differing(before[key], value):
                found[key] = inner
        elif before.get(key) != value:
            found[key] = value
    return found
