"""What is typed behind `deeprl tune`: ranges, the spaces that are kept, and what is refused."""

from __future__ import annotations

import math

import pytest

from deeprl_cli.algos.registry import algorithm_names
from deeprl_cli.config.overrides import parse_one
from deeprl_cli.config.ranges import checked, domain, settings, space, taken_apart
from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.domain import Domain
from deeprl_cli.tuning import plan as plans

ENVS = {"ddpg": "Pendulum-v1", "td3": "Pendulum-v1", "sac": "Pendulum-v1", "bc": "ArithQA-v0"}


def of(text):
    return domain(parse_one(text))


@pytest.mark.parametrize(
    ("typed", "low", "high", "scale", "whole"),
    [
        ("algo.lr=interval(1e-5,1e-2)", 1e-5, 1e-2, "log", False),
        ("algo.lr=interval(1e-5,9e-5)", 1e-5, 9e-5, "linear", False),
        ("algo.lr=tag(linear,interval(1e-5,1e-2))", 1e-5, 1e-2, "linear", False),
        ("algo.clip_eps=interval(0,10)", 0, 10, "linear", False),
        ("algo.clip_eps=tag(log,interval(0.1,0.4))", 0.1, 0.4, "log", False),
        ("algo.gamma=tag(one_minus,interval(0.9,0.999))", 0.9, 0.999, "one_minus", False),
        ("algo.epochs=int(interval(3,8))", 3, 8, "linear", True),
    ],
)
def test_an_interval(typed, low, high, scale, whole):
    one = of(typed)
    assert (one.low, one.high, one.scale, one.whole) == (low, high, scale, whole)
    ends = sorted([one.value(one.drawn(0.0)), one.value(one.drawn(1 - 1e-12))])
    assert ends == pytest.approx([low, high], rel=1e-3)
    middle = one.value(one.drawn(0.5))
    expected = {
        "linear": (low + high) / 2,
        "log": math.sqrt(max(low, 0) * high),
        "one_minus": 1 - math.sqrt(abs((1 - low) * (1 - high))),
    }[scale]
    assert middle == pytest.approx(expected, rel=0.1 if whole else 1e-3)
    assert middle in one
    assert high * 2 not in one
    assert one.value(one.number(middle)) == middle


def test_numbers_that_are_drawn_have_four_digits():
    assert of("algo.lr=interval(1e-5,1e-2)").value(0.00123456789) == 0.001235
    assert of("algo.gamma=tag(one_minus,interval(0.9,0.999))").value(0.0123456789) == 0.98765


@pytest.mark.parametrize("typed", ["choice(.95,.99,.999)", ".95,.99,.999"])
def test_a_choice(typed):
    one = of(f"algo.gamma={typed}")
    assert one.choices == (0.95, 0.99, 0.999)
    assert [one.value(one.drawn(unit)) for unit in (0.0, 0.5, 0.999)] == [0.95, 0.99, 0.999]


def test_choices_that_are_lists_go_through_optuna_as_text():
    one = of("algo.hidden=choice([8],[16,16])")
    assert one.labels == ["[8]", "[16, 16]"]
    assert one.value("[16, 16]") == [16, 16]
    assert of("algo.epochs=range(2,9,3)").choices == (2, 5, 8)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["algo=ppo,a2c"], "a study tunes one algo"),
        (["seed=0,1"], "seeds=3"),
        (["total_steps=interval(1,2)"], "a range is for keys of algo"),
        (["algo.lr=interval(1e-2,1e-5)"], "LOW below HIGH"),
        (["algo.lr=tag(logg,interval(1e-5,1e-2))"], "one tag, of log"),
        (["algo.lr=tag(log,interval(0,1))"], "above 0"),
        (["algo.gamma=tag(one_minus,interval(0.5,1.5))"], "below 1"),
        (["algo.lr=1,1"], "listed twice"),
        (["trails=5"], "did you mean 'trials'"),
        (["trials=1,2"], "takes one value"),
        (["trials=0"], "trials=0: must be"),
        (["score=best"], "score=best: must be one of auc, last"),
        (["algo.lrr=interval(1e-5,1e-2)"], "unknown key 'algo.lrr'"),
        (["algo.gamma=interval(0.5,1.5)"], "algo.gamma=interval(0.5,1.5): algo.gamma=1.5"),
        (["algo.epochs=1,many"], "algo.epochs=1,many: algo.epochs=many"),
        (["stop.return=100"], "over the same steps"),
        (["algo.lr=0.1", "algo.gama=3"], "unknown key 'algo.gama'"),
        (["env.id=choice(a,b)"], "the same env.id"),
        (["env.wrappers=choice([a:B],[])"], "the same env.wrappers"),
        (["total_steps=10", "halving=3", "rungs=5"], "compared at steps 1, 1, 1, 3, 10"),
    ],
)
def test_what_is_refused(words, told):
    with pytest.raises(ConfigError) as error:
        plans.new(words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_words_are_taken_apart():
    found = taken_apart(["algo=ppo", "trials=7", "out=a=b", "algo.lr=interval(1e-5,1e-2)", "seeds=2", "minutes=1.5"])
    assert found.own == {"trials": 7, "out": "a=b", "minutes": 1.5}
    assert found.overrides == ["algo=ppo", "seeds=2"]
    assert [one.key for one in found.domains] == ["algo.lr"]


def test_another_budget_lifts_that_of_trials():
    assert settings({}).trials == 64
    assert settings({"steps": 1000}).trials is None
    assert settings({"steps": 1000, "trials": 3}).trials == 3


@pytest.mark.parametrize("algo", algorithm_names())
def test_the_space_kept_for_an_algorithm(algo):
    """Every key exists, every end is valid, and most of it stacks."""
    words = [f"algo={algo}", f"env={ENVS.get(algo, 'CartPole-v1')}", "tuned=none"]
    domains = space(algo)
    checked(words, domains)  # which plans.new leaves out for what is kept
    plan = plans.new(words)
    assert [one.key for one in plan.domains] == [one.key for one in domains], "all of it is used by the defaults"
    stacking = [one for one in plan.domains if one not in plan.structural]
    assert "lr" in stacking[0].key
    assert all(isinstance(one, Domain) for one in plan.structural)


def test_what_cannot_differ_in_a_stack():
    words = ["algo.lr=1e-3,1e-2", "algo.clip_norm=choice(0.5,1)", "algo.batch_size=32,64", "env.kwargs.x=1,2"]
    plan = plans.new(["algo=ppo", "tuned=none", *words[:3]])
    assert [one.key for one in plan.structural] == ["algo.batch_size"]
    plan = plans.new(["algo=ppo", "tuned=none", "algo.clip_norm=0.5,null"])
    assert [one.key for one in plan.structural] == ["algo.clip_norm"], "clipping or not is another graph"


def test_what_a_run_has_switched_off_is_not_searched():
    """td3's rho where a tau is typed."""
    plan = plans.new(["algo=td3", "env=Pendulum-v1", "tuned=none", "algo.rho=null", "algo.tau=0.01"])
    assert "algo.rho" not in [one.key for one in plan.domains]
