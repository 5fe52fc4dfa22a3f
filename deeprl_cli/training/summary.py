"""The content of summary.json, which a run writes when it ends."""

from __future__ import annotations

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
    error: str | None = None,
) -> dict[str, Any]:
    """The content of summary.json, of one of the runs that train together. Without a final evaluation (last, best),
    `eval` tells of those during training; null where there was none. `error`: why it failed.

    `evaluation_steps`: of all evaluations and seeds; the best policy is played only where it isn't the last.
    """
    cfg, own, first_step = share.job, share.members, trainer.first_step_at
    last = final[0] if final else trainer.last_evaluation
    played = sum(row[0] for row in trainer.evaluating.played[own])
    if final:
        played += sum(int(one.lengths[own].sum()) for one in (final[:1] if final[0] is final[1] else final))
    return {
        "algo": cfg.algo.name,
        "env": cfg.env.id,
        "seeds": cfg.seed_list,
        "total_steps": trainer.steps,
        "wall_seconds": round(trainer.wall_seconds, 3),
        "startup_seconds": None if first_step is None else round(first_step - trainer.began, 3),
        "compile_seconds": round(compile_seconds, 3),
        "steps_per_second": round(trainer.steps_per_second, 1),
        "evaluation_steps": int(played),
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
        "reason": share.reason if status == "finished" else None,
        "error": error,
    }
