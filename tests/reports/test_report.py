"""`deeprl report`: one file that shows a run, a sweep or a suite, whatever their state, and runs nothing of theirs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.config.explain import explain
from deeprl_cli.config.recorded import GIVEN, SETTLED, is_own, recorded
from deeprl_cli.reports.chart import Interval, Line, curves, intervals
from deeprl_cli.runs.folder import create_run_folder, read_config, write_summary
from deeprl_cli.schema.typed import to_plain

EVIL = "<script>alert('x')</script> & \"co\""
SHORT = ["algo=ppo", "env=CartPole-v1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(folder: str, *overrides: str, seeds: int = 1, status: str | None = "finished", rows: int = 5) -> Path:
    """A run as training leaves it, without its weights: seed k earns 10·row + k; `rows=0`: nothing was logged."""
    cfg = load_config([*(overrides or SHORT), f"seeds={seeds}", f"run_dir={folder}"])
    run = create_run_folder(cfg, {"device": "cpu", "threads": 1, "compile": False, "matmul_precision": "highest"})
    for seed in range(seeds):
        (run / f"seed_{seed}").mkdir()
        table = ["step,loss/policy,eval/return_mean", *(f"{1000 * row},nan,{10 * row + seed}" for row in range(rows))]
        (run / f"seed_{seed}" / "metrics.csv").write_text("\n".join([*table, ""]) if rows else "")
    if status is not None:
        told = {"episodes": 7, "return_mean": [40.0 + k for k in range(seeds)], "return_std": [2.0] * seeds}
        told["best_return_mean"] = [50.0] * seeds
        summary = {"status": status, "seeds": list(range(seeds)), "total_steps": 4000, "wall_seconds": 75.0}
        summary |= {"steps_per_second": 1234.0, "skipped_updates": [0] * seeds}
        write_summary(run, summary | {"eval": told if status == "finished" else None})
    return run


def code(*arguments: object) -> int:
    try:
        main(["report", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code
    return 0


class Seen(HTMLParser):
    """The tags of a page, what they load, and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "poster", "xlink:href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def page_of(*arguments: object) -> Seen:
    assert code(*arguments) == 0
    seen = Seen(Path(str(arguments[0]), "report.html"))
    assert not {"script", "iframe", "object", "embed", "link", "form"} & set(seen.tags)
    assert all(source.startswith("data:video/mp4;base64,") for source in seen.loaded)
    return seen


# ---- a run


def test_a_trained_run(whole_run, capsys):
    """Every value with its source, each seed's return, every metric as a curve, the machine, and commands."""
    run = whole_run("sac")[0]
    out = Path("sac.html")
    assert code(run, "--out", out) == 0
    assert capsys.readouterr().out == "sac.html\n"
    seen, config = Seen(out), read_config(run)
    assert "sac on " in seen.text
    assert "finished" in seen.text
    columns = (run / "seed_0" / "metrics.csv").read_text().partition("\n")[0].split(",")[1:]
    assert seen.tags.count("svg") >= len(columns) - 2  # those that hold numbers
    assert "algo/sac" in seen.text
    assert config["resolved"]["machine"]["torch"] in seen.text
    assert f"deeprl verify {run}" in seen.text
    summary = json.loads((run / "summary.json").read_text())
    assert all(f"{value:.4g}"[:4] in seen.text for value in summary["eval"]["return_mean"])


def test_what_a_run_says_of_itself_is_text_only():
    name, tag = json.dumps(EVIL), json.dumps("</style><img src=x onerror=alert(1)>")
    run = make_run("runs/a", *SHORT, f"name={name}", f"tags=[{tag}]")
    (run / "videos").mkdir()
    (run / "videos" / "<b>seed_0.mp4").write_bytes(b"not a film")
    seen = page_of(run)
    assert EVIL in seen.text
    assert "onerror" in seen.text
    assert seen.tags.count("video") == 1
    assert "b" not in seen.tags


