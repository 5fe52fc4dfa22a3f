"""The picture of a study: every trial is in it."""

from __future__ import annotations

import pytest

from deeprl_cli.config.overrides import parse_one
from deeprl_cli.config.ranges import domain
from deeprl_cli.reports.picture import save
from deeprl_cli.reports.study import Line, Tried, draw_population, draw_study

DOMAINS = [
    domain(parse_one(text))
    for text in ("algo.lr=interval(1e-4,1e-2)", "algo.gamma=tag(one_minus,interval(0.9,0.99))", "algo.epochs=1,2,4")
]


def test_a_value_has_a_place_on_its_axis():
    lr, gamma, epochs = DOMAINS
    assert [lr.unit(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [gamma.unit(value) for value in (0.9, 0.99)] == pytest.approx([0, 1])
    assert [epochs.unit(value) for value in (1, 2, 4)] == [0, 0.5, 1]


def test_a_search():
    tried = [
        Tried(n, {"algo.lr": 1e-3, "algo.gamma": 0.95, "algo.epochs": 2}, score, whole)
        for n, (score, whole) in enumerate([(3.0, True), (9.0, False), (1.0, True), (5.0, True)])
    ]
    figure = draw_study(tried, DOMAINS, {"algo.lr": 0.7, "algo.gamma": 0.2, "algo.epochs": 0.1}, "auc", "title")
    history, importance, parallel = figure.axes
    best = next(line for line in history.lines if line.get_label() == "best so far")
    assert list(best.get_ydata()) == [3.0, 3.0, 5.0], "of those that came to the end"
    assert [bar.get_width() for bar in importance.patches] == [0.1, 0.2, 0.7]
    paths = [line for line in parallel.lines if len(line.get_xdata()) == 4]
    assert sorted(line.get_ydata()[-1] for line in paths) == pytest.approx([0, 0.25, 0.5, 1])
    assert all(list(line.get_ydata()[:3]) == pytest.approx([0.5, DOMAINS[1].unit(0.95), 0.5]) for line in paths)


@pytest.mark.filterwarnings("error")
def test_a_search_that_has_just_begun(tmp_path):
    tried = [Tried(0, {"algo.lr": 1e-3}, 3.0, True)]
    figure = draw_study(tried, DOMAINS[:1], {}, "auc", "too few")
    save(figure, tmp_path / "study.png")
    assert figure.axes[1].texts[0].get_text() == "too few trials to tell"


def test_a_population():
    first, later = ({"algo.lr": lr, "algo.gamma": 0.95, "algo.epochs": 2} for lr in (1e-3, 2e-3))
    lines = [
        Line({10: 1.0, 20: 3.0}, [(0, first), (10, later)], control=False),
        Line({10: 1.0, 20: 2.0}, [(0, first), (10, first)], control=True),
    ]
    panels = draw_population(lines, DOMAINS, [(0, first), (10, later)], "title").axes
    assert [list(line.get_ydata()) for line in panels[0].lines[:2]] == [[1.0, 3.0], [1.0, 2.0]]
    assert list(panels[1].lines[-1].get_ydata()) == [1e-3, 2e-3, 2e-3], "the schedule, in front"
    assert len(panels[1].lines) == 2, "the control's values don't change"
