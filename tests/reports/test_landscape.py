"""The return of a sweep over its keys: places, the best at each, scales; and `deeprl plot` of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from deeprl_cli.cli import main
from deeprl_cli.reports.intervals import estimates
from deeprl_cli.reports.landscape import Point, best_at, draw_profiles, draw_returns


def point(returns, env="", **values):
    return Point(env, values, estimates(returns))


def test_places_are_in_their_natural_order_and_hold_the_best():
    points = [point([5.0, 6.0], lr="1e-2", n="9"), point([1.0, 2.0], lr="1e-3", n="10"), point([7.0], lr="1e-3", n="9")]
    assert list(best_at(points, ["n"])) == [("9",), ("10",)]
    assert {place: told["iqm"] for place, told in best_at(points, ["lr"]).items()} == {("1e-3",): 7.0, ("1e-2",): 5.5}


def test_a_line_over_one_key():
    points = [point([5.0, 7.0], lr="0.1"), point([1.0], lr="0.001")]
    (panel,) = draw_returns(points, ["lr"]).axes
    assert panel.lines[0].get_xdata().tolist() == [0.001, 0.1]
    assert panel.lines[0].get_ydata().tolist() == [1.0, 6.0]
    assert panel.get_xscale() == "log"
    (named,) = draw_returns([point([1.0], algo="ppo"), point([2.0], algo="a2c")], ["algo"]).axes
    assert [text.get_text() for text in named.get_xticklabels()] == ["a2c", "ppo"]


def test_a_heat_map_over_two_and_what_else_varies_is_said():
    points = [
        point([float(a * b)], env=e, x=str(a), y=str(b), z=z)
        for a in (1, 2)
        for b in (3, 4)
        for z in "zw"
        for e in "AB"
    ]
    figure = draw_returns(points, ["x", "y"])
    panel = figure.axes[0]
    assert panel.images[0].get_array().tolist() == [[3.0, 4.0], [6.0, 8.0]]
    assert [text.get_text() for text in panel.texts] == ["3", "4", "6", "8"]
    assert figure.get_suptitle() == "the best over z at each place"
    assert [one.get_title() for one in figure.axes[:2]] == ["A", "B"]


def test_profiles_of_both_sides():
    (panel,) = draw_profiles(["a", "b"], {"E": [[1.0, 3.0], [2.0, 2.0]]}).axes
    first = panel.lines[0].get_ydata()
    assert (first[0], first[len(first) // 2], first[-1]) == (1.0, 0.5, 0.0)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a (2)", "b (2)"]


def test_plot_of_a_sweep_draws_its_settings_and_its_return(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("sweep")
    jobs = []
    for lr in ("0.1", "0.2"):
        run = folder / f"lr={lr}"
        (run / "seed_0").mkdir(parents=True)
        config = {"algo": {"name": "ppo", "lr": float(lr)}, "env": {"id": "E-v0"}, "resolved": {}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "seed_0" / "metrics.csv").write_text("step,eval/return_mean\n1,1\n2,3\n")
        summary = {"status": "finished", "seeds": [0], "wall_seconds": 1, "eval": {"return_mean": [1.0]}}
        (run / "summary.json").write_text(json.dumps(summary))
        jobs.append({"overrides": [f"algo.lr={lr}"], "status": "done", "run": str(run)})
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    main(["plot", "sweep"])
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["sweep/eval-return_mean.png", "sweep/returns.png"]
    assert printed.err == ""  # the settings are lines of their own, so nothing differs within one
    assert (folder / "returns.png").stat().st_size > 1000
