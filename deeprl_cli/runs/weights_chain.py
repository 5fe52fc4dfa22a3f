"""A chain of hashes over the weights as they train: `weights.sha256`, one line `<step> <hash>` each time a run logs.

Each hash takes in the one before, so two runs that agree in one line have agreed all the way. `deeprl verify` compares.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeprl_cli.errors import UserError

CHAIN_NAME = "weights.sha256"
_LINE = re.compile(r"(\d{1,18}) ([0-9a-f]{64})")


class WeightsChain:
    """Appends to the chain of a run; `resume_from` is `state_dict()` of the checkpoint it goes on from.

    Raises ValueError where that isn't one; errors of the disk come through as OSError.
    """

    def __init__(self, run_dir: Path, resume_from: Mapping[str, Any] | None = None) -> None:
        self._path = run_dir / CHAIN_NAME
        self.head, size = "", 0  # the latest hash, and how much of the file to keep
        if resume_from is not None:
            self.head, size = resume_from["head"], resume_from["bytes"]
            if not isinstance(self.head, str) or type(size) is not int or size < 0:
                raise ValueError("the chain of weights has no hash or size")
        with open(self._path, "ab") as file:
            file.truncate(size)

    def extend(self, step: int, tensors: Iterable[Tensor]) -> None:
        """The next line: these tensors at `step`."""
        self.head = link(self.head, step, tensors)
        with open(self._path, "ab") as file:
            file.write(f"{step} {self.head}\n".encode())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; what it counts is on the disk when this returns."""
        with open(self._path, "ab") as file:
            os.fsync(file.fileno())
            return {"head": self.head, "bytes": file.tell()}


class Comparison(WeightsChain):
    """A chain that compares itself with another, line by line, and remembers where they part."""

    def __init__(self, folder: Path, expected: list[tuple[int, str]]) -> None:
        super().__init__(folder)
        self.expected, self.agreed = expected, 0
        self.differs: tuple[int, str] | None = None  # the first step that doesn't agree, and in which way

    @property
    def decided(self) -> bool:
        return self.differs is not None or self.agreed == len(self.expected)

    def extend(self, step: int, tensors: Iterable[Tensor]) -> None:
        if self.decided:
            return
        super().extend(step, tensors)
        self.compare(step, self.head)

    def compare(self, step: int, head: str) -> None:
        """The next line: the hash `head` at `step`."""
        if self.decided:
            return
        expected_step, expected_hash = self.expected[self.agreed]
        if step != expected_step:
            self.differs = (min(step, expected_step), "one logged there, the other didn't")
        elif head != expected_hash:
            self.differs = (step, "other weights")
        else:
            self.agreed += 1


def read_chain(run: Path) -> list[tuple[int, str]]:
    """(step, hash) of each line of a run's chain. Raises UserError where it is missing or isn't one."""
    path = run / CHAIN_NAME
    try:
        if not path.is_file():
            raise UserError(f"{run}: has no {CHAIN_NAME}: it didn't log anything yet, or is of an older deeprl")
        lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]  # a killed process leaves half a line
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    matches = [_LINE.fullmatch(line) for line in lines]
    if None in matches:
        raise UserError(f"{path}: damaged: line {matches.index(None) + 1} is not a step and a hash")
    return [(int(match[1]), match[2]) for match in matches if match]


def link(head: str, step: int, tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the hash before, the step and the tensors' bytes."""
    digest = hashlib.sha256(f"{head} {step}".encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
