"""What an installed package adds to deeprl: an object of this class, named by an entry point.

    [project.entry-points."deeprl.plugins"]
    my_package = "my_package.plugin:plugin"

docs/extending.md has an example of each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Names, and where what they name is: `module:Class`, imported when it is used and not before.

    `algorithms`: subclasses of `Algorithm`. `networks`: encoders, `nn.Module`s. `explorations`: noise on actions,
    `nn.Module`s, by the kind that `algo.exploration.kind` chooses. `callbacks`: named without their module then.
    `trackers`: loggers that `log.to` names, as `deeprl_cli.runs.trackers.Tracker` says. `environments`: modules that
    register ids with gymnasium when they are imported. `configs`: a folder of YAML files, laid out as deeprl's own:
    `algo/<name>.yaml`, `network/`, `env/`, `tuned/`, `experiment/` and, for the suites of `deeprl bench`, `bench/`.
    """

    algorithms: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    explorations: Mapping[str, str] = field(default_factory=dict)
    callbacks: Mapping[str, str] = field(default_factory=dict)
    trackers: Mapping[str, str] = field(default_factory=dict)
    environments: Sequence[str] = ()
    configs: Path | None = None
