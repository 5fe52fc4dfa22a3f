"""Metrics on the disk: for each seed a folder `seed_<k>` with TensorBoard events and `metrics.csv`.

It, dashboard.py and band.py alone know TensorBoard, of which they use the messages alone: its writer takes four times
as long to import, and can't append to a file. What a checkpoint remembers of the files lets a resumed run cut off what
was logged after it and go on in the same files, so nothing is there twice.
"""

from __future__ import annotations

import math
import os
import re
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto import (
    event_pb2,
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)

from deeprl_cli.errors import UserError
from deeprl_cli.runs import band, dashboard
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.runs.tracking import Tracking
from deeprl_cli.schema.run import RunConfig

CSV_NAME = "metrics.csv"
_EVENTS_NAME = re.compile(r"events\.out\.tfevents\.[A-Za-z0-9._-]+")
_FLUSH_INTERVAL = 5.0  # seconds until a reader sees what was logged


class RunLogger:
    """Writes the metrics of every seed of a run. Errors of the disk come through as OSError.

    `resume_from` is what `flush` returned when the checkpoint was taken: the files go on from there. None starts
    afresh, removing what an attempt without a checkpoint left in the seed folders. `tracking`, which is closed with
    this, gets all of it, too.
    """

    def __init__(
        self,
        run_dir: Path,
        seeds: Sequence[int],
        tensorboard: bool,
        resume_from: Mapping[str, Any] | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self._seeds, self._tracking = list(seeds), tracking
        self._tables: list[_Table] = []
        self._events: list[_EventFile] = []
        self._last_flush = time.monotonic()
        self._band: _EventFile | None = None  # of several seeds together
        self._closing = ExitStack()
        if tracking is not None:
            self._closing.callback(tracking.close)
        for seed in self._seeds:
            folder = run_dir / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            rows, columns, events, size = _positions(resume_from, seed, run_dir)
            self._tables.append(_Table(folder / CSV_NAME, rows, columns))
            self._closing.callback(self._tables[-1].close)
            if resume_from is None:
                for leftover in folder.glob("events.out.tfevents.*"):
                    leftover.unlink()
            if tensorboard:
                self._events.append(_EventFile(folder, events, size))
                self._closing.callback(self._events[-1].close)

        if tensorboard and len(self._seeds) > 1:
            self._band = self._together(run_dir / band.FOLDER, resume_from, run_dir)
            self._closing.callback(self._band.close)

    def _together(self, folder: Path, resume_from: Mapping[str, Any] | None, run_dir: Path) -> _EventFile:
        folder.mkdir(exist_ok=True)
        known = resume_from is not None and band.FOLDER in resume_from  # runs of before have none
        if not known:
            for leftover in folder.glob("events.out.tfevents.*"):
                leftover.unlink()
        _, _, name, size = _positions(resume_from if known else None, band.FOLDER, run_dir)
        file = _EventFile(folder, name, size)
        if not known:
            file.add(0, [band.layout()])
        return file

    def log(self, steps: int | Sequence[int], metrics: Mapping[str, Sequence[float]]) -> None:
        """One row for each seed at its step (environment steps of that seed; one number where all have done the
        same): for each metric one number per seed, in the order of `seeds`. NaN means no value; a seed without any
        value gets no row."""
        steps = [steps] * len(self._seeds) if isinstance(steps, int) else steps
        for name, numbers in metrics.items():
            if len(numbers) != len(self._seeds):
                raise ValueError(f"{name}: {len(numbers)} values for {len(self._seeds)} seeds")
        for index, table in enumerate(self._tables):
            row = {name: float(numbers[index]) for name, numbers in metrics.items()}
            row = {name: number for name, number in row.items() if not math.isnan(number)}
            if not row:
                continue
            table.append(steps[index], row)
            if self._events:
                values = [summary_pb2.Summary.Value(tag=name, simple_value=number) for name, number in row.items()]
                self._events[index].add(steps[index], values)
            if self._tracking is not None:
                self._tracking.log(index, steps[index], row)
        if self._band is not None and (values := band.values(metrics)):
            self._band.add(min(steps), values)
        if time.monotonic() - self._last_flush > _FLUSH_INTERVAL:
            self._flush(sync=False)

    def text(self, tag: str, text: str) -> None:
        """Markdown for TensorBoard's Text tab, in every seed's events; nothing without TensorBoard."""
        value = summary_pb2.Summary.Value(
            tag=tag,
            metadata=summary_pb2.SummaryMetadata(
                plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
            ),
            tensor=tensor_pb2.TensorProto(
                dtype=types_pb2.DT_STRING,
                tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
                string_val=[text.encode()],
            ),
        )
        for events in self._events:
            events.add(0, [value])

    def film(self, seed: int, step: int, file: Path, gif: bytes, height: int, width: int) -> None:
        """A video of that seed: for TensorBoard's Images tab, which shows no films, as a GIF; trackers get the file."""
        image = summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        index = self._seeds.index(seed)
        if self._events:
            self._events[index].add(step, [summary_pb2.Summary.Value(tag="video", image=image)])
        if self._tracking is not None:
            self._tracking.video(index, step, file)

    def begins(self, cfg: RunConfig, run: str) -> None:
        """What the run chose, for TensorBoard's HPARAMS tab; nothing without TensorBoard."""
        for events in self._events:
            events.add(0, [dashboard.started(cfg, run)])

    def ends(self, step: int, status: str, best: Sequence[float], summary: Mapping[str, Any] | None = None) -> None:
        """How the run ended, and the return of each seed's best policy, for that tab; trackers get the `summary`."""
        if self._tracking is not None:
            self._tracking.end(status, step, summary or {})
        for index, events in enumerate(self._events):
            values = [dashboard.ended(status)]
            if index < len(best) and math.isfinite(best[index]):
                values.append(summary_pb2.Summary.Value(tag=dashboard.BEST, simple_value=best[index]))
            events.add(step, values)

    def flush(self) -> dict[str, Any]:
        """Put everything logged on the disk. Returns the files' positions, to keep in a checkpoint:
        `{"<seed>": {"rows": …, "columns": …, "events": file name or "", "bytes": …}}`."""
        self._flush(sync=True)
        positions: dict[str, Any] = {}
        for index, (seed, table) in enumerate(zip(self._seeds, self._tables, strict=True)):
            name, size = self._events[index].position() if self._events else ("", 0)
            positions[str(seed)] = {"rows": table.rows, "columns": len(table.columns), "events": name, "bytes": size}
        if self._band is not None:
            name, size = self._band.position()
            positions[band.FOLDER] = {"rows": 0, "columns": 0, "events": name, "bytes": size}
        return positions

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        # while another error is on its way, a disk that is still full has nothing to add
        with suppress(*([OSError] if error is not None else [])):
            self.close()

    def close(self) -> None:
        """Write out what is left and close every file; may be called twice."""
        self._closing.close()

    def _flush(self, sync: bool) -> None:
        writers: list[_Table | _EventFile] = [*self._tables, *self._events, *filter(None, [self._band])]
        for writer in writers:
            writer.file.flush()
            if sync:  # a checkpoint must not remember more than the disk holds
                os.fsync(writer.file.fileno())
        self._last_flush = time.monotonic()


def write_band(folder: Path, points: Mapping[int, Mapping[str, Sequence[float]]], layout: bool) -> None:
    """The band (`band.py`) of seeds that trained as runs of their own, in place of what `folder` holds: for each step
    of each metric its values, one a seed. `layout`: with that of the tab, which one of several bands has. Errors of the
    disk come through as OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("events.out.tfevents.*"):
        leftover.unlink()
    file = _EventFile(folder, "", 0)
    with closing(file):
        if layout:
            file.add(0, [band.layout()])
        for step, metrics in sorted(points.items()):
            if values := band.values(metrics):
                file.add(step, values)


def _positions(resume_from: Mapping[str, Any] | None, seed: int | str, run_dir: Path) -> tuple[int, int, str, int]:
    """Rows, columns, event file and its bytes to keep for `seed`. They come from a file, so they are checked."""
    if resume_from is None:
        return 0, 0, "", 0
    position = resume_from.get(str(seed))
    if not isinstance(position, Mapping):
        raise UserError(f"{run_dir}: its checkpoint doesn't know the logs of seed {seed}")
    rows, columns, events, size = (position.get(key) for key in ("rows", "columns", "events", "bytes"))
    counts = (rows, columns, size)
    if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(events, str):
        raise UserError(f"{run_dir}: its checkpoint holds damaged log positions of seed {seed}")
    if events and not _EVENTS_NAME.fullmatch(events):
        raise UserError(f"{run_dir}: its checkpoint names {events[:60]!r} as an event file of seed {seed}")
    return position["rows"], position["columns"], events, position["bytes"]


class _Table:
    """`metrics.csv`: a column `step` and one per metric, in the order of appearance; an empty cell is no value."""

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        """Keep the first `rows` rows and `columns` metrics of what is there."""
        self.path = path
        kept = self._read()[: rows + 1] if rows and path.exists() else []
        header = kept[0] if kept else ["step"]
        if header[0] != "step":
            raise UserError(f"{path}: not the metrics of this run: move it away, then resume")
        self.rows = max(0, len(kept) - 1)
        self.columns = header[1 : columns + 1]
        self.file = self._rewrite(self.columns, [cells[: columns + 1] for cells in kept[1:]])

    def append(self, step: int, row: Mapping[str, float]) -> None:
        new = [name for name in row if name not in self.columns]
        if new:
            self.file.flush()
            wider = self._rewrite([*self.columns, *new], self._read()[1:])
            self.file.close()
            self.file = wider
            self.columns += new
        # nine digits tell all float32 numbers apart
        cells = [f"{row[name]:.9g}" if name in row else "" for name in self.columns]
        self.file.write(",".join([str(step), *cells]).encode() + b"\n")
        self.rows += 1

    def close(self) -> None:
        self.file.close()

    def _read(self) -> list[list[str]]:
        # A killed process may leave half a line: only whole lines count.
        lines = self.path.read_bytes().decode(errors="replace").split("\n")[:-1]
        return [line.split(",") for line in lines]

    def _rewrite(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> BinaryIO:
        """Replace the file by a header and these rows, filled up to its width; returns it open for more."""
        for name in columns:
            if any(mark in name for mark in ',"\r\n'):
                raise ValueError(f"{name!r} can't be a metric's name")
        lines = [["step", *columns]]
        lines += [[*cells, *[""] * (len(columns) + 1 - len(cells))] for cells in rows]
        atomic_write(self.path, "".join(",".join(line) + "\n" for line in lines).encode())
        return self.path.open("ab")


class _EventFile:
    """TensorBoard's event file: records of length, checksum of the length, message, checksum of the message."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        """Go on in file `name` behind its first `size` bytes; a new file where `name` is empty or gone."""
        if not name or not (folder / name).is_file():
            name, size = f"events.out.tfevents.{time.time():.6f}.{_host()}.{os.getpid()}", 0
        self.path = folder / name
        self.file: BinaryIO = self.path.open("ab")
        self._time = 0.0
        self.file.truncate(_whole_records(self.path, size))
        if self.file.seek(0, os.SEEK_END) == 0:
            self._write(event_pb2.Event(wall_time=self._now(), file_version="brain.Event:2"))

    def add(self, step: int, values: Sequence[Any]) -> None:
        self._write(event_pb2.Event(wall_time=self._now(), step=step, summary=summary_pb2.Summary(value=values)))

    def _now(self) -> float:
        """By the wall clock, but never before the event before: it may be set back while a run goes on."""
        self._time = max(self._time, time.time())
        return self._time

    def position(self) -> tuple[str, int]:
        """The file's name and its size in bytes, what is still buffered included."""
        return self.path.name, self.file.tell()

    def close(self) -> None:
        self.file.close()

    def _write(self, event: Any) -> None:
        message = event.SerializeToString()
        length = struct.pack("<Q", len(message))
        record = length, struct.pack("<I", _masked_crc(length)), message, struct.pack("<I", _masked_crc(message))
        self.file.write(b"".join(record))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:60]


def _whole_records(path: Path, limit: int) -> int:
    """The end of the last whole record within the first `limit` bytes: a reader stops at a broken one for good."""
    size = min(limit, path.stat().st_size)
    end = 0
    with path.open("rb") as file:
        while end + 16 <= size:
            file.seek(end)
            (length,) = struct.unpack("<Q", file.read(8))
            if end + 16 + length > size:
                break
            end += 16 + length
    return end


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated and offset as event files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