def test_five_seeds_have_an_interval_and_one_seed_a_word():
    many, one = page_of(make_run("runs/many", seeds=5)), page_of(make_run("runs/one"))
    assert "IQM of 5 seeds, 95% interval [40" in many.text
    assert "polygon" in many.tags
    assert "One seed says nothing about another" in one.text
    assert "polygon" not in one.tags


@pytest.mark.parametrize(("status", "rows", "said"), [
    ("failed", 3, "The run failed"),
    ("failed", 0, "Nothing was logged of seed 0"),
    ("interrupted", 3, "stopped before its end"),
    (None, 3, "has left no last words"),
])  # fmt: skip
def test_runs_that_did_not_end_well(status, rows, said):
    assert said in page_of(make_run("runs/a", status=status, rows=rows)).text


def test_a_failed_run_says_why():
    run = make_run("runs/a", status="failed")
    told = json.loads((run / "summary.json").read_text())
    write_summary(run, told | {"error": f"ValueError: {EVIL}"})
    assert f"Why: ValueError: {EVIL}" in page_of(run).text


def test_commands_ask_for_trust_where_the_run_names_code():
    run = make_run("runs/a", *SHORT)
    assert "--trust" not in page_of(run).text
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("wrappers: []", "wrappers: ['mine:Wrapper']"))
    assert f"deeprl eval {run} --trust" in page_of(run).text
    assert code(run, "--card") == 0
    assert "trust=True" in (run / "README.md").read_text()


def test_without_an_evaluation_training_returns_are_shown_as_that():
    run = make_run("runs/a", status="failed")
    table = run / "seed_0" / "metrics.csv"
    table.write_text(table.read_text().replace("eval/return_mean", "rollout/return_mean"))
    seen = page_of(run)
    assert "Nothing was evaluated" in seen.text
    assert "last training return" in seen.text


def test_a_damaged_run_is_one_line(capsys):
    run = make_run("runs/a")
    (run / "seed_0" / "metrics.csv").write_text("step,x\n1,two\n")
    assert code(run) == 2
    assert "line 2 holds something that is not a number" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_a_module_that_the_run_names_is_not_imported(tmp_path, monkeypatch):
    Path("named_by_a_run.py").write_text("raise SystemExit('imported')")
    run = make_run("runs/a", "algo=ppo", "env=named_by_a_run:Thing-v0", "tuned=none")
    assert "named_by_a_run:Thing-v0" in page_of(run).text
    assert code(run, "--card") == 0
    assert "named_by_a_run" not in sys.modules


def test_an_algorithm_that_is_not_here_is_shown_without_sources():
    run = make_run("runs/a")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: ppo", "name: somebody_elses"))
    seen = page_of(run)
    assert "Where its values come from can't be told here" in seen.text
    assert "gae_lambda" in seen.text


# ---- where values come from


@pytest.mark.parametrize("typed", [
    ["algo=ppo", "env=CartPole-v1"],
    ["algo=sac", "env=Pendulum-v1", "tuned=none", "algo.exploration.kind=ou", "total_steps=1234", "eval.every=61"],
    ["algo=dqn", "env=ALE/Pong-v5", "network.hidden=[128]", "eval.every=0"],
    ["algo=ppo", "env=FrozenLake-v1", "env.kwargs.map_name=8x8", "network=tabular", "hardware.threads=2"],
    ["experiment=deck/ppo", "env=CartPole-v1", 'name="a \\"b\\" c"', "tags=[x,'y z']", "env.generators=own"],
    ["algo=a2c", "env=CliffWalking-v1", "network=linear", "network.features=onehot"],
    ["algo=ppo", "env=mod:Some-v0", "network=mlp", "tuned=none"],
])  # fmt: skip
def test_the_command_makes_the_same_configuration(typed):
    """Composed again from what the report says, every value is equal, whatever file or experiment gave it."""
    cfg = to_plain(load_config(typed))
    del cfg["typed"]
    told = recorded({**cfg, "format": 4, "resolved": {}})
    assert not told.unknown
    again = to_plain(load_config(shlex.split(told.command)[2:]))
    del again["typed"]
    settled = {key: key.split(".") for key in SETTLED}
    for text in told.settled:
        key, inner = settled[text.partition("=")[0]]
        again[key][inner] = cfg[key][inner]
    assert again == cfg


