"""The keys of a study of hyper-parameters; their defaults are in `configs/tune.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.typed import PositiveFloat, PositiveInt, Range

OF_SEARCH = ("trials", "steps", "minutes", "score", "batch", "startup", "halving", "rungs")
OF_PBT = ("population", "generations", "control")
SQLITE = "sqlite:///"  # and the path of a file
BATCH = (4, 16)  # trials of a batch=auto, at least and at most


@dataclass(kw_only=True, slots=True)
class TuneConfig:
    method: Literal["search", "pbt"]
    trials: PositiveInt | None
    steps: PositiveInt | None
    minutes: PositiveFloat | None
    score: Literal["auc", "last"]
    batch: PositiveInt | Literal["auto"]
    startup: PositiveInt | Literal["auto"]
    halving: Annotated[int, Range(2)] | None
    rungs: Annotated[int, Range(2)]
    population: Annotated[int, Range(4)]
    generations: Annotated[int, Range(2)]
    control: bool
    fresh_seeds: Annotated[int, Range(2)]
    study: str | None
    storage: str | None
    out: str | None

    def __post_init__(self) -> None:
        """The database by its whole path: a study may go on from another folder. Nothing else than a file is opened:
        a URL names a driver or a plug-in of SQLAlchemy's, which is code, and a server, which is told everything.
        Raises ConfigError."""
        if self.storage is None:
            return
        kind, slashes, path = self.storage.partition(":///")
        if kind + slashes != SQLITE or not path or "?" in path or path.startswith(":"):
            raise ConfigError(  # without the rest of the URL, which may hold a password
                f"storage={kind.partition(':')[0]}:…: a study is kept in a file: storage=sqlite:///PATH, or nothing "
                "for journal.log in the study's folder"
            )
        self.storage = SQLITE + str(Path(path).expanduser().absolute())

    def ages(self, total_steps: int) -> list[int]:
        """Steps at which trials are compared, the last one those of a whole trial."""
        if self.method == "pbt":
            return [total_steps * number // self.generations for number in range(1, self.generations + 1)]
        if self.halving is None:
            return [total_steps]
        return [max(1, total_steps // self.halving**rung) for rung in reversed(range(self.rungs))]

    @property
    def trials_a_batch(self) -> int:
        if self.batch != "auto":
            return self.batch
        return BATCH[1] if self.trials is None else min(BATCH[1], max(BATCH[0], self.trials // 8))

    @property
    def trials_of_startup(self) -> int:
        return max(self.trials_a_batch, (self.trials or 0) // 4) if self.startup == "auto" else self.startup
