"""`deeprl tune --pbt`: who takes over from whom, how values move, and that a population goes on after a kill."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from deeprl_cli.config.overrides import parse_one
from deeprl_cli.config.ranges import domain
from deeprl_cli.envs.look import look
from deeprl_cli.errors import ConfigError
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.reading import read_run
from deeprl_cli.training.graft import grafted
from deeprl_cli.tuning import plan as plans
from deeprl_cli.tuning.pbt import exploited, explored, schedule
from deeprl_cli.tuning.store import Store, Unit
from tests.tuning.test_tune import SMALL, Killed, code, counts, kill, stopped_at, trials

RANGE = "algo.lr=interval(1e-4,1e-1)"
PBT = ["--pbt", *(word for word in SMALL if not word.startswith(("seeds", "eval.every", "total_steps"))), RANGE]
PBT += [
    "env.kwargs.slip=0.3",
    "env.kwargs.step_reward=-0.1",
    "total_steps=192",
    "population=4",
    "generations=3",
    "algo.normalize_obs=true",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_worst_quarter_takes_over_from_the_best():
    scores = {number: float(number) for number in range(8)}
    grafts = exploited(list(scores), scores, random.Random(0))
    assert set(grafts) == {0, 1}
    assert set(grafts.values()) <= {6, 7}
    assert exploited([0, 1, 2, 3], dict.fromkeys(range(4), 5.0), random.Random(0)) == {}, "all are as good"
    assert exploited([0, 1, 2, 3], {0: 1.0, 1: 2.0, 2: 3.0}, random.Random(0)) == {3: 2}, "one without a score is worst"


def test_values_move_within_their_domain():
    domains = [domain(parse_one(text)) for text in (RANGE, "algo.gamma=tag(one_minus,interval(0.9,0.999))")]
    domains.append(domain(parse_one("algo.epochs=choice(1,2,4,8)")))
    rng, before = random.Random(0), {"algo.lr": 9e-2, "algo.gamma": 0.99, "algo.epochs": 2}
    moved = [explored(domains, before, rng) for _ in range(200)]
    assert all(values[one.key] in one for values in moved for one in domains)
    rates = [values["algo.lr"] for values in moved]
    assert 0.6 < sum(rate in (0.072, 0.1) for rate in rates) / len(rates) < 0.9, "the rest is drawn anew"
    assert {0.988, 0.992} <= {round(values["algo.gamma"], 6) for values in moved}
    assert {1, 4} <= {values["algo.epochs"] for values in moved}


def test_a_schedule_follows_those_taken_over_from():
    def unit(start, grafts, **values):
        return Unit(
            Path(),
            [0, 1],
            start,
            start + 10,
            values={int(key[1]): value for key, value in values.items()},
            grafts=grafts,
        )

    units = [
        unit(0, {}, t0={"x": 1}, t1={"x": 2}),
        unit(10, {0: 1}, t0={"x": 3}, t1={"x": 2}),
        unit(20, {}, t0={"x": 3}, t1={"x": 2}),
    ]
    assert schedule(units, 0) == [(0, {"x": 2}), (10, {"x": 3}), (20, {"x": 3})]
    assert schedule(units, 1) == [(0, {"x": 2}), (10, {"x": 2}), (20, {"x": 2})]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population") / "s"
    assert code("tune", *PBT, f"study={folder}", f"out={folder}/mine") == 0
    return folder


def units(study):
    return [json.loads(path.read_text()) for path in sorted(Path(study).glob("units/*/unit.json"))]


def test_a_population_finds_a_schedule(whole):
    """Three generations of four and four; whoever takes over has new values; the file, and all sides on fresh seeds."""
    found = units(whole)
    assert [(unit["start"], unit["until"]) for unit in found] == [(0, 64), (64, 128), (128, 192)]
    assert all(unit["trials"] == list(range(8)) and len(unit["stacks"]) == 1 for unit in found)
    assert all(found[0]["values"][str(n)] == found[0]["values"][str(n + 4)] for n in range(4)), (
        "the control's are the same"
    )
    scored = {trial.number: trial.intermediate_values for trial in trials(whole)}
    assert scored[0][64] == scored[4][64], "as long as nobody took over, each is its control, seed for seed"
    for former, later in itertools.pairwise(found):
        assert all(later["values"][str(n)] == former["values"][str(n)] for n in range(4, 8)), "whose values stay"
        for loser in later["grafts"]:
            assert later["values"][loser] != former["values"][loser]
    assert any(unit["grafts"] for unit in found), "this seed shows an exploit"
    kept = yaml.safe_load((whole / "mine" / "schedule.yaml").read_text())
    assert kept[0]["step"] == 0
    assert set(kept[0]["values"]) == {"algo.lr"}
    result = json.loads((whole / "result.json").read_text())
    assert result["seeds"] == [4, 5]
    assert set(result["against"]) == {"control", "defaults"}
    best = max((trial for trial in trials(whole) if not trial.user_attrs["control"]), key=lambda trial: trial.value)
    assert result["trial"] == best.number
    cfg = read_run(whole / "final" / "schedule")[1]
    assert cfg.algo.lr == kept[-1]["values"]["algo.lr"], "replayed to its last values"
    assert (cfg.total_steps, cfg.horizon, cfg.seed_list) == (192, 192, [4, 5])


@pytest.mark.parametrize(
    "step", [pytest.param(20, marks=pytest.mark.slow), pytest.param(150, marks=pytest.mark.slow), 180]
)
def test_a_population_goes_on_after_a_kill(step, whole, monkeypatch):
    """In the first generation, in a later one before and after its first checkpoint: as if nothing had happened."""
    with monkeypatch.context() as patch:
        stopped_at(step, patch, kill)
        with pytest.raises(Killed):
            code("tune", *PBT, "study=s", "log.every=16", "checkpoint.every=16")
    assert counts("s") == {"RUNNING": 8}
    assert code("tune", "s") == 0
    assert [unit["values"] for unit in units("s")] == [unit["values"] for unit in units(whole)]
    assert [trial.value for trial in trials("s")] == [trial.value for trial in trials(whole)]
    results = [json.loads((Path(study) / "result.json").read_text()) for study in ("s", whole)]
    assert results[0] == results[1]


def test_where_all_members_have_failed_it_says_so_in_one_line(whole, monkeypatch, capsys):
    """After a generation that had returns, too; and the study can be tried again."""
    with monkeypatch.context() as patch:
        stopped_at(150, patch, kill)
        with pytest.raises(Killed):
            code("tune", *PBT, "study=s", "log.every=16")
    (study,) = [path for path in Path("s/units").glob("*/unit.json") if json.loads(path.read_text())["until"] == 192]
    study.unlink()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "going", lambda self: [])
        assert code("tune", "s") == 2
    assert "s: every member has failed: its run says why (deeprl list runs s)" in capsys.readouterr().err
    assert len(units("s")) == 2
    assert code("tune", "s") == 0
    assert [trial.value for trial in trials("s")] == [trial.value for trial in trials(whole)]


def test_what_is_taken_over_and_what_stays(whole):
    """Networks, optimiser and normaliser of the winner; the loser's environments and noise; the new learning rate."""
    runs = [whole / "trials" / f"{number:04}" for number in (4, 5)]  # of the control: nobody took over there
    points = [load_checkpoint(run / "checkpoints" / "last") for run in runs]
    before = [read_run(run)[1] for run in runs]
    after = [
        plans.read(whole).job(4, {"algo.lr": 0.05}, 256),
        plans.read(whole).job(5, {"algo.lr": before[1].algo.lr}, 256),
    ]
    found = grafted(points, before, after, {0: 1}, look(before[0].env).spec)
    policies = [point.state["policy"] for point in found]
    for name, value in policies[1].items():
        torch.testing.assert_close(value, points[1].state["policy"][name], rtol=0, atol=0)
        if name == "algorithm.optimiser.lr":
            assert policies[0][name].tolist() == pytest.approx([0.05])
        else:
            torch.testing.assert_close(policies[0][name], value, rtol=0, atol=0)
    assert any("statistics" in name for name in policies[0])
    assert found[0].state["envs"] is points[0].state["envs"]
    assert not policies[0]["algorithm.model.flat"].equal(points[0].state["policy"]["algorithm.model.flat"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=pbt", "trials=5"], "trials=5: method=pbt doesn't have it; it has population"),
        (["population=5"], "population=5: method=search doesn't have it"),
        (["method=pbt", "population=3"], "population=3: must be at least 4"),
        (["method=pbt", "algo.batch_size=32,64"], "algo.batch_size: can't differ"),
    ],
)
def test_what_a_population_refuses(words, told):
    with pytest.raises(ConfigError) as error:
        plans.new(["algo=ppo", "tuned=none", *words])
    assert told in str(error.value)


def test_of_the_space_kept_a_population_takes_what_stacks():
    keys = [one.key for one in plans.new(["algo=ppo", "tuned=none", "method=pbt"]).domains]
    assert "algo.lr" in keys
    assert "algo.batch_size" not in keys
