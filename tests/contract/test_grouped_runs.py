"""Several runs that train as one, of every algorithm: their checkpoints put the group together again bit for bit, each
goes on alone, and the end of one leaves the others as they were."""

from __future__ import annotations

import copy

import pytest

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.config.compose import load_config
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.schema.group import as_one
from deeprl_cli.schema.members import with_values
from deeprl_cli.training.stack import stacked
from tests.contract.harness import (
    ALGORITHMS,
    assert_close,
    differences,
    held,
    members_apart,
    opened_trainer,
    small,
    training_env,
)

ITERATIONS = {"rollout": 5, "episodes": 3, "replay": 24, "demonstrations": 24}


def jobs_apart(name, *options):
    """Three runs, the first of two seeds, that differ in every value in which they may."""
    base = [*small(name), f"env={training_env(name)}", "env.max_episode_steps=30", "total_steps=1000", *options]
    fixed = [load_config([*base, f"seed={seed}", f"seeds={seeds}"]) for seed, seeds in ((3, 2), (3, 1), (7, 1))]
    return [with_values(cfg, member.values) for cfg, member in zip(fixed, members_apart(name), strict=True)]


def advance(trainer, iterations):
    for _ in range(iterations):
        trainer.iterate()


def comparable(trainer):
    state = copy.deepcopy(trainer.state_dict())
    state.pop("clock")
    state["episodes"].sort(key=lambda episode: episode[0])  # a run's checkpoint knows nothing of the order among runs
    return state


def checkpoints(folder, count):
    return [load_checkpoint(folder / str(number) / "checkpoints" / "last") for number in range(count)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_group_goes_on_from_the_checkpoints_of_its_runs(name, tmp_path):
    """Each run's checkpoint is of its own members; together they are the group's whole state, as is what follows."""
    cfg = as_one(jobs_apart(name, "algo.normalize_obs=true", "algo.normalize_reward=true"))
    assert cfg.seed_list == [3, 4, 3, 7]
    iterations = ITERATIONS[get_algorithm(name).loop_for(cfg.algo)]
    with opened_trainer(cfg, tmp_path) as whole, opened_trainer(cfg, tmp_path) as later:
        whole.start()
        advance(whole, iterations)
        whole.checkpoint()
        at_n = comparable(whole)
        advance(whole, iterations)
        saved = checkpoints(tmp_path, 3)
        assert [len(checkpoint.state["best"]) for checkpoint in saved] == [2, 1, 1]
        later.load_state_dict(*stacked(cfg.jobs, saved))
        assert differences(at_n, comparable(later)) == []
        advance(later, iterations)
        assert differences(comparable(whole), comparable(later)) == []
        assert differences(held(whole), held(later)) == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_of_a_group_goes_on_alone(name, tmp_path):
    """Its checkpoint is an ordinary one: what follows is what the group does, equal to rounding."""
    jobs = jobs_apart(name)
    cfg = as_one(jobs)
    iterations = ITERATIONS[get_algorithm(name).loop_for(cfg.algo)]
    with opened_trainer(cfg, tmp_path) as together, opened_trainer(jobs[1], tmp_path / "alone") as alone:
        together.start()
        advance(together, iterations)
        together.checkpoint()
        saved = checkpoints(tmp_path, 3)[1]
        alone.load_state_dict(saved.state, saved.segments)
        advance(together, 2)
        advance(alone, 2)
        assert alone.x_axis[0] == together.x_axis[2]
        assert_close(together.policy.state_dict(), alone.policy.state_dict(), 2e-3, seed=2)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_end_of_one_run_leaves_the_others_untouched(name, tmp_path):
    """A run whose environment raises ends alone; the members of the others are what they are without that, bit for bit,
    and the group goes on without it from the checkpoints of the rest."""
    cfg = as_one(jobs_apart(name))
    iterations = ITERATIONS[get_algorithm(name).loop_for(cfg.algo)]
    with opened_trainer(cfg, tmp_path / "well") as well, opened_trainer(cfg, tmp_path / "sick") as sick:
        for trainer in (well, sick):
            trainer.start()
            advance(trainer, 2)
        break_member(sick, 2)
        for trainer in (well, sick):
            advance(trainer, iterations)
        share = sick.shares.all[1]
        assert share.failed is not None
        assert "the joint broke" in str(share.failed)
        assert sick.shares.left.tolist() == [False, False, True, False]
        others = [0, 1, 3]
        theirs, ours = well.policy.state_dict(), sick.policy.state_dict()
        for key, value in theirs.items():
            if hasattr(value, "ndim") and value.ndim:
                tolerance = 0 if get_algorithm(name).loop_for(cfg.algo) != "episodes" else 1e-4  # other padded lengths
                parted = (value[others].double() - ours[key][others].double()).abs().max()
                assert parted <= tolerance, key
        sick.checkpoint()
        saved = [None if number == 1 else checkpoint for number, checkpoint in enumerate_saved(tmp_path / "sick")]
        with opened_trainer(cfg, tmp_path / "later") as later:
            later.shares.leave(later.shares.all[1], share.failed)
            later.load_state_dict(*stacked(cfg.jobs, saved))
            for trainer in (sick, later):
                advance(trainer, 2)
            for key, value in sick.policy.state_dict().items():
                if hasattr(value, "ndim") and value.ndim:
                    assert (value[others] == later.policy.state_dict()[key][others]).all(), key


def enumerate_saved(folder):
    for number in range(3):
        path = folder / str(number) / "checkpoints" / "last"
        yield number, load_checkpoint(path) if path.exists() else None


def break_member(trainer, member):
    """Have an environment of this member raise at its next step (or its next demonstration)."""

    def broken(*_):
        raise ZeroDivisionError("the joint broke")

    if hasattr(trainer, "lessons"):
        trainer.lessons[member].take = broken
    else:
        trainer.envs._step_functions[member * trainer.num_envs + 1] = broken
