"""`deeprl plot`: runs found and read without executing anything, grouped, drawn; one line for what can't be drawn."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from deeprl_cli.cli import main
from deeprl_cli.errors import UserError
from deeprl_cli.reports import picture as plot
from deeprl_cli.reports.curves import Group, SeedCurve, find_runs, moving_mean, read_groups, read_metric

PNG = b"\x89PNG\r\n\x1a\n"


def make_run(
    folder: str, algo: str = "ppo", env: str = "CartPole-v1", seeds: int = 2, last: int = 3000, lr: float = 1e-3
) -> Path:
    """A run whose seed k earns step/1000 + k at steps 1000, 2000, …"""
    run = Path(folder)
    run.mkdir(parents=True)
    config = {"algo": {"name": algo, "lr": lr}, "env": {"id": env, "kwargs": {}}, "seed": 0, "resolved": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for seed in range(seeds):
        (run / f"seed_{seed}").mkdir()
        rows = [f"{step},0.5,{step / 1000 + seed}" for step in range(1000, last + 1, 1000)]
        table = "\n".join(["step,loss/policy,eval/return_mean", "500,0.5,", *rows, ""])
        (run / f"seed_{seed}" / "metrics.csv").write_text(table)
    return run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def code(*arguments: object) -> int:
    try:
        main(["plot", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code
    return 0


def groups(*paths: str, metric: str = "eval/return_mean", keys: tuple[str, ...] = ("algo",)) -> list[Group]:
    return read_groups(find_runs([Path(path) for path in paths]), metric, keys)


# ---- finding and reading


def test_runs_are_found_at_and_below_a_path_each_once():
    make_run("runs/ppo/CartPole-v1/a", seeds=11)
    make_run("runs/a2c/CartPole-v1/b")
    (Path("runs/ppo/CartPole-v1/a/checkpoints")).mkdir()
    runs = find_runs([Path("runs"), Path("runs/ppo/CartPole-v1/a"), Path("runs/ppo/CartPole-v1/a/seed_1")])
    assert [run.folder.name for run in runs] == ["b", "a"]
    assert [seed.name for seed in runs[1].seeds] == [f"seed_{k}" for k in range(11)]
    (one,) = find_runs([Path("runs/ppo/CartPole-v1/a/seed_1")])
    assert [seed.name for seed in one.seeds] == ["seed_1"]
    (whole,) = find_runs([Path("runs/ppo/CartPole-v1/a/checkpoints")])
    assert len(whole.seeds) == 11


def test_a_damaged_run_among_others_is_left_out_with_a_word(capsys):
    make_run("runs/a")
    make_run("runs/b")
    Path("runs/b/config.yaml").write_text("algo: !!python/object/apply:os.getcwd []")
    assert [run.folder.name for run in find_runs([Path("runs")])] == ["a"]
    assert "left out: runs/b/config.yaml: damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="damaged"):
        find_runs([Path("runs/b")])


def test_empty_cells_nan_and_a_half_written_line_are_no_points():
    Path("m.csv").write_text("step,a,b\n1,,5\n2,nan,6\n3,1.5,\n4,inf,7\n5,2.5,8\n6,9")
    columns, curve = read_metric(Path("m.csv"), "a")
    assert columns == ["a", "b"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([3.0, 5.0], [1.5, 2.5])
    assert read_metric(Path("m.csv"), "c")[1].steps.tolist() == []
    Path("m.csv").write_text("step,a\n1,much\n")
    with pytest.raises(UserError, match=r"m\.csv: damaged: line 2"):
        read_metric(Path("m.csv"), "a")


def test_groups_by_algorithm_or_any_key(capsys):
    make_run("runs/1", lr=0.1)
    make_run("runs/2", lr=9.0)
    make_run("runs/3", lr=10.0)
    make_run("runs/4", algo="a2c", env="Acrobot-v1", seeds=1)
    assert [(g.env, g.label, len(g.curves)) for g in groups("runs")] == [
        ("Acrobot-v1", "a2c", 1),
        ("CartPole-v1", "ppo", 6),
    ]
    assert "3 runs that differ in algo.lr make one line; --group …,algo.lr separates them" in capsys.readouterr().err
    labels = [g.label for g in groups("runs", keys=("algo", "algo.lr"))]
    assert labels == ["a2c lr=0.001", "ppo lr=0.1", "ppo lr=9.0", "ppo lr=10.0"]
    assert capsys.readouterr().err == ""
    assert [(g.env, g.label) for g in groups("runs", keys=("env",))] == [("", "Acrobot-v1"), ("", "CartPole-v1")]


def test_each_run_by_itself_is_named_by_its_folder(capsys):
    make_run("runs/bench/mine/with/run", lr=0.1)
    make_run("runs/bench/mine/without/run", lr=0.2)
    make_run("runs/ppo/CartPole-v1/today", seeds=1)
    assert [g.label for g in groups("runs/bench", keys=("run",))] == ["with", "without"]
    assert [g.label for g in groups("runs/bench/mine/with", keys=("run",))] == ["with"]
    assert [g.label for g in groups("runs", keys=("run", "algo.lr"))] == [
        "bench/mine/with lr=0.1",
        "bench/mine/without lr=0.2",
        "ppo/CartPole-v1/today lr=0.001",
    ]
    assert capsys.readouterr().err == ""


def test_each_seed_by_itself(capsys):
    make_run("runs/ppo/a", seeds=3)
    make_run("runs/a2c/b", "a2c", seeds=1)
    found = groups("runs/ppo", keys=("seed",))
    assert [(group.label, len(group.curves)) for group in found] == [("seed 0", 1), ("seed 1", 1), ("seed 2", 1)]
    assert [group.label for group in groups("runs", keys=("algo", "seed"))] == [
        "a2c seed 0",
        "ppo seed 0",
        "ppo seed 1",
        "ppo seed 2",
    ]
    figure = plot.draw(found, "eval/return_mean", "iqm", 1, {}, None)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0", "seed 1", "seed 2"]
    (Path("runs/ppo/a/seed_1/metrics.csv")).write_text("step,eval/return_mean\n")
    assert [group.label for group in groups("runs/ppo", keys=("seed",))] == ["seed 0", "seed 2"]
    assert "1 of 1 seeds have no points" in capsys.readouterr().err


def test_curves_are_read_at_common_steps():
    curves = [
        SeedCurve(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0])),
        SeedCurve(np.array([5.0, 15.0, 25.0]), np.array([1.0, 2.0, 3.0])),
    ]
    steps, values = Group("env", "algo", [], curves).on_a_grid(1)
    assert steps.tolist() == [5.0, 10.0, 15.0, 20.0]
    assert values.tolist() == [[5.0, 10.0, 15.0, 20.0], [1.0, 1.5, 2.0, 2.5]]
    apart = SeedCurve(np.array([90.0]), np.array([1.0]))
    with pytest.raises(UserError, match="no steps in common"):
        Group("env", "algo", [], [*curves, apart]).on_a_grid(1)


def test_smoothing_is_the_mean_of_the_last_points():
    assert moving_mean(np.array([1.0, 3.0, 5.0, 9.0]), 1).tolist() == [1.0, 3.0, 5.0, 9.0]
    assert moving_mean(np.array([1.0, 3.0, 5.0, 9.0]), 2).tolist() == [1.0, 2.0, 4.0, 7.0]
    assert moving_mean(np.array([1.0, 3.0]), 5).tolist() == [1.0, 2.0]


# ---- drawing


def test_panels_lines_and_bands():
    make_run("runs/1")
    make_run("runs/2", algo="a2c", seeds=1)
    make_run("runs/3", env="Acrobot-v1", last=1000)
    bars = {"": [2.0], "Acrobot-v1": [1.0]}
    figure = plot.draw(groups("runs"), "eval/return_mean", "mean", 1, bars, "Title")
    acrobot, cartpole = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["Acrobot-v1", "CartPole-v1"]
    one, several = cartpole.lines[:2]
    assert one.get_xdata().tolist() == [1000.0, 2000.0, 3000.0]
    assert several.get_ydata().tolist() == [1.5, 2.5, 3.5]  # the mean of seeds 0 and 1
    assert len(cartpole.collections) == 1  # a band for the two seeds, none for the one
    assert acrobot.lines[0].get_color() == several.get_color() != one.get_color()
    assert len(acrobot.lines) == 6  # point, its error bar with two caps, and two bars
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ppo (2 seeds)", "a2c (1 seed)", "bar"]
    assert figure.get_suptitle() == "Title"


def test_png_and_svg_by_extension(capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    run = make_run("my runs/1")
    assert code(run) == 0
    assert capsys.readouterr().out == "my runs/1/eval-return_mean.png\n"
    assert (run / "eval-return_mean.png").read_bytes().startswith(PNG)
    assert code(run, run, "--metric", "loss/policy") == 0  # several paths: here
    assert Path("loss-policy.png").read_bytes().startswith(PNG)
    assert code(run, "--out", "new folder/a.SVG", "--title", "$x & y$", "--bar", "3", "--smooth", "2") == 0
    root = ElementTree.parse("new folder/a.SVG").getroot()
    assert root.tag.endswith("svg")
    before = Path("new folder/a.SVG").read_bytes()
    assert code(run, "--out", "new folder/a.SVG", "--title", "$x & y$", "--bar", "3", "--smooth", "2") == 0
    assert Path("new folder/a.SVG").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: no runs there"),
        (
            ["run", "--metric", "eval/return"],
            "unknown metric 'eval/return'; did you mean 'eval/return_mean'?; there are",
        ),
        (["run", "--metric", "step"], "unknown metric 'step'"),
        (["young"], "young: no points of eval/return_mean yet"),
        (["run", "--group", "algo.lrr"], "--group algo.lrr: no run has this key; did you mean 'algo.lr'?"),
        (["run", "--group", "lr"], "did you mean 'algo.lr'?"),
        (["run", "--group", "env.kwargs,,", "--out", "x.pdf"], "--out x.pdf: must end in .png or .svg"),
        (["run", "--group", ","], "--group ',': name a key"),
        (["run", "--statistic", "median"], "invalid choice: 'median'"),
        (["run", "--smooth", "0"], "'0' is not a whole number"),
        (["run", "--bar", "high"], "--bar high: write a number"),
        (["run", "--bar", "CartPole=3"], "no run is on 'CartPole'; did you mean 'CartPole-v1'?"),
        (["run", "--out", "file/x.png"], "file/x.png: can't be written"),
        ([], "required: RUN"),
    ],
)
def test_what_cant_be_drawn_is_said_in_one_line(capsys, arguments, says):
    make_run("run")
    make_run("young", last=0)
    Path("empty").mkdir()
    Path("file").write_text("")
    assert code(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deeprl: ")
    assert says in line


def test_what_the_picture_does_not_show_is_told(capsys):
    make_run("runs/1")
    (Path("runs/1/seed_1/metrics.csv")).unlink()
    make_run("runs/2", last=2000)
    assert code("runs") == 0
    told = capsys.readouterr().err
    assert "ppo on CartPole-v1: 1 of 4 seeds have no points of eval/return_mean, and are left out" in told
    assert "ppo on CartPole-v1: drawn up to step 2000, where its shortest seed ends; the longest ends at 3000" in told


def test_without_matplotlib_it_says_what_to_install(capsys, monkeypatch):
    run = make_run("run")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name))
    assert code(run) == 2
    assert capsys.readouterr().err == "deeprl: deeprl plot needs matplotlib: pip install 'deeprl-cli[plot]'\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cant_be_written(capsys):
    run = make_run("run")
    run.chmod(0o500)
    assert code(run) == 2
    assert "give another --out" in capsys.readouterr().err
