"""`deeprl new algorithm NAME`: files to start an algorithm of your own: code, values, and a test that passes."""

from __future__ import annotations

import keyword
import sys
from collections.abc import Sequence
from pathlib import Path

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.errors import UserError

ALGORITHM = '''"""{title}: say here what it is, and where it comes from.

It starts as advantage actor-critic: V̂ judges the actions of π. Change `step`.
Shapes: S seeds, T steps of a rollout, B environments, N = T·B samples; scalars `(S, N)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deeprl_cli.algorithm import Members, Metrics, Transition
from deeprl_cli.envs.spec import EnvSpec
from deeprl_cli.families import SubepisodeActorCritic, SubepisodeActorCriticConfig
from deeprl_cli.rl.objectives import squared_error
from deeprl_cli.rl.returns import advantage_estimator, explained_variance, normalise
from deeprl_cli.schema.run import NetworkConfig
from deeprl_cli.schema.typed import PerMember, UnitInterval


@dataclass(kw_only=True, slots=True)
class {title}Config(SubepisodeActorCriticConfig):
    """Its own options, in addition to those that it inherits. {name}.yaml gives each a value."""

    gae_lambda: PerMember[UnitInterval]
    normalize_advantage: bool


class {title}(SubepisodeActorCritic):
    """What `deeprl list algos` says of it, in a line (any actions)."""

    loop = "rollout"
    reference = "unpublished"
    Config = {title}Config
    config: {title}Config

    def __init__(self, config: {title}Config, network: NetworkConfig, spec: EnvSpec, members: Members) -> None:
        super().__init__(config, network, spec, members)
        self.advantage = advantage_estimator("gae", None)

    def step(self, rollout: Transition) -> Metrics:
        """The whole update as one graph. It must not draw random numbers or keep a tensor."""
        obs, action, weight = (x.flatten(1, 2) for x in (rollout.obs, rollout.action, rollout.weight))
        theta = self.model.views()
        pi, value = self.policy(obs, theta), self.value(obs, theta)
        with torch.no_grad():
            next_value = self.value(rollout.next_obs.flatten(1, 2))
        advantage = self.advantages(rollout, value.detach(), next_value)
        target = value.detach() + advantage
        if self.config.normalize_advantage:
            advantage = normalise(advantage, weight)

        gain = self.reduce(pi.log_prob(action) * advantage, weight)
        fit = self.reduce(squared_error(value, target), weight)
        metrics = self.learn(gain, fit, pi.entropy(), theta, weight)
        return {{**metrics, "value/explained_variance": explained_variance(value.detach(), target, weight)}}
'''

VALUES = """\
# {title}: every key of {title}Config, with the source of its value.
name: {name}
num_envs: 8                 # environments of each seed
rollout_length: 16          # T: steps of each before an update
subepisodes_per_update: 1
gamma: 0.99
normalize_obs: false
normalize_reward: false
hidden: [64, 64]
activation: tanh
# optimisation
optim: adam
optim_eps: 1.0e-5
lr: 1.0e-3
lr_schedule: constant       # constant | linear (to 0 over the run)
clip_norm: 0.5
clip_value: null            # bound on each component of the gradient
accumulate_steps: 1         # gradients averaged before the optimiser steps
reduction: mean             # mean | sum, over the samples of an update
# objective
gae_lambda: 0.95
normalize_advantage: true
vf_coef: 0.5
ent_coef: 0.0
"""

TEST = '''"""Checks that {name} does what deeprl relies on: python -m pytest {test}"""

from pathlib import Path

import pytest

from deeprl_cli.checks.algorithm import check_algorithm

HERE = Path(__file__).parent


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_contract_holds(env):
    assert {{told: problem for told, problem in check_algorithm(str(HERE / "{name}.py"), env) if problem}} == {{}}
'''


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl new",
        description="Write the files of a new algorithm: NAME.py, NAME.yaml with its values, and a test.",
        allow_abbrev=False,
    )
    parser.add_argument("what", choices=["algorithm"], help="what to write")
    parser.add_argument("name", metavar="NAME", help="a Python name: my_algo")
    parser.add_argument(
        "--dir", type=Path, default=Path(), metavar="DIR", help="the folder to write to (the current one)"
    )
    flags = parser.parse_args(arguments)
    for line in new_algorithm(flags.name, flags.dir.expanduser()):
        print(line)
    return 0


def new_algorithm(name: str, folder: Path) -> list[str]:
    """Write the three files; returns what to type next. Raises UserError for a bad name, or if a file exists."""
    from deeprl_cli.algos.registry import algorithm_names

    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        meant = "".join(c if c.isalnum() else "_" for c in name).strip("_").lower() or "my_algo"
        raise UserError(f"{name}: must be a Python name in small letters, for example {meant}")
    if name in (*algorithm_names(), *sys.stdlib_module_names):
        raise UserError(f"{name}: an algorithm or a module has this name already: take for example my_{name}")
    files = {
        f"{name}.py": ALGORITHM,
        f"{name}.yaml": VALUES,
        f"test_{name}.py": TEST,
    }
    there = next((file for file in files if (folder / file).exists()), None)
    if there is not None:
        raise UserError(f"{folder / there}: exists already: give another name, or --dir")
    title = "".join(part.capitalize() for part in name.split("_"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text.format(name=name, title=title, test=f"test_{name}.py"), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}): give another --dir") from error
    path = folder / f"{name}.py"
    shown = path if path.is_absolute() else f"./{path}"
    return [
        *(f"written: {folder / file}" for file in files),
        f"train it                   deeprl train algo={shown} env=CartPole-v1",
        f"check it                   deeprl check-algorithm {shown}",
    ]
