"""How many steps a run will really do: `total_steps`, and on to the end of the iteration that reaches it."""

from __future__ import annotations

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.schema.run import DemonstrationConfig, RolloutConfig, RunConfig
from deeprl_cli.training.asynchronous import workers_of


def iteration_of(cfg: RunConfig) -> tuple[int, str] | None:
    """The steps of one seed that each iteration adds, and what such iterations are called; None where it depends on how
    long episodes are."""
    algo, loop = cfg.algo, get_algorithm(cfg.algo.name).loop_for(cfg.algo)
    if loop == "episodes" or workers_of(cfg) is not None:
        return None
    if isinstance(algo, DemonstrationConfig):
        return algo.batch_size, "minibatches (algo.batch_size)"
    if isinstance(algo, RolloutConfig):
        return algo.samples_per_update, "rollouts (algo.num_envs x algo.rollout_length)"
    return algo.num_envs, "steps of every environment (algo.num_envs)"


def planned_steps(cfg: RunConfig, done: int = 0) -> int:
    """The steps at the end of a run that has `done` so many: whole iterations, as far as their length is known."""
    each, _ = iteration_of(cfg) or (1, "")
    left = max(0, cfg.total_steps - done)
    return done + -(-left // each) * each


def rounding_note(cfg: RunConfig, done: int = 0) -> list[str]:
    """A note if a run will do more than `total_steps`."""
    planned, iteration = planned_steps(cfg, done), iteration_of(cfg)
    if iteration is None or planned == max(done, cfg.total_steps):
        return []
    each, what = iteration
    return [f"{planned:,} steps instead of {cfg.total_steps:,}: it trains in whole {what} of {each:,} steps"]
