"""`deeprl eval RUN…`: play the policies of trained runs, and print their returns; or an exported one, FILE.onnx."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deeprl_cli.commands.arguments import Parser, Weights, natural, positive, stdout_for
from deeprl_cli.commands.counting import counting
from deeprl_cli.errors import UserError, warn
from deeprl_cli.plugins.files import short
from deeprl_cli.runs.catalogue import find, find_any
from deeprl_cli.runs.folder import chosen_seed, find_run
from deeprl_cli.runs.sweep_folder import SWEEP_NAME

Report = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """How to play runs. `seed`: only this seed of a run. `checkpoint=None`: the best if there is one, else the last.
    `trust`: a run may name a module to import. `video`: a folder for films; `filmed`: episodes in each film."""

    episodes: int = 100
    seed: int | None = None
    checkpoint: Weights | None = None
    stochastic: bool = False
    trust: bool = False
    video: Path | None = None
    filmed: int = 1
    chosen: bool = False  # the best of many was chosen on the episodes of the final evaluation, so others are played


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl eval",
        description="Returns of trained policies on fresh episodes. Several runs make a table. FILE.onnx instead of a "
        "run is a policy that `deeprl export` wrote: it is played without torch.",
        allow_abbrev=False,
    )
    parser.takes_run(several=True)
    parser.add_argument("--episodes", type=positive, default=100, metavar="N", help="episodes of each seed (100)")
    parser.add_argument(
        "--seed", type=natural, metavar="K", help="only this seed of the run (all); RUN/seed_K does the same"
    )
    parser.takes_checkpoint()
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the policy's mode")
    parser.add_argument("--json", action="store_true", help="print the result as JSON: of several runs, a list")
    parser.add_argument("--video", type=Path, metavar="DIR", help="write a video of each seed into this folder")
    parser.add_argument(
        "--video-episodes", type=positive, metavar="N", help="episodes in each video, one after the other (1)"
    )
    parser.add_argument(
        "--env", metavar="ID", help="with FILE.onnx: another environment (default: the one it was trained on)"
    )
    flags = parser.parse_args(arguments)
    files = [path for path in flags.runs if path.suffix == ".onnx"]
    if files:
        return _evaluate_file(files[0], flags)
    if any(path.suffix == ".pt2" for path in flags.runs):
        raise UserError(
            "a .pt2 file is for torch.export.load; `deeprl export RUN --to onnx` writes a file that eval can play"
        )
    if flags.env is not None:
        raise UserError("--env goes with FILE.onnx: a run is played in the environment it was trained on")
    if flags.video is None and flags.video_episodes is not None:
        raise UserError("--video-episodes goes with --video: give --video DIR, the folder to write to")
    if flags.video is not None and len(flags.runs) > 1:
        raise UserError("--video is for one run: name one run, and film others with further commands")
    wanted = Wanted(
        episodes=flags.episodes,
        seed=flags.seed,
        checkpoint=flags.checkpoint,
        stochastic=flags.stochastic,
        trust=flags.trust,
        video=flags.video,
        filmed=flags.video_episodes or 1,
    )
    with stdout_for(flags.json) as tell:
        if len(flags.runs) == 1:
            path = find_any(flags.runs[0])
            if (path / SWEEP_NAME).is_file():
                return _evaluate_best(path, replace(wanted, chosen=True), flags.json, tell)
            report, notes = evaluate_run(path, wanted)
            tell(json.dumps(report) if flags.json else in_lines(report, notes))
            return 0
        if sweep := next((path for path in flags.runs if (path.expanduser() / SWEEP_NAME).is_file()), None):
            raise UserError(f"{sweep}: is a sweep: name it alone")
        return _evaluate_several(flags.runs, wanted, flags.json, tell)


def _evaluate_best(folder: Path, wanted: Wanted, as_json: bool, tell: Any) -> int:
    """Plays the runs of a sweep's best setting, on episodes that had no part in choosing it or its checkpoints."""
    from deeprl_cli.reports.cells import interval, number
    from deeprl_cli.reports.intervals import estimates
    from deeprl_cli.runs.sweep_folder import read_sweep, run_of
    from deeprl_cli.sweeps.ranking import best_of, ranked

    policy = "best" if wanted.checkpoint == "best" else "last"
    wanted = replace(wanted, checkpoint="last" if wanted.checkpoint is None else wanted.checkpoint)
    told = []
    for row in best_of(ranked(read_sweep(folder).jobs, policy)):
        reports = []
        for job in row.setting.done:
            run = run_of(folder, job)
            assert run is not None
            reports.append(evaluate_run(run, wanted)[0])
        found = estimates([mean for report in reports for mean in report["return_mean"]])
        before = row.by(policy) or {}
        told.append({"values": row.setting.values, **found, "in_the_sweep": before, "runs": reports})
        if not as_json:
            tell(table(reports))
            tell(f"{row.name}, {policy} policy, {wanted.episodes} fresh episodes:")
            spread, was = interval(found["iqm_ci95"]), number(before.get("iqm"))
            tell(f"IQM {number(found['iqm'])}, 95% interval {spread}; in the sweep it was {was}")
    if not told:
        raise UserError(f"{folder}: no run of this sweep is done yet")
    if as_json:
        tell(json.dumps(told))
    return 0