def test_sources_are_those_that_explain_names(tmp_path):
    """Typed, of an experiment, of a file of one's own; a value that has changed since is the run's."""
    (tmp_path / "algo").mkdir()
    (tmp_path / "experiment").mkdir()
    own = tmp_path / "algo" / "mine.yaml"
    own.write_text("defaults: [/algo/ppo@_here_, _self_]\nname: ppo\ngae_lambda: 0.7\n")
    (tmp_path / "experiment" / "short.yaml").write_text("# @package _global_\ntotal_steps: 500\n")
    typed = [f"hydra.searchpath=[file://{tmp_path}]", "algo=mine", "experiment=short", "algo.lr=1e-3", "seed=4"]
    typed += ["eval.episodes=7"]
    values = to_plain(load_config([*typed, "env=Acrobot-v1", "tuned=none"]))
    before = {origin.key: origin for origin in explain(values["typed"])}
    found = {origin.key: origin for origin in recorded({**values, "seed": 5, "resolved": {}}).origins}
    for key in ("algo.lr", "total_steps", "algo.gae_lambda", "env.id", "log.every"):
        assert (found[key].source, found[key].comment) == (before[key].source, before[key].comment)
    sources = [found[key].source for key in ("algo.lr", "total_steps", "algo.gae_lambda", "log.every")]
    assert sources == ["command line", str(tmp_path / "experiment" / "short.yaml"), str(own), "train"]
    assert is_own(found["total_steps"])
    assert found["eval.episodes"].source == "command line", "and not what auto came to"
    assert found["seed"].source == GIVEN
    own.unlink()
    assert recorded({**values, "resolved": {}}).origins, "a file that is gone leaves what can be told"


def test_sources_of_a_run_that_doesnt_say_what_was_typed():
    told = recorded({**to_plain(load_config([*SHORT, "algo.gae_lambda=0.5"])), "typed": None, "resolved": {}})
    by_key = {origin.key: origin for origin in told.origins}
    assert by_key["algo.gae_lambda"].source == GIVEN
    assert by_key["algo.gae_lambda"].comment == "instead of 0.8 (tuned/ppo/CartPole-v1)"
    assert by_key["algo.lr"].source == "tuned/ppo/CartPole-v1"
    assert by_key["algo.activation"].source == "algo/ppo"
    assert by_key["eval.every"].comment.startswith("what auto chose")


# ---- sweeps and suites


def make_sweep() -> Path:
    folder, jobs = Path("runs/sweeps/now"), []
    for index, rate in enumerate(("0.01", "0.001", "0.0001")):
        run = make_run(str(folder / f"lr={rate}"), *SHORT, f"algo.lr={rate}", seeds=2)
        status = "failed" if index == 2 else "done"
        jobs.append({"overrides": [*SHORT, f"algo.lr={rate}"], "status": status, "run": str(run), "error": "a <b> b"})
    summary = folder / "lr=0.0001" / "summary.json"
    summary.write_text(summary.read_text().replace('"finished"', '"failed"'))
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    return folder


def test_a_sweep():
    seen = page_of(make_sweep())
    assert "Which setting is best" in seen.text
    assert "lr=0.001" in seen.text
    assert "failed: ppo" not in seen.text  # what all share is said once
    assert "a <b> b" in seen.text
    assert "deeprl train -m algo=ppo env=CartPole-v1 algo.lr=0.01,0.001,0.0001" in seen.text
    assert seen.tags.count("svg") == 2


