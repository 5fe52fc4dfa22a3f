"""What TensorBoard's HPARAMS tab shows of a run: what it chose, and how it ended, as values for its own event files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain

BEST = "eval/best_return_mean"  # the best policy's return on the episodes of the final evaluation
# as in tensorboard.plugins.hparams.metadata, which would bring numpy along
START, END = "_hparams_/session_start_info", "_hparams_/session_end_info"
_ENDS = {"finished": "STATUS_SUCCESS", "failed": "STATUS_FAILURE"}


def choices(cfg: RunConfig) -> dict[str, bool | float | str]:
    """The values that say what a run is: the algorithm's own under their short names, the environment, the network and
    the steps; lists and mappings as text. Seeds aren't among them: they are the trials of one choice."""
    plain = to_plain(cfg)
    algo = plain["algo"]
    found = {"algo": algo.pop("name"), "env": cfg.env.id, "network": cfg.network.name, "total_steps": cfg.total_steps}
    found |= _flat(algo, "")
    if cfg.env.kwargs:
        found["env.kwargs"] = json.dumps(cfg.env.kwargs, default=str)
    return found


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, bool | float | str]:
    found: dict[str, bool | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[prefix + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


def started(cfg: RunConfig, run: str) -> Any:
    """A value that puts the seeds of one choice into one row, averaged: those of a run, and in a sweep those of all
    runs that differ in their seed alone. The row is called as what varies, or as the run's folder."""
    name = re.sub(r"(^| )seed=\d+", "", cfg.name or "").strip()
    row = f"{name} ({cfg.algo.called}, {cfg.env.id})" if name else run
    told = plugin_data_pb2.SessionStartInfo(group_name=row, start_time_secs=time.time())
    for key, value in choices(cfg).items():
        if isinstance(value, bool):
            told.hparams[key].bool_value = value
        elif isinstance(value, str):
            told.hparams[key].string_value = value
        else:
            told.hparams[key].number_value = value
    return _value(START, plugin_data_pb2.HParamsPluginData(session_start_info=told))


def ended(status: str) -> Any:
    """A value that says how the run ended."""
    told = plugin_data_pb2.SessionEndInfo(
        status=getattr(api_pb2, _ENDS.get(status, "STATUS_UNKNOWN")), end_time_secs=time.time()
    )
    return _value(END, plugin_data_pb2.HParamsPluginData(session_end_info=told))


def _value(tag: str, data: Any) -> Any:
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    nothing = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=0)])
    return summary_pb2.Summary.Value(
        tag=tag,
        metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
        tensor=tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=nothing),
    )
