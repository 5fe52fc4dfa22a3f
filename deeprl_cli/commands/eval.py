"""`deeprl eval RUN`: play a trained run's policies, and print what they earn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from deeprl_cli.commands.arguments import Parser, natural, positive, stdout_for
from deeprl_cli.errors import UserError
from deeprl_cli.runs.folder import find_run


def run(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl eval", description="Returns of a trained policy.", allow_abbrev=False)
    parser.takes_run()
    parser.add_argument("--episodes", type=positive, default=100, metavar="N", help="episodes of each seed (100)")
    parser.add_argument("--seed", type=natural, metavar="K", help="only this one of the run's seeds (default: all)")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which weights (best)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the policy's mode")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--video", type=Path, metavar="DIR", help="write videos of episodes into this folder")
    flags = parser.parse_args(arguments)
    with stdout_for(flags.json) as tell:
        told = evaluate_run(
            flags.run,
            trust=flags.trust,
            episodes=flags.episodes,
            seed=flags.seed,
            checkpoint=flags.checkpoint,
            stochastic=flags.stochastic,
            as_json=flags.json,
            video=flags.video,
        )
        tell(told)
    return 0


def evaluate_run(
    path: Path,
    *,
    trust: bool = False,
    episodes: int,
    seed: int | None,
    checkpoint: str,
    stochastic: bool,
    as_json: bool,
    video: Path | None,
) -> str:
    """What the policies earn, as a table or as JSON.

    `seed` picks one of the run's seeds; all of them otherwise. `checkpoint` is best or last. `trust` allows the run
    to name a module to import. Raises UserError.
    """
    find_run(path)  # a mistyped folder is told before torch is loaded

    import torch

    from deeprl_cli.algorithm import done
    from deeprl_cli.envs.closing import closing
    from deeprl_cli.envs.look import has_transcripts
    from deeprl_cli.envs.place import staying
    from deeprl_cli.evaluation import video as videos
    from deeprl_cli.evaluation.evaluate import FRESH, cut_short, eval_envs, evaluate
    from deeprl_cli.evaluation.transcripts import in_a_row, transcripts
    from deeprl_cli.policy import make_policy
    from deeprl_cli.rl.noise import NoiseStream
    from deeprl_cli.runs.reading import check_trust, read_run
    from deeprl_cli.runs.weights import best_path, load_best, load_last

    run, cfg = read_run(path)
    check_trust(run, cfg, trust)
    seeds = cfg.seed_list
    if seed is not None and seed not in seeds:
        raise UserError(f"--seed {seed}: this run has seeds {', '.join(map(str, seeds))}")
    if video is not None:
        videos.check(cfg)
    torch.set_num_threads(1)  # one small batch after another: more threads only wait for each other
    # Seeds of its own: neither the episodes of training nor those that chose the best checkpoint.
    with staying() as here, closing(eval_envs(cfg, [s + FRESH for s in seeds], episodes), cfg.env.id) as envs:
        policy, home = make_policy(cfg, envs.spec), here / run
        if checkpoint == "best" and best_path(home, seeds[0]).exists():
            steps = load_best(policy, home, seeds)
            policy.algorithm.explore_at(done(steps, cfg.horizon or cfg.total_steps))  # not part of weights
        elif checkpoint == "best":
            raise UserError(f"{run}: has no best checkpoint (eval.every=0, or stopped early): use --checkpoint last")
        else:
            load_last(policy, home)
        noise = None
        if stochastic:
            act = policy.algorithm.noise_spec().act
            noise = NoiseStream(seeds, "eval", {"act": act}, (envs.num_envs // len(seeds),), block=64)
        result = evaluate(policy, envs, episodes, noise)
    chosen = [index for index, s in enumerate(seeds) if seed is None or s == seed]
    report: dict[str, Any] = {
        "run": str(run),
        "algo": cfg.algo.name,
        "env": cfg.env.id,
        "checkpoint": checkpoint,
        "stochastic": stochastic,
        "episodes": episodes,
        "seeds": [seeds[i] for i in chosen],
        "return_mean": [result.return_mean[i] for i in chosen],
        "return_std": [result.return_std[i] for i in chosen],
        "length_mean": [result.length_mean[i] for i in chosen],
    }
    shown = [f"  {cut}"] if (cut := cut_short(cfg, result)) else []
    if has_transcripts(cfg.env.id):
        report["transcripts"] = [transcripts(policy, cfg, i, stochastic=stochastic) for i in chosen]
        how = "sampled" if stochastic else "greedy"
        pairs = zip(report["seeds"], report["transcripts"], strict=True)
        shown += [in_a_row(f"{how}, seed {s}", played) for s, played in pairs]
    if video is not None:
        report["videos"] = [str(file) for file in videos.record(policy, cfg, chosen, video)]
    return json.dumps(report) if as_json else _table(report, shown)


def _table(report: dict[str, Any], transcripts: Sequence[str]) -> str:
    lines = [f"{report['algo']} on {report['env']}, {report['checkpoint']} checkpoint, {report['episodes']} episodes"]
    for s, mean, std, length in zip(
        report["seeds"], report["return_mean"], report["return_std"], report["length_mean"], strict=True
    ):
        lines.append(f"  seed {s}: return {mean:.2f} ± {std:.2f} (std of episodes), length {length:.0f}")
    if len(report["seeds"]) > 1:
        lines.append(f"  mean over seeds: {fmean(report['return_mean']):.2f}")
    lines += [*transcripts, *(f"  video: {file}" for file in report.get("videos", []))]
    return "\n".join(lines)