def test_a_suite():
    folder = Path("runs/bench/mine")
    make_run(str(folder / "row" / "run"), seeds=2)
    told = {"mean": 41.0, "mean_ci95": [40, 42], "iqm": 41.0, "iqm_ci95": [40, 42], "returns": [40, 42]}
    row = {"name": "row", "status": "miss", "env": "CartPole-v1", "steps": 4000, "seeds": 2, "policy": "final"}
    row |= {"bar": 475, "final": told, "wall_seconds": 60, "source": "<i>a table</i>", "command": "deeprl train x"}
    lost = {**row, "name": "lost", "status": "crashed", "reason": "exit code 1"}
    del lost["final"]
    content = {"suite": "mine", "file": "mine.yaml", "deeprl": "0", "machine": "m", "written": "now"}
    (folder / "results.json").write_text(json.dumps({**content, "counts": {"miss": 1}, "rows": [row, lost]}))
    seen = page_of(folder)
    assert "row misses its bar" in seen.text
    assert "lost crashed: exit code 1" in seen.text
    assert "<i>a table</i>" in seen.text
    assert seen.tags.count("svg") == 1
    (folder / "results.json").write_text('{"rows": 3}')
    assert code(folder) == 2


# ---- the card


def test_the_card_is_what_hubs_read():
    run = make_run("runs/a", *SHORT, f"name={json.dumps(EVIL)}", seeds=2)
    assert code(run, "--card") == 0
    text = (run / "README.md").read_text()
    _, matter, body = text.split("---\n", 2)
    told = yaml.safe_load(matter)
    assert {"reinforcement-learning", "ppo", "CartPole-v1", "deeprl"} <= set(told["tags"])
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "mean_reward", "value": "40.50 +/- 0.50", "name": "mean_reward",
                                    "verified": False}  # fmt: skip
    outside = re.sub(r"(`{3,}).*?\n\1", "", body, flags=re.DOTALL)
    assert "<script" not in outside
    assert "| 0 | 40 | 2 | 50 |" in body
    assert f"deeprl train {shlex.join(SHORT)}" in body


def test_a_card_of_a_failed_run_says_so():
    run = make_run("runs/a", status="failed")
    assert code(run, "--card") == 0
    text = (run / "README.md").read_text()
    assert "model-index" not in text
    assert "This run is failed" in text


# ---- from the command line


def test_mistakes_are_one_line(capsys):
    run, sweep = make_run("runs/a"), make_sweep()
    for arguments, said in (
        (["nowhere"], "nowhere: no such folder"),
        ([run, "--out", "a.pdf"], "must end in .html: for example a.html"),
        ([run, "--card", "--out", "a.html"], "must end in .md"),
        ([sweep, "--card"], "is a sweep, and a model card describes one run"),
        ([Path("runs")], "not a run"),
    ):
        assert code(*arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_names_work_as_with_other_verbs():
    make_run("runs/ppo/CartPole-v1/one", *SHORT, "name=first")
    assert code("first") == code("latest") == 0
    assert Path("runs/ppo/CartPole-v1/one/report.html").is_file()
    make_sweep()
    assert code("sweeps/now") == 0


# ---- pictures


def test_charts_take_any_numbers():
    odd = np.array([np.nan, -np.inf, 1e308, 3.0, 1e-320])
    for values in (odd, odd[:1], odd[3:4], np.empty(0), np.full(1000, 7.0), np.linspace(-1e299, 1e299, 700)):
        drawn = str(curves([Line("<x>", np.arange(len(values)), values, values, values)], "<y>"))
        assert "nan" not in drawn
        assert "inf" not in drawn
        assert "<x>" not in drawn
        points = re.findall(r'points="([^"]*)" class="line', drawn)
        assert all(len(line.split()) <= 240 for line in points)
    assert "nan" not in str(intervals([Interval("a", 1.0, None, None), Interval("b", 1.0, 0.5, 2.0)], "x"))


def test_a_curve_is_where_its_numbers_are():
    """The first point at the left margin on the lowest tick, the last at the right on the highest."""
    drawn = str(curves([Line("x", np.array([0.0, 100.0]), np.array([0.0, 10.0]))], "y"))
    (points,) = re.findall(r'points="([^"]*)" class="line', drawn)
    assert points == "56.0,230.0 468.0,12.0"
