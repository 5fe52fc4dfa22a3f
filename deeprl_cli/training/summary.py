"""What a run says when it ends: summary.json, and its last words on the screen."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from deeprl_cli.evaluation.evaluate import Evaluation
from deeprl_cli.training.base import Trainer
from deeprl_cli.training.share import Share


def summarise(
    trainer: Trainer,
    share: Share,
    compile_seconds: float,
    final: tuple[Evaluation, Evaluation] | None,
    status: str,
) -> dict[str, Any]:
    """The content of summary.json, of one of the runs that train together. Without a final evaluation (last, best),
    `eval` tells of those during training; null where there was none."""
    cfg, own, first_step = share.job, share.members, trainer.first_step_at
    last = final[0] if final else trainer.last_evaluation
    return {
        "algo": cfg.algo.name,
        "env": cfg.env.id,
        "seeds": cfg.seed_list,
        "total_steps": trainer.steps,
        "wall_seconds": round(trainer.wall_seconds, 3),
        "startup_seconds": None if first_step is None else round(first_step - trainer.began, 3),
        "compile_seconds": round(compile_seconds, 3),
        "steps_per_second": round(trainer.steps_per_second, 1),
        "skipped_updates": share.watch.skipped(),
        "eval": None
        if last is None
        else {
            "episodes": int(last.returns.shape[1]),
            "return_mean": last.return_mean[own],
            "return_std": last.return_std[own],
            "best_return_mean": (final[1].return_mean if final else list(trainer.best))[own],
        },
        "status": status,
    }


def farewell(run_dir: Path, summary: dict[str, Any]) -> str:
    evaluation = summary["eval"]
    lines = [f"{summary['status']}: {summary['total_steps']} steps in {summary['wall_seconds']:.0f} s"]
    if evaluation is not None:
        lines.append(f"return of the last policy  {_returns(evaluation['return_mean'])}")
        lines.append(f"return of the best policy  {_returns(evaluation['best_return_mean'])}")
    if any(summary["skipped_updates"]):
        counted = zip(summary["seeds"], summary["skipped_updates"], strict=True)
        skipped = ", ".join(f"{count} of seed {seed}" for seed, count in counted if count)
        lines.append(f"updates left out           {skipped} (they weren't finite)")
    lines += [
        f"run folder                 {run_dir}",
        f"see its curves             tensorboard --logdir {quote(str(run_dir))}",
    ]
    return "\n".join(lines)


def _returns(means: list[float]) -> str:
    shown = ", ".join(f"{mean:.1f}" for mean in means)
    return shown if len(means) == 1 else f"{sum(means) / len(means):.1f} (seeds: {shown})"