def _evaluate_several(runs: Sequence[Path], wanted: Wanted, as_json: bool, tell: Any) -> int:
    """A table of the runs that could be played. Others are named, and then the exit code is not 0."""
    reports, failed = [], 0
    for path in runs:
        try:
            report, notes = evaluate_run(path, wanted)
        except UserError as error:
            warn(str(error))
            failed = error.code
            continue
        reports.append(report)
        for note in notes:
            warn(f"{report['run']}: {note}")
    if reports:
        tell(json.dumps(reports) if as_json else table(reports))
    return failed


def _evaluate_file(path: Path, flags: Namespace) -> int:
    """An exported policy in its environment, without torch. Exit code 0. Raises UserError."""
    if len(flags.runs) > 1:
        raise UserError(f"{path}: is a file: name it alone")
    for name in ("checkpoint", "stochastic", "video", "video_episodes"):
        if getattr(flags, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: {path} is one policy, as it was exported: leave {flag} out, or name the run")
    with stdout_for(flags.json) as tell:
        report, notes = evaluate_file(path, flags.env, flags.episodes, flags.seed, trust=flags.trust)
        tell(json.dumps(report) if flags.json else in_lines(report, notes))
    return 0


def evaluate_file(
    path: Path, env: str | None, episodes: int, seed: int | None, *, trust: bool = False
) -> tuple[Report, list[str]]:
    """What the policy in the ONNX file at `path` earns, and further lines to be shown; `seed`: whose episodes, its own
    where None. Raises UserError."""
    from deeprl_cli.deploy.exported import ExportedPolicy, for_env
    from deeprl_cli.deploy.play import play
    from deeprl_cli.envs.own_terms import own_terms
    from deeprl_cli.evaluation.episodes import cut_short
    from deeprl_cli.runs.reading import code_named
    from deeprl_cli.schema.typed import to_plain

    policy = ExportedPolicy(path)
    card, cfg = policy.card, for_env(policy.card, env)
    named = (
        to_plain(cfg) if env is None else {**to_plain(cfg), "id": ""}
    )  # the user has typed it, so it needs no --trust
    found = code_named({"algo": {"name": ""}, "env": named}, training=False)
    if found and not trust:
        raise UserError(f"{path}: {'; '.join(found)}, which runs code: where you trust it, give --trust")
    terms = own_terms(cfg)
    policy.check_fits(terms)
    seed = card.seed if seed is None else seed
    with counting(f"{path.name}: episodes") as told:
        played = play(cfg, card.max_eval_steps, terms, policy.actor(seed), episodes, seed, told)
    mean = float(played.returns.mean())
    report: Report = {
        "file": str(path),
        "algo": card.algo,
        "env": cfg.id,
        "checkpoint": card.checkpoint,
        "stochastic": card.stochastic,
        "episodes": episodes,
        "seeds": [seed],
        "return_mean": [mean],
        "return_std": [float(played.returns.std())],
        "length_mean": [float(played.lengths.mean())],
        "mean": mean,
        "interval": None,
    }
    notes = ["actions are sampled: the file was exported with --stochastic"] if card.stochastic else []
    notes += [cut] if (cut := cut_short(cfg, card.max_eval_steps, played.lengths)) else []
    return report, notes


def evaluate_run(path: Path, wanted: Wanted) -> tuple[Report, list[str]]:
    """What the policies of the run at `path` earn, and further lines to be shown. Raises UserError."""
    path = find(path)
    find_run(path)  # a mistyped folder is refused before torch is loaded

    from deeprl_cli.envs.look import has_transcripts
    from deeprl_cli.evaluation import video as videos
    from deeprl_cli.evaluation.episodes import FRESH, cut_short
    from deeprl_cli.evaluation.trained import evaluate_trained
    from deeprl_cli.evaluation.transcripts import in_a_row, transcripts
    from deeprl_cli.runs.reading import check_trust, read_run
    from deeprl_cli.runs.weights import which_checkpoint

    run, cfg = read_run(path, wanted.trust)
    check_trust(run, cfg, wanted.trust)
    seeds = cfg.seed_list
    seed = chosen_seed(path, wanted.seed, seeds)
    checkpoint = which_checkpoint(run, cfg, wanted.checkpoint)
    if wanted.video is not None:
        videos.check(cfg)
    # These episodes occurred neither in training nor in the evaluations that chose the best checkpoint.
    fresh = FRESH * (1 + wanted.chosen)
    with counting(f"{run.name}: episodes") as told:
        policy, result = evaluate_trained(run, cfg, wanted.episodes, checkpoint, wanted.stochastic, fresh, told)
    chosen = [index for index, s in enumerate(seeds) if seed is None or s == seed]
    means = [result.return_mean[i] for i in chosen]
    report: Report = {
        "run": str(run),
        "algo": short(cfg.algo.name),
        "env": cfg.env.id,
        "checkpoint": checkpoint,
        "stochastic": wanted.stochastic,
        "episodes": wanted.episodes,
        "seeds": [seeds[i] for i in chosen],
        "return_mean": means,
        "return_std": [result.return_std[i] for i in chosen],
        "length_mean": [result.length_mean[i] for i in chosen],
        **over_seeds(means),
    }
    notes = ["no evaluation during training chose a best checkpoint, so this is the last one"]
    notes = notes if wanted.checkpoint is None and checkpoint == "last" else []
    notes += [cut] if (cut := cut_short(cfg.env, cfg.eval.max_steps, result.lengths)) else []
    if has_transcripts(cfg.env.id):
        report["transcripts"] = [transcripts(policy, cfg, i, stochastic=wanted.stochastic) for i in chosen]
        how = "sampled" if wanted.stochastic else "greedy"
        pairs = zip(report["seeds"], report["transcripts"], strict=True)
        notes += [in_a_row(f"{how}, seed {s}", played) for s, played in pairs]
    if wanted.video is not None:
        report["videos"] = [str(file) for file in videos.record(policy, cfg, chosen, wanted.video, wanted.filmed)]
    return report, notes


def over_seeds(means: Sequence[float]) -> Report:
    """The mean of the seeds' means, and its interval over seeds (not over episodes, which only measure a seed). One
    seed has no interval."""
    import numpy as np

    from deeprl_cli.reports.intervals import bootstrap_interval, mean

    low, high = bootstrap_interval([means], mean)
    interval = None if math.isnan(low) else [float(low), float(high)]
    return {"mean": float(np.mean(means)), "interval": interval}


def in_lines(report: Report, notes: Sequence[str]) -> str:
    """One run: a line for each seed, and one for their mean."""
    checkpoint = report["checkpoint"] if isinstance(report["checkpoint"], str) else f"step {report['checkpoint']}"
    lines = [f"{report['algo']} on {report['env']}, {checkpoint} checkpoint, {report['episodes']} episodes"]
    for s, mean, std, length in zip(
        report["seeds"], report["return_mean"], report["return_std"], report["length_mean"], strict=True
    ):
        lines.append(f"  seed {s}: return {mean:.2f} ± {std:.2f} (std of episodes), length {length:.0f}")
    if report["interval"] is not None:
        told = f"{report['mean']:.2f}, 95% interval over seeds {_interval(report)}"
        lines.append(f"  mean of {len(report['seeds'])} seeds: {told}")
    lines += [*notes, *(f"  video: {file}" for file in report.get("videos", []))]
    return "\n".join(lines)


def table(reports: Sequence[Report]) -> str:
    """Several runs, one below the other, each as the mean of its seeds."""
    rows = [("run", "algo", "env", "seeds", "checkpoint", "return", "95% interval over seeds")]
    for report in reports:
        seeds = report["seeds"]
        counted = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
        told = "" if report["interval"] is None else _interval(report)
        cells = (report["run"], report["algo"], report["env"], counted, str(report["checkpoint"]))
        rows.append((*cells, f"{report['mean']:.2f}", told))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    for line, row in zip(padded, rows, strict=True):
        line[5] = row[5].rjust(widths[5])
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _interval(report: Report) -> str:
    low, high = report["interval"]
    return f"[{low:.2f}, {high:.2f}]"
