"""The mean over seeds and its band, read back by TensorBoard's own reader."""

from __future__ import annotations

import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from deeprl_cli.runs import band
from deeprl_cli.runs.logger import RunLogger
from deeprl_cli.sweeps.bands import write_bands


def read(folder):
    found = EventAccumulator(str(folder / band.FOLDER))
    found.Reload()
    return found


def points(found, tag):
    return [(point.step, pytest.approx(point.value, rel=1e-6)) for point in found.Scalars(tag)]


def test_the_mean_and_students_interval(tmp_path):
    """Of 1, 2, 3: 2 ± 4.303 · 1/√3. A seed without a value doesn't count; of one value alone there is no width."""
    with RunLogger(tmp_path, [0, 1, 2], tensorboard=True) as logger:
        logger.log(10, {"eval/return_mean": [1.0, 2.0, 3.0], "loss/value": [1.0, 1.0, 1.0]})
        logger.log([30, 20, 25], {"eval/return_mean": [math.nan, 5.0, math.nan]})
    found = read(tmp_path)
    assert points(found, "eval/return_mean") == [(10, 2.0), (20, 5.0)]
    half = 4.302653 / math.sqrt(3)
    assert points(found, "z_band/eval/return_mean/low") == [(10, 2 - half), (20, 5.0)]
    assert points(found, "z_band/eval/return_mean/high") == [(10, 2 + half), (20, 5.0)]
    assert "loss/value" not in found.Tags()["scalars"]


def test_the_tab_shows_evaluations_first(tmp_path):
    with RunLogger(tmp_path, [0, 1], tensorboard=True) as logger:
        logger.log(10, {"eval/return_mean": [1.0, 2.0]})
    (told,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(told.tensor_proto.string_val[0])
    assert [chart.title for chart in layout.category[0].chart] == list(band.SHOWN)
    assert layout.category[0].chart[0].margin.series[0].lower == "z_band/eval/return_mean/low"


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    with RunLogger(tmp_path, [0, 1], tensorboard=True) as logger:
        logger.log(10, {"eval/return_mean": [1.0, 2.0]})
        kept = logger.flush()
        logger.log(20, {"eval/return_mean": [3.0, 4.0]})  # lost with the process
    with RunLogger(tmp_path, [0, 1], tensorboard=True, resume_from=kept) as logger:
        logger.log(20, {"eval/return_mean": [5.0, 6.0]})
    assert points(read(tmp_path), "eval/return_mean") == [(10, 1.5), (20, 5.5)]
    assert len(list((tmp_path / band.FOLDER).iterdir())) == 1


def test_one_seed_and_runs_of_before_have_none(tmp_path):
    with RunLogger(tmp_path / "one", [0], tensorboard=True):
        pass
    assert not (tmp_path / "one" / band.FOLDER).exists()
    with RunLogger(tmp_path, [0, 1], tensorboard=True) as logger:
        kept = {key: value for key, value in logger.flush().items() if key != band.FOLDER}
    with RunLogger(tmp_path, [0, 1], tensorboard=True, resume_from=kept) as logger:
        logger.log(20, {"eval/return_mean": [5.0, 6.0]})
    assert points(read(tmp_path), "eval/return_mean") == [(20, 5.5)]


def test_a_settings_seeds_that_are_runs_of_their_own(tmp_path):
    """Of each setting, where all of its seeds have a point; the second time in place of the first."""
    jobs = []
    for lr, seed, returns in (("1", 0, [1.0, 5.0]), ("1", 1, [3.0]), ("2", 0, [7.0, 8.0]), ("2", 1, [7.0, 10.0])):
        run = tmp_path / f"lr={lr}_seed={seed}"
        run.mkdir()
        with RunLogger(run, [seed], tensorboard=True) as logger:
            for step, value in enumerate(returns, 1):
                logger.log(10 * step, {"eval/return_mean": [value]})
        jobs.append({"overrides": [f"algo.lr={lr}", f"seed={seed}"], "status": "done", "run": str(run)})
    for _ in range(2):
        write_bands(tmp_path, jobs)
    found = {}
    for lr in ("1", "2"):
        folder = tmp_path / band.FOLDER / f"lr={lr}"
        assert len(list(folder.iterdir())) == 1
        found[lr] = EventAccumulator(str(folder))
        found[lr].Reload()
    assert points(found["1"], "eval/return_mean") == [(10, 2.0)]
    assert points(found["2"], "eval/return_mean") == [(10, 7.0), (20, 9.0)]
    half = 12.7062 * 2**0.5 / 2**0.5  # Student's t of one degree of freedom, standard deviation √2
    assert points(found["2"], "z_band/eval/return_mean/high")[1][1] == pytest.approx(9.0 + half, rel=1e-4)
    assert [len(found[lr].Tags()["tensors"]) for lr in ("1", "2")] == [1, 0]  # the tab has one layout
