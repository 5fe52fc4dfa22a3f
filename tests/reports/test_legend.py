"""What lines are called in a picture, and where their names stand when there are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deeprl_cli.reports.curves import Group, Run, SeedCurve
from deeprl_cli.reports.legend import names
from deeprl_cli.reports.picture import draw

DAY = "2026-11-26"


def line(label: str, seeds: int = 1, end: float = 1.0, **algo: Any) -> Group:
    run = Run(Path(label), {"algo": {"name": "ppo", **algo}, "env": {"id": "CartPole-v1"}}, [], label)
    curve = SeedCurve(np.array([0.0, 10.0]), np.array([0.0, end]))
    return Group("CartPole-v1", label, [run], [curve] * seeds)


def test_what_all_names_share_is_left_out():
    folders = [line("classic/ppo/run"), line("classic/a2c/run")]
    assert list(names(folders).values()) == ["ppo", "a2c"]
    assert list(names([line("ppo lr=0.1"), line("ppo lr=0.2")]).values()) == ["ppo lr=0.1", "ppo lr=0.2"]
    assert names([line("deck/ppo")]) == {"deck/ppo": "deck/ppo"}


def test_runs_named_by_their_time_are_told_apart_by_their_values():
    at = f"ppo/CartPole-v1/{DAY}"
    runs = [line(f"{at}_10-00-00", lr=0.1, gamma=0.9), line(f"{at}_11-00-00", lr=0.2, gamma=0.9)]
    assert list(names(runs).values()) == ["lr=0.1", "lr=0.2"]
    other = line(f"a2c/CartPole-v1/{DAY}_12-00-00", name="a2c", nstep=5)  # its own key is no difference
    assert list(names([*runs, other]).values()) == ["ppo lr=0.1", "ppo lr=0.2", "a2c"]


def test_runs_alike_but_for_their_time_keep_it_without_a_shared_date():
    same = [line(f"ppo/CartPole-v1/{DAY}_10-00-00", lr=0.1), line(f"ppo/CartPole-v1/{DAY}_10-00-00_2", lr=0.1)]
    assert list(names(same).values()) == ["10-00-00", "10-00-00_2"]
    days = [line("ppo/2026-11-25_10-00-00"), line("ppo/2026-11-26_10-00-00")]
    assert list(names(days).values()) == ["2026-11-25_10-00-00", "2026-11-26_10-00-00"]


def test_names_that_are_too_long_to_tell_apart_stay_whole():
    long = "word " * 20
    assert names([line(f"{long}a"), line(f"{long}b")]) == {f"{long}a": f"{long}a", f"{long}b": f"{long}b"}


def test_many_lines_stand_beside_the_panel_in_the_order_they_end():
    groups = [line(f"algorithm {k}", seeds=3, end=float(k)) for k in range(30)]
    figure = draw(groups, "eval/return_mean", "iqm", 1, {}, None)
    (panel,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"algorithm {k}" for k in reversed(range(30))]
    assert "3 seeds each" in legend.get_title().get_text()
    assert not panel.collections  # no bands
    styles = {(one.get_color(), str(one._dash_pattern)) for one in panel.lines}
    assert len(styles) == 30
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    box, beside = panel.get_window_extent(), legend.get_window_extent()
    assert box.width > 0.5 * width
    assert box.height > 0.7 * height
    assert beside.x0 > box.x1
    assert beside.x1 <= width
    assert 0 <= beside.y0 < beside.y1 <= height
