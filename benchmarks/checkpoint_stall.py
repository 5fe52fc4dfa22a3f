"""How long a checkpoint holds training up, with a replay memory of a million transitions of HalfCheetah's size.

    python benchmarks/checkpoint_stall.py
    python benchmarks/checkpoint_stall.py --rows 100000 --folder /mnt/disk --json

The memory is filled with random numbers, and a checkpoint of it written: the first as a resumed or very long run would,
everything at once; the others after so many new transitions each. Training waits for each of them. Prints milliseconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box

from deeprl_cli.data.replay import Replay
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.runs.checkpoint import save_checkpoint

SPEC = EnvSpec("HalfCheetah-v5", Box(-np.inf, np.inf, (17,), np.float32), Box(-1, 1, (6,), np.float32))
NEW_SHARES = (0.0, 0.01, 0.05, 0.05, 0.05, 0.25)  # of the memory's rows, written since the checkpoint before


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions in memory (1,000,000)")
    parser.add_argument("--folder", help="on the disk to be measured (the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        found = stalls(flags.rows, Path(folder))
    if flags.json:
        print(json.dumps(found, indent=2))
    else:
        for row in found:
            what = f"{row['new_rows']:,} new transitions" if row["new_rows"] < flags.rows else "the whole memory"
            print(f"{what:>26}: {row['milliseconds']:6.0f} ms, {row['mib']:.0f} MiB written")
    return 0


def stalls(rows: int, folder: Path) -> list[dict[str, float]]:
    """A full memory's checkpoints, one after the other: new transitions, milliseconds, and MiB of new files."""
    memory = Replay(SPEC, 1, rows)
    memory.rows.normal_()
    found = []
    for share in NEW_SHARES:
        new = round(rows * share) or rows
        memory.written += new
        memory._update_sizes()
        before = sizes(folder)
        began = time.perf_counter()
        save_checkpoint(folder / "last", {"memory": memory.state_dict()}, memory.segments(), keep=2)
        milliseconds = (time.perf_counter() - began) * 1e3
        written = sum(size for name, size in sizes(folder).items() if name not in before)
        found.append({"new_rows": new, "milliseconds": round(milliseconds, 1), "mib": round(written / 2**20, 1)})
    return found


def sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    raise SystemExit(main())
