"""A run as a model card: Markdown with the front matter that model hubs read (tags, results)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deeprl_cli.config.recorded import Recorded, is_own, recorded, shown
from deeprl_cli.errors import UserError
from deeprl_cli.reports.cells import cell, interval, number
from deeprl_cli.reports.intervals import estimates
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.overview import overview
from deeprl_cli.runs.reading import code_named


def card(folder: Path) -> str:
    """The text of a README.md. Raises UserError where `folder` holds no run."""
    config, told = read_config(folder), overview(folder)
    summary: Mapping[str, Any] = {}
    with suppress(UserError):
        summary = read_summary(folder)
    algo, env, origins = str(told["algo"]), str(told["env"]), recorded(config)
    result = summary.get("eval") or {}
    last = [value for value in result.get("return_mean") or [] if value is not None]
    matter = yaml.safe_dump(_front_matter(algo, env, told, result, last), sort_keys=False, allow_unicode=True)
    seeds = summary.get("seeds") or [config.get("seed", 0)]
    many = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    lines = [f"---\n{matter}---", "", f"# {_line(told['name'] or f'{algo} on {env}')}", ""]
    lines += [
        f"`{algo}` trained on `{env}` with deeprl {config['resolved'].get('deeprl', '')}: "
        f"{many}, {told['steps'] or 0:,} environment steps each.",
        "",
    ]
    if told["status"] != "finished":
        lines += [f"**This run is {told['status']}**: its numbers are not those of a whole run.", ""]
    lines += ["## Results", "", *_results(summary, result, last), "", "## Use", "", "```python"]
    trust = ", trust=True)  # runs code that the run names" if code_named(config, training=False) else ")"
    lines += [
        "import deeprl_cli as deeprl",
        "",
        f'run = deeprl.load("path/to/this/folder"{trust}',
        "policy = run.policy",
        "action = policy.act(observation)  # in the environment's own terms",
        "```",
        "",
        "Opening the folder executes nothing: weights are safetensors, the rest is YAML, JSON and CSV.",
        "",
        "## Training",
        "",
        *_training(origins),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(
    algo: str, env: str, told: Mapping[str, Any], result: Mapping[str, Any], last: list[float]
) -> dict[str, Any]:
    tags = ["deep-reinforcement-learning", "reinforcement-learning", "deeprl", algo, env, *told["tags"]]
    matter: dict[str, Any] = {"library_name": "deeprl", "pipeline_tag": "reinforcement-learning", "tags": tags}
    if not last:
        return matter
    spread = (result.get("return_std") or [None])[0] if len(last) == 1 else float(np.std(last))
    value = f"{float(np.mean(last)):.2f}" + ("" if spread is None else f" +/- {spread:.2f}")
    metric = {"type": "mean_reward", "value": value, "name": "mean_reward", "verified": False}
    task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    entry = {"task": task, "dataset": {"name": env, "type": env}, "metrics": [metric]}
    return matter | {"model-index": [{"name": told["name"] or f"{algo}-{env}", "results": [entry]}]}


def _results(summary: Mapping[str, Any], result: Mapping[str, Any], last: list[float]) -> list[str]:
    if not last:
        return ["Nothing was evaluated at the end of this run."]
    rows = ["| seed | return, last policy | std of episodes | return, best policy |", "|--:|--:|--:|--:|"]
    nothing = [None] * len(result["return_mean"])
    columns = [result.get(key) or nothing for key in ("return_mean", "return_std", "best_return_mean")]
    for seed, *values in zip(summary["seeds"], *columns, strict=False):
        rows.append(f"| {seed} | {' | '.join(map(number, values))} |")
    over = f"{result.get('episodes', 'some')} fresh episodes for each seed"
    spread = "over episodes" if len(last) == 1 else "over seeds"
    rows += [
        "",
        f"Means over {over}. In the front matter, `mean_reward` is the last policy's, ± its deviation {spread}.",
    ]
    if len(last) > 1:
        found = estimates(last)
        rows.append(
            f"Interquartile mean over seeds: {number(found['iqm'])}, 95% interval {interval(found['iqm_ci95'])}."
        )
    else:
        rows.append("One seed says nothing about another.")
    return rows


def _training(origins: Recorded) -> list[str]:
    if origins.unknown:
        return ["The values are in `config.yaml`."]
    given = [o for o in origins.origins if is_own(o)]
    fence = "`" * (3 + max(map(len, re.findall("`+", origins.command)), default=0))
    rows = [fence, origins.command, fence, "", "| key | value | from |", "|---|---|---|"]
    rows += [f"| `{o.key}` | {cell(_line(shown(o.value)))} | {o.source} |" for o in given]
    return [*rows, "", "All values are in `config.yaml`; `deeprl report` shows where each comes from."]


def _line(text: str) -> str:
    """Text as one line that Markdown shows as it is, HTML in it included."""
    return " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
