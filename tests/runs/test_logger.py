"""The logger: TensorBoard reads it, and a resumed run leaves the same files as one that was never stopped."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deeprl_cli.errors import UserError
from deeprl_cli.runs import logger as module
from deeprl_cli.runs.logger import RunLogger

NAN = math.nan


def table(run: Path, seed: int = 0) -> list[list[str]]:
    with (run / f"seed_{seed}" / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def events(run: Path, seed: int = 0) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / f"seed_{seed}"), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def scalars(run: Path, seed: int = 0) -> dict[str, list[tuple[int, float]]]:
    read = events(run, seed)
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def only_events(run: Path, seed: int = 0) -> Path:
    (path,) = (run / f"seed_{seed}").glob("events.out.tfevents.*")
    return path


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [3, 4], tensorboard=True)
    logger.text("config", "algo: **sac**, ünï")
    logger.log(10, {"loss/actor": [0.5, -0.25], "eval/return_mean": [NAN, 7]})
    logger.log(20, {"loss/actor": [math.inf, 2.0]})
    logger.close()
    assert scalars(tmp_path, 3) == {"loss/actor": [(10, 0.5), (20, math.inf)]}
    assert scalars(tmp_path, 4) == {"loss/actor": [(10, -0.25), (20, 2.0)], "eval/return_mean": [(10, 7.0)]}
    read = events(tmp_path, 3)
    (text,) = read.Tensors("config")
    assert text.tensor_proto.string_val == ["algo: **sac**, ünï".encode()]
    assert read.SummaryMetadata("config").plugin_data.plugin_name == "text"
    assert read.file_version == 2


def test_the_table_widens_for_a_later_metric(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [0, 1], tensorboard=False)
    logger.log(1, {"a": [1.0, 1.0]})
    logger.log(2, {"b": [2.0, NAN]})
    logger.log(3, {"a": [1 / 3, 1e-12], "b": [-0.0, 1e20], "c": [NAN, math.inf]})
    logger.log(4, {"c": [NAN, NAN]})
    logger.close()
    assert table(tmp_path, 0) == [["step", "a", "b"], ["1", "1", ""], ["2", "", "2"], ["3", "0.333333333", "-0"]]
    assert table(tmp_path, 1) == [["step", "a", "b", "c"], ["1", "1", "", ""], ["3", "1e-12", "1e+20", "inf"]]
    assert not list(tmp_path.glob("*/events*"))
    assert not list(tmp_path.glob("*/.*"))


def test_one_value_per_seed_is_held(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [0, 1], tensorboard=False)
    with pytest.raises(ValueError, match="a: 1 values for 2 seeds"):
        logger.log(1, {"a": [1.0]})
    with pytest.raises(ValueError, match="can't be a metric's name"):
        logger.log(1, {"a,b": [1.0, 2.0]})
    logger.log(1, {"a": [1.0, 2.0]})
    logger.close()
    assert table(tmp_path) == [["step", "a"], ["1", "1"]]


def play(logger: RunLogger, first: int, last: int) -> None:
    """What a run logs between two steps: a metric appears at 5, another at 8."""
    for step in range(first, last):
        logger.log(step, {"a": [step / 7, -step]})
        if step >= 5:
            logger.log(step, {"b": [step, NAN]})
        if step >= 8:
            logger.log(step, {"c": [1, 2]})


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("overrun", [0, 1, 6])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop: int, overrun: int) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    logger = RunLogger(whole, [0, 1], tensorboard=True)
    play(logger, 0, 12)
    logger.close()

    logger = RunLogger(halves, [0, 1], tensorboard=True)
    play(logger, 0, stop)
    positions = logger.flush()
    play(logger, stop, stop + overrun)  # after the checkpoint, lost when the run was killed
    logger.close()
    for seed in (0, 1):  # the kill came in the middle of a write
        for path in (halves / f"seed_{seed}").iterdir():
            path.write_bytes(path.read_bytes() + b"\x07\x01")
    logger = RunLogger(halves, [0, 1], tensorboard=True, resume_from=positions)
    play(logger, stop, 12)
    logger.close()
    for seed in (0, 1):
        assert table(halves, seed) == table(whole, seed)
        assert scalars(halves, seed) == scalars(whole, seed)
        only_events(halves, seed)


def test_nothing_logged_since_the_checkpoint_changes_nothing(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [0, 1], tensorboard=True)
    play(logger, 0, 9)
    positions = logger.flush()
    logger.close()
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    logger = RunLogger(tmp_path, [0, 1], tensorboard=True, resume_from=positions)
    assert logger.flush() == positions
    logger.close()
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before


def test_files_shorter_than_the_checkpoint_says(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [0], tensorboard=True)
    for step in range(4):
        logger.log(step, {"a": [step]})
    positions = logger.flush()
    logger.close()
    path = only_events(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    csv_path = tmp_path / "seed_0" / "metrics.csv"
    csv_path.write_bytes(csv_path.read_bytes()[:-1])
    logger = RunLogger(tmp_path, [0], tensorboard=True, resume_from=positions)
    logger.log(4, {"a": [4]})
    logger.close()
    assert scalars(tmp_path) == {"a": [(0, 0), (1, 1), (2, 2), (4, 4)]}
    assert [row[0] for row in table(tmp_path)] == ["step", "0", "1", "2", "4"]


def test_files_that_are_gone_begin_anew(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [0], tensorboard=True)
    logger.log(1, {"a": [1]})
    positions = logger.flush()
    logger.close()
    for path in (tmp_path / "seed_0").iterdir():
        path.unlink()
    logger = RunLogger(tmp_path, [0], tensorboard=True, resume_from=positions)
    logger.log(2, {"a": [2]})
    logger.close()
    assert scalars(tmp_path) == {"a": [(2, 2)]}
    assert table(tmp_path) == [["step", "a"], ["2", "2"]]


def test_tensorboard_turned_on_at_a_resume(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, [0], tensorboard=False)
    logger.log(1, {"a": [1]})
    positions = logger.flush()
    logger.close()
    logger = RunLogger(tmp_path, [0], tensorboard=True, resume_from=positions)
    logger.log(2, {"a": [2]})
    logger.close()
    assert scalars(tmp_path) == {"a": [(2, 2)]}
    assert len(table(tmp_path)) == 3


def test_a_fresh_start_removes_an_attempt_without_checkpoint(tmp_path: Path) -> None:
    for value in (1, 2):
        logger = RunLogger(tmp_path, [0], tensorboard=True)
        logger.log(1, {"a": [value]})
        logger.close()
    assert scalars(tmp_path) == {"a": [(1, 2)]}
    assert table(tmp_path) == [["step", "a"], ["1", "2"]]


GOOD: dict[str, Any] = {"rows": 1, "columns": 1, "events": "", "bytes": 0}


@pytest.mark.parametrize(
    ("position", "words"),
    [
        (None, "doesn't know"),
        ({**GOOD, "rows": -1}, "damaged"),
        ({**GOOD, "rows": True}, "damaged"),
        ({**GOOD, "bytes": "9"}, "damaged"),
        ({**GOOD, "columns": None}, "damaged"),
        ({**GOOD, "events": 3}, "damaged"),
        ({**GOOD, "events": "../../victim"}, "names"),
        ({**GOOD, "events": "metrics.csv"}, "names"),
        ({**GOOD, "events": "events.out.tfevents./../../x"}, "names"),
    ],
)
def test_hostile_positions_are_refused(tmp_path: Path, position: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        RunLogger(tmp_path, [0], tensorboard=True, resume_from={"0": position})


def test_a_foreign_table_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0" / "metrics.csv").write_text("mine\n1\n")
    with pytest.raises(UserError, match="move it away"):
        RunLogger(tmp_path, [0], tensorboard=False, resume_from={"0": GOOD})
    assert (tmp_path / "seed_0" / "metrics.csv").read_text() == "mine\n1\n"


def test_readers_see_it_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_INTERVAL", 0.0)
    logger = RunLogger(tmp_path, [0], tensorboard=True)
    logger.log(1, {"a": [1]})
    assert len(table(tmp_path)) == 2
    assert scalars(tmp_path) == {"a": [(1, 1)]}
    logger.close()
    logger.close()


def test_a_full_disk_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = RunLogger(tmp_path, [0], tensorboard=False)
    logger.log(1, {"a": [1]})

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", full)
        with pytest.raises(OSError, match="No space"):
            logger.log(2, {"b": [2]})
    logger.log(3, {"b": [3]})  # space again: nothing is torn
    logger.close()
    assert table(tmp_path) == [["step", "a", "b"], ["1", "1", ""], ["3", "", "3"]]


def test_the_checksum_is_crc32c() -> None:
    # the check value of CRC-32C, 0xE3069283, rotated right by 15 and offset
    crc = 0xE3069283
    assert module._masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_importing_it_brings_neither_torch_nor_tensorflow() -> None:
    heavy = ("torch", "tensorflow", "numpy")
    code = f"import sys, deeprl_cli.runs.logger; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
