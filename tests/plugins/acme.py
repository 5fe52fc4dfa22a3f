"""A package outside the tree: an algorithm, a network, an environment, a kind of exploration and a callback."""

from __future__ import annotations

from pathlib import Path

from deeprl_cli.commands.new import ALGORITHM, VALUES

PLUGIN = """
from pathlib import Path

from deeprl_cli import Plugin

plugin = Plugin(
    algorithms={"acme_ac": "acme.algo:AcmeAc"},
    networks={"wavy": "acme.parts:Wavy"},
    explorations={"flat": "acme.parts:Flat"},
    callbacks={"teller": "acme.parts:Teller"},
    trackers={"scribe": "acme.parts:Scribe"},
    environments=["acme.envs"],
    configs=Path(__file__).parent / "configs",
)
"""

PARTS = '''
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from deeprl_cli.schema.run import LayersConfig
from deeprl_cli.schema.typed import PositiveInt


@dataclass(kw_only=True, slots=True)
class WavyConfig(LayersConfig):
    waves: PositiveInt


class Wavy(nn.Module):
    """Sines of the observation."""

    Config = WavyConfig

    def __init__(self, space, config):
        super().__init__()
        self.mix = nn.Linear(space.shape[0], config.waves)
        self.out_features = config.waves

    def forward(self, obs):
        return torch.sin(self.mix(obs))


class Flat(nn.Module):
    """Uniform noise in [-sigma, sigma]."""

    def __init__(self, config, num_seeds, num_envs, size):
        super().__init__()
        self.sigma = config.sigma

    def forward(self, xi):
        return self.sigma * torch.erf(xi / 2**0.5)


class Scribe:
    def __init__(self, about):
        self.ids = {seed: f"page {seed}" for seed in about.seeds}
        self.file = about.folder / "scribe.txt"

    def log(self, index, step, row):
        with self.file.open("a") as file:
            file.write(f"{index} {step} {len(row)}\\n")

    def video(self, index, step, file):
        pass

    def end(self, status, step, final, table):
        with self.file.open("a") as file:
            file.write(status)


class Teller:
    def __init__(self, file):
        self.file = Path(file)

    def on_end(self, event):
        self.file.write_text(f"{event.status} at {event.step}")
'''

ENVS = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("Acme/Pole-v0", lambda **kwargs: CartPoleEnv(**kwargs), max_episode_steps=30)
"""


def write_package(folder: Path) -> Path:
    """The package and what an installer leaves of it, in `folder`; to be put on Python's path."""
    files = {
        "acme/__init__.py": "",
        "acme/plugin.py": PLUGIN,
        "acme/algo.py": ALGORITHM.format(name="acme_ac", title="AcmeAc"),
        "acme/parts.py": PARTS,
        "acme/envs.py": ENVS,
        "acme/configs/algo/acme_ac.yaml": VALUES.format(name="acme_ac", title="AcmeAc"),
        "acme/configs/network/wavy.yaml": "# sines of the observation, then layers\n"
        "name: wavy\nwaves: 6\nhidden: null\nhidden_critic: null\nactivation: null\nshare: false\n",
        "acme/configs/env/Acme/Pole-v0.yaml": "defaults: [/env@_here_, _self_]\n"
        "id: Acme/Pole-v0\nmax_episode_steps: 25\n",
        "acme/configs/bench/acme.yaml": "rows: []\n",
        "acme/configs/tune/acme_ac.yaml": "algo.lr: interval(1e-4, 1e-2)\n",
        "acme-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n",
        "acme-1.0.dist-info/entry_points.txt": "[deeprl.plugins]\nacme = acme.plugin:plugin\n",
        "broken-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n",
        "broken-1.0.dist-info/entry_points.txt": "[deeprl.plugins]\nbroken = no_such_package.plugin:plugin\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
