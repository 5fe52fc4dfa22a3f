"""Whole runs of every algorithm on real environments: reproducible, seeds independent, and resumed bit for bit."""

from __future__ import annotations

import copy
import csv
import itertools
import math
from functools import cache

import numpy as np
import pytest

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.contract.harness import (
    ALGORITHMS,
    IMITATORS,
    assert_close,
    differences,
    held,
    opened_trainer,
    short_run,
    small,
    trained,
    training_env,
)


def curves(run, seed, kinds=("rollout", "eval", "loss", "policy", "q", "value", "optim")):
    """metrics.csv of one seed: one row for each line, without times."""
    with (run / f"seed_{seed}" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = [key for key in rows[0] if key == "step" or key.split("/")[0] in kinds]
    return [{key: float(row[key]) if row[key] else math.nan for key in kept} for row in rows]


def evaluations(run, seed):
    """The rows of metrics.csv that are evaluations."""
    return [row for row in curves(run, seed, ("eval",)) if not math.isnan(row["eval/return_mean"])]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(name, options, again)`: the folder and final weights of a short run; the same request, the same run."""

    @cache
    def made(name, *options, again=False):
        return trained(short_run(name, tmp_path_factory.mktemp(name) / "run", *options))

    return made


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_seed_alone_decides(name, run):
    """Two runs of one seed agree in every bit of weights, optimisers and curves; another seed differs."""
    (first, weights), (second, same) = run(name, "seed=0"), run(name, "seed=0", again=True)
    assert first != second
    assert differences(weights, same) == []
    assert differences(curves(first, 0), curves(second, 0)) == []
    assert differences(weights, run(name, "seed=1")[1]) != []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_seeds_together_equal_two_runs(name, run, whole_run):
    """`seeds=2` gives the weights, episodes and (first) evaluation of runs with seed=0 and with seed=1.

    Where loops wait for episodes, logs and evaluations come when the slower seed is due: there, of the curves, how many
    steps and episodes there were."""
    both = whole_run(name)[0]
    together = load_checkpoint(both / "checkpoints" / "last").state["policy"]
    for seed in (0, 1):
        one, alone = run(name, f"seed={seed}")
        assert_close(together, alone, 1e-3, seed=seed)
        if get_algorithm(name).loop == "episodes":
            ours, theirs = (
                [row for row in curves(folder, seed, ("rollout",)) if row["rollout/episodes"] > 0]
                for folder in (both, one)
            )
            assert len(ours) > 1
            for key in ("step", "rollout/episodes"):
                assert ours[-1][key] == theirs[-1][key], key
            assert len({row["step"] for row in ours}) == len(ours), "a seed that has finished logs nothing more"
            continue
        kind = "loss" if name in IMITATORS else "rollout"
        ours, theirs = curves(both, seed, (kind,)), curves(one, seed, (kind,))
        assert name in IMITATORS or sum(not math.isnan(row["rollout/return_mean"]) for row in theirs) > 2
        for key in theirs[0]:
            expected = [row[key] for row in theirs]
            assert [row[key] for row in ours] == pytest.approx(expected, rel=1e-3, nan_ok=True), key
        # later evaluations: tests/evaluation/test_evaluate.py
        ours, theirs = (evaluations(folder, seed)[0] for folder in (both, one))
        assert ours == pytest.approx(theirs, rel=1e-3)


def resumable(name, *options):
    return load_config(
        [
            *small(name),
            f"env={training_env(name)}",
            "seeds=2",
            "total_steps=1000",
            "eval.episodes=2",
            "env.max_episode_steps=30",
            *options,
        ]
    )


def advance(trainer, iterations):
    """Some iterations, an evaluation in their middle, and a log that leaves unlogged ones behind."""
    for i in range(iterations):
        trainer.iterate()
        if i == iterations // 2:
            trainer.evaluate()
            trainer.log()


def comparable(trainer):
    state = copy.deepcopy(trainer.state_dict())  # it holds the very tensors that move
    state.pop("clock")
    return state


def logged(trainer):
    return [
        (step, {key: list(value) for key, value in values.items() if not key.startswith("time/")})
        for step, values in trainer.to.logged
    ]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "options", [(), ("algo.normalize_obs=true", "algo.normalize_reward=true")], ids=["raw", "norm"]
)
def test_n_and_n_steps_equal_2n(name, options, tmp_path):
    """Saved after N steps and loaded into a new trainer, the next N end in the same state and curves, bit for bit."""
    assert_goes_on(name, options, tmp_path)


def assert_goes_on(name, options, tmp_path):
    cfg = resumable(name, *options)
    iterations = {"rollout": 9, "episodes": 5, "replay": 45, "demonstrations": 45}[
        get_algorithm(name).loop_for(cfg.algo)
    ]
    with opened_trainer(cfg, tmp_path) as whole, opened_trainer(cfg, tmp_path) as later:
        whole.start()
        advance(whole, iterations)
        save_checkpoint(tmp_path / "last", whole.state_dict(), whole.segments())
        at_n = comparable(whole)
        saved = load_checkpoint(tmp_path / "last")
        whole.to.logged.clear()
        advance(whole, iterations)

        later.load_state_dict(saved.state, saved.segments)
        assert differences(at_n, comparable(later)) == []
        advance(later, iterations)
        assert whole.steps == later.steps > 0
        assert whole.algorithm.optimisers()[0].steps.min() > 0
        assert differences(comparable(whole), comparable(later)) == []
        assert differences(logged(whole), logged(later)) == []
        assert differences(held(whole), held(later)) == []
        assert whole.segments().keys() == later.segments().keys()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_stopped_and_resumed_reports_the_same(name, tmp_path):
    """A signal in mid-run, then the rest of it: the same points of the curves, best returns and final state."""
    cfg = resumable(name, "total_steps=240", "log.every=60", "eval.every=90", "checkpoint.every=70")
    with opened_trainer(cfg, tmp_path / "whole") as whole:
        whole.run()
        assert whole.steps_per_second == whole.steps_per_second > 0, "the clock stands still after a run"
    with opened_trainer(cfg, tmp_path / "cut") as cut:
        cut.to.stopping = lambda: cut.steps >= 100
        cut.run()
        assert 100 <= cut.steps < 240
    saved = load_checkpoint(tmp_path / "cut" / "checkpoints" / "last")
    with opened_trainer(cfg, tmp_path / "cut") as later:
        later.load_state_dict(saved.state, saved.segments)
        later.run()
    assert differences(logged(whole), logged(cut) + logged(later)) == []
    assert differences(comparable(whole), comparable(later)) == []


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - IMITATORS))
def test_what_a_run_reports_adds_up(name, tmp_path):
    """The episodes in the curves are those that ended; steps and updates are counted as the configuration says."""
    cfg = resumable(name, "log.every=50")
    with opened_trainer(cfg, tmp_path) as trainer:
        trainer.start()
        lengths = [[], []]
        step = trainer.envs.step

        def counted(*arguments):
            result = step(*arguments)
            for n in result.episode_end.nonzero()[0]:
                lengths[n // cfg.algo.num_envs].append(int(result.episode_length[n]))
            return result

        trainer.envs.step = counted
        while trainer.steps < 200:
            trainer.iterate()
            if trainer.steps >= trainer._next_log:
                trainer.log()
        trainer.log()
        rows = [values for _, values in trainer.to.logged]
        for seed in (0, 1):
            totals = [row["rollout/episodes"][seed] for row in rows]
            means = [row["rollout/length_mean"][seed] for row in rows]
            assert totals[-1] == len(lengths[seed]) > 3
            episodes = np.diff(totals, prepend=0)
            total = sum(n * mean for n, mean in zip(episodes, means, strict=True) if n)
            assert total == pytest.approx(sum(lengths[seed]))
        steps = [step for step, _ in trainer.to.logged]
        assert steps == sorted(steps)
        assert all(b // 50 > a // 50 for a, b in itertools.pairwise(steps[:-1]))
