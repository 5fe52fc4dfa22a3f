"""The mean over a run's seeds and its 95% interval, as TensorBoard shows them: a line of its own beside those of the
seeds, and in the tab CUSTOM SCALARS a band.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2

FOLDER = "all_seeds"  # beside the seeds' own
SHOWN = ("eval/return_mean", "rollout/return_mean")
_CONFIG = "custom_scalars__config__"
_BAND = "z_band"  # TensorBoard sorts tags: the ends of bands come after all that people look for


def values(metrics: Mapping[str, Sequence[float]]) -> list[Any]:
    """Of each metric in SHOWN, the mean of the seeds that have it, under its own name, and both ends of Student's
    interval of that mean."""
    found = []
    for name in SHOWN:
        numbers = [number for number in metrics.get(name, ()) if math.isfinite(number)]
        if not numbers:
            continue
        mean, half = sum(numbers) / len(numbers), _half(numbers)
        ends = {name: mean, f"{_BAND}/{name}/low": mean - half, f"{_BAND}/{name}/high": mean + half}
        found += [summary_pb2.Summary.Value(tag=tag, simple_value=number) for tag, number in ends.items()]
    return found


def _half(numbers: Sequence[float]) -> float:
    """Half the width of the 95% interval of the mean; none of one number."""
    from scipy.special import stdtrit

    n, mean = len(numbers), sum(numbers) / len(numbers)
    if n < 2:
        return 0.0
    variance = sum((number - mean) ** 2 for number in numbers) / (n - 1)
    return float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def layout() -> Any:
    """The charts of the tab CUSTOM SCALARS, evaluation first."""
    charts = []
    for name in SHOWN:
        series = layout_pb2.MarginChartContent.Series(
            value=name, lower=f"{_BAND}/{name}/low", upper=f"{_BAND}/{name}/high"
        )
        charts.append(layout_pb2.Chart(title=name, margin=layout_pb2.MarginChartContent(series=[series])))
    category = layout_pb2.Category(title="mean over seeds, 95% interval", chart=charts)
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="custom_scalars")
    return summary_pb2.Summary.Value(
        tag=_CONFIG,
        metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
        tensor=tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING,
            tensor_shape=tensor_shape_pb2.TensorShapeProto(),
            string_val=[layout_pb2.Layout(category=[category]).SerializeToString()],
        ),
    )
