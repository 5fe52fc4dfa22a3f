"""What TensorBoard's HPARAMS tab is told of a run, read back by TensorBoard's own reader."""

from __future__ import annotations

import dataclasses
import math

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from deeprl_cli.config.compose import load_config
from deeprl_cli.runs.dashboard import BEST, choices
from deeprl_cli.runs.logger import RunLogger

CFG = load_config(["algo=ppo", "env=FrozenLake-v1", "env.kwargs.map_name=8x8", "algo.lr=0.01", "seeds=2"])


def told(folder) -> tuple[EventAccumulator, plugin_data_pb2.SessionStartInfo, plugin_data_pb2.SessionEndInfo]:
    read = EventAccumulator(str(folder))
    read.Reload()
    content = read.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    return read, start, metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])


def test_choices_are_plain_values_without_seeds():
    found = choices(CFG)
    assert (found["algo"], found["env"], found["lr"], found["hidden"]) == ("ppo", "FrozenLake-v1", 0.01, "[64, 64]")
    assert found["env.kwargs"] == '{"map_name": "8x8"}'
    assert found["kl.mode"] == "none"
    assert not {key for key in found if "seed" in key}
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_each_seeds_own_file_has_what_it_chose_and_how_it_ended(tmp_path):
    with RunLogger(tmp_path, [0, 1], tensorboard=True) as logger:
        logger.begins(CFG, "2026-01-01")
        logger.ends(500, "finished", [7.5, math.nan])
    read, start, end = told(tmp_path / "seed_0")
    assert start.group_name == "2026-01-01"  # one row for both seeds
    assert start.hparams["lr"].number_value == 0.01
    assert end.status == 1
    assert [(point.step, point.value) for point in read.Scalars(BEST)] == [(500, 7.5)]
    other, same, _ = told(tmp_path / "seed_1")
    assert same.group_name == start.group_name
    assert BEST not in other.Tags()["scalars"]


def test_runs_of_a_sweep_that_differ_in_their_seed_share_a_row(tmp_path):
    rows = []
    for name in ("lr=0.01 seed=0", "lr=0.01 seed=11", "lr=0.02 seed=0", "seed=3"):
        with RunLogger(tmp_path / name, [0], tensorboard=True) as logger:
            logger.begins(dataclasses.replace(CFG, name=name), "folder")
            logger.ends(1, "failed", [])
        _, start, end = told(tmp_path / name / "seed_0")
        assert end.status == 2
        rows.append(start.group_name)
    assert rows == ["lr=0.01 (ppo, FrozenLake-v1)"] * 2 + ["lr=0.02 (ppo, FrozenLake-v1)", "folder"]
