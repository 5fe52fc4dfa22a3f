"""Configurations that earlier versions wrote: read as they were meant; later ones are refused in one line.

`old_configs` holds what runs of the first version (`first-…`) and of a later one (`second-…`) left, every algorithm
there was. A key added to one of these since, without its row in config_format.ADDED, fails here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deeprl_cli.cli import main
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.runs.folder import read_config, read_summary
from deeprl_cli.runs.reading import read_run
from deeprl_cli.schema.format import ADDED, FORMAT, KEY, up_to_date
from deeprl_cli.schema.typed import to_plain
from deeprl_cli.training.run import train
from tests.contract.harness import short_run

OLD = sorted((Path(__file__).parents[1] / "old_configs").glob("*.yaml"))


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}": value}
    return found


def run_of(tmp_path: Path, config: Path) -> Path:
    (tmp_path / "run").mkdir()
    shutil.copy(config, tmp_path / "run" / "config.yaml")
    return tmp_path / "run"


@pytest.mark.parametrize("config", OLD, ids=lambda path: path.stem)
def test_old_configs_are_read_as_they_were(config, tmp_path):
    """All that they say still holds, in the typed configuration; nothing is asked for."""
    _, cfg = read_run(run_of(tmp_path, config))
    before, now = flat(yaml.safe_load(config.read_text())), flat(to_plain(cfg))
    before = {key: value for key, value in before.items() if not key.startswith("resolved.")}
    moved = {"first-ppo": 1, "first-ppo-linear": 4, "second-trpo": 1}.get(config.stem, 0)
    assert len(before.keys() - now.keys()) == moved
    assert now.pop("log.to") == ["tensorboard"] * before.pop("log.tensorboard") + before.pop("log.to", [])
    assert {key: now[key] for key in before if key in now} == {key: before[key] for key in before if key in now}


def test_what_is_added_means_as_before(tmp_path):
    _, cfg = read_run(run_of(tmp_path, next(path for path in OLD if path.stem == "first-ppo")))
    assert (cfg.horizon, cfg.init_from, cfg.checkpoint.keep) == (None, None, 1)
    assert (cfg.algo.accumulate_steps, cfg.algo.clip_value, cfg.algo.subepisodes_per_update) == (1, None, 1)
    assert cfg.algo.kl["mode"] == "none" if isinstance(cfg.algo.kl, dict) else cfg.algo.kl.mode == "none"


def test_keys_that_moved():
    """PPO's target_kl stopped a rollout's epochs; TRPO's bounded its step."""
    resolved: dict[str, Any] = {}
    ppo = up_to_date({"algo": {"name": "ppo", "target_kl": 0.02}, "resolved": resolved}, Path("config.yaml"))
    assert (ppo["algo"]["kl"]["mode"], ppo["algo"]["kl"]["target"]) == ("stop", 0.02)
    trpo = up_to_date({"algo": {"name": "trpo", "target_kl": 0.02}, "resolved": resolved}, Path("config.yaml"))
    assert trpo["algo"]["max_kl"] == 0.02
    assert "target_kl" not in ppo["algo"] | trpo["algo"]


def test_todays_files_are_left_alone():
    values = {"algo": {"name": "ppo"}, "resolved": {}, "seed": 1}
    assert up_to_date({KEY: FORMAT, **values}, Path("config.yaml")) == values


@pytest.fixture
def old_run(tmp_path) -> Path:
    """A run of today with the config.yaml that the first version would have left."""
    run = train(short_run("ppo", tmp_path / "run"))
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    assert values.pop(KEY) == FORMAT
    for places in ADDED.values():
        for place, keys in places.items():
            group, _, option = place.partition("=")
            target = values[group] if group else values
            if not option or target["name"] == option:
                for key in keys:
                    target.pop(key, None)
    path.write_text(yaml.safe_dump(values))
    assert "keep" not in values["checkpoint"]
    return run


def test_an_old_run_is_evaluated_resumed_and_plotted(old_run, tmp_path, capsys):
    main(["eval", str(old_run), "--episodes", "2"])
    assert "return" in capsys.readouterr().out
    main(["plot", str(old_run), "--out", str(tmp_path / "curve.svg")])
    assert (tmp_path / "curve.svg").exists()
    main(["resume", str(old_run), "total_steps=300"])
    assert read_summary(old_run)["total_steps"] >= 300
    written = yaml.safe_load((old_run / "config.yaml").read_text())
    assert (written[KEY], written["horizon"], written["checkpoint"]["keep"]) == (FORMAT, 240, 1)


@pytest.mark.parametrize("verb", ["eval", "resume", "verify"])
def test_a_later_format_is_refused_in_one_line(verb, old_run, capsys):
    values = {KEY: FORMAT + 1, **read_config(old_run), "quantum": True}
    values["resolved"]["deeprl"] = "9.0"
    (old_run / "config.yaml").write_text(yaml.safe_dump(values))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([verb, str(old_run)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"config.yaml: written in format {FORMAT + 1} by deeprl 9.0" in line
    assert line.endswith("upgrade deeprl-cli")


def test_an_unknown_key_names_the_file(old_run):
    values = {KEY: FORMAT, **read_config(old_run)}
    values["algo"]["gama"] = 0.9
    (old_run / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"config.yaml: unknown key 'algo.gama'; did you mean 'gamma'"):
        read_run(old_run)


@pytest.mark.parametrize("number", [0, -1, True, "2", 2.0, None, [2]])
def test_a_format_that_is_no_number(number):
    with pytest.raises(UserError, match="its format is no number"):
        up_to_date({KEY: number, "algo": {}, "resolved": {}}, Path("config.yaml"))


@pytest.mark.parametrize("values", [{"algo": 3, "network": [1]}, {"algo": {"name": []}, "checkpoint": None}])
def test_what_is_no_group_is_passed_on(values):
    """The checks of values come after."""
    assert up_to_date(values, Path("config.yaml"))["algo"] is not None
