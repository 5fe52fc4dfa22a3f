"""Every algorithm with every network it takes, exported: the file answers as the policy does, in the environment's own
terms. No training: weights are random, and so is what observations are normalised by.

What can't be exported: a pair that can't be trained either (`refused`), and an Ornstein-Uhlenbeck process with
--stochastic, which has a memory (`check_exportable`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from deeprl_cli.algos.registry import get_algorithm
from deeprl_cli.deploy import exporting
from deeprl_cli.deploy.exporting import TOLERANCE, card_for, compare, random_observations, traced, written
from deeprl_cli.deploy.graph import PolicyGraph
from deeprl_cli.deploy.loading import Kept
from deeprl_cli.deploy.trained import TrainedPolicy
from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.observations import ObservationView
from deeprl_cli.envs.own_terms import OwnTerms
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.policy import make_policy
from tests.contract.harness import ALGORITHMS, STATE_DEPENDENT, configured, shaken, small

pytestmark = pytest.mark.usefixtures("one_onnx_registry")

# as odd as environments have them: counted from elsewhere, shifted and lopsided bounds, 64 bits
ACTIONS = {
    "Discrete": spaces.Discrete(3, start=-1),
    "Box": spaces.Box(np.array([-3.0, 0.5]), np.array([1.0, 5.0]), dtype=np.float64),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "MultiBinary": spaces.MultiBinary([2, 2]),
}
OBSERVATIONS = {
    "vector": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "bounded": spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 30.0]), dtype=np.float32),
    "choice": spaces.Discrete(6, start=2),
    "choices": spaces.MultiDiscrete([3, 4], start=[0, 1]),
    "tokens": spaces.MultiDiscrete([5] * 4),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
}
NETWORKS = {  # name: what it reads, and its options
    "mlp": ("vector", "network=mlp"),
    "mlp-shared": ("vector", "network=mlp network.share=true network.activation=gelu"),
    "cnn": ("image", "network=cnn network.hidden=[16]"),
    "transformer": ("tokens", "network=transformer network.d_model=16 network.heads=2 network.layers=1"),
    "tabular": ("choice", "network=tabular"),
    "tabular-joint": ("choices", "network=tabular"),
    "linear": ("vector", "network=linear"),
    "onehot": ("choices", "network=linear network.features=onehot"),
    **{name: ("bounded", f"network=linear network.features={name}") for name in ("poly", "fourier", "rbf", "tiles")},
}


def untrained(name: str, action: str, network: str, *options: str) -> Kept:
    """Its policy, every weight and statistic at random. Raises ConfigError where there is no such policy."""
    kind, chosen = NETWORKS[network]
    cfg = configured(*small(name), *chosen.split(), *options)
    view, actions = ObservationView("Test-v0", OBSERVATIONS[kind]), ActionView("Test-v0", ACTIONS[action])
    terms = OwnTerms(view, actions, {"own": OBSERVATIONS[kind], "frame": OBSERVATIONS[kind]})
    return Kept(TrainedPolicy(shaken(make_policy(cfg, terms.spec)), terms), 0, "last", 7)


def agreement(kept: Kept, *, stochastic: bool = False):
    """What `export` finds, but for what is recorded in an environment, which there is none of."""
    cfg = configured(*small(kept.policy.inner.algorithm.config.name))
    card = card_for(kept, cfg, stochastic)
    _, function = written(traced(kept.policy, card), card, "onnx", Path("policy.onnx"))
    return compare(function, kept.policy, card, seen(kept))


def agreement_in_torch(graph: PolicyGraph, kept: Kept, *, stochastic: bool = False):
    """The same of the function that files are made of, before one is."""
    card = card_for(kept, configured(*small(kept.policy.inner.algorithm.config.name)), stochastic)

    def function(obs, noise):
        with torch.no_grad():
            return tuple(part.numpy() for part in graph(*(torch.from_numpy(x) for x in (obs, noise) if x is not None)))

    return compare(function, kept.policy, card, seen(kept))


def seen(kept: Kept):
    return random_observations(kept.policy, 64, np.random.default_rng(5))


NORMALISED = "algo.normalize_obs=true"
# each network and kind of action once among them; a new algorithm acts in the first kind that it takes, from an MLP
ONCE = {
    "a2c": ("Box", "mlp-shared", NORMALISED),
    "a3c": ("MultiDiscrete", "tabular-joint", ""),
    "actor_critic": ("MultiBinary", "fourier", ""),
    "async_q": ("Discrete", "tabular", ""),
    "bc": ("MultiDiscrete", "transformer", ""),
    "ddpg": ("Box", "cnn", ""),
    "dqn": ("Discrete", "tiles", ""),
    "grpo": ("Discrete", "onehot", ""),
    "ppo": ("Box", "mlp", f"{NORMALISED} {STATE_DEPENDENT['ppo']}"),
    "reinforce": ("MultiBinary", "rbf", ""),
    "sac": ("Box", "mlp", f"{NORMALISED} {STATE_DEPENDENT['sac']}"),
    "td3": ("Box", "linear", NORMALISED),
    "trpo": ("Box", "poly", ""),
}
# a file costs a second, so that those whose operations are among the others' are made in the slow tests alone
NO_FILE = {"tabular-joint", "fourier", "onehot", "rbf", "linear", "poly"}


def refused(name: str, network: str) -> bool:
    """Critics Q(s, a) read actions beside the observation, which not every network can; only policy and V share one."""
    if network == "mlp-shared":
        return not get_algorithm(name).joint
    return name in ("ddpg", "td3", "sac") and network not in ("mlp", "linear", "cnn")


def pairs():
    """(algorithm, action, network, options, stochastic, file): every algorithm once, quickly, and then with every
    network, in each kind of action in turn. Of these a file is made once for each network with each kind of
    action; the others are compared by the function that files are made of."""
    filed = set()
    for turn, name in enumerate(ALGORITHMS):
        kinds = [kind.__name__ for kind in get_algorithm(name).action_spaces]
        action, network, options = ONCE.get(name, (kinds[0], "mlp", NORMALISED))
        yield name, action, network, options, turn % 2 == 0, network not in NO_FILE
        for other, network in enumerate(NETWORKS, turn):
            action, stochastic = kinds[other % len(kinds)], other // len(kinds) % 2 == 0
            file = (network, action) not in filed and not refused(name, network)
            filed |= {(network, action)} if file else set()
            yield pytest.param(name, action, network, "", stochastic, file, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "action", "network", "options", "stochastic", "file"), list(pairs()))
def test_acts_as_the_policy_does(name, action, network, options, stochastic, file):
    if refused(name, network):
        with pytest.raises(ConfigError, match="network"):
            untrained(name, action, network)
        return
    kept = untrained(name, action, network, *options.split())
    if file:
        found = agreement(kept, stochastic=stochastic)
    else:
        found = agreement_in_torch(PolicyGraph(kept.policy), kept, stochastic=stochastic)
    assert found.flips == 0, found
    assert found.largest < TOLERANCE / 10, found


def test_each_network_is_among_the_fast_ones():
    assert {network for _, network, _ in ONCE.values()} == set(NETWORKS)
    assert {action for action, _, _ in ONCE.values()} == set(ACTIONS)


class Growing(torch.nn.Module):
    """A plug-in's noise, which counts its calls where it `remembers`."""

    def __init__(self, remembers):
        super().__init__()
        self.remembers = remembers
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, xi):
        self.calls += self.remembers
        return xi * (1 + self.calls)


@pytest.mark.parametrize("kind", ["ou", "a plug-in's", "a plug-in's without"])
def test_a_process_with_a_memory_is_refused(kind):
    kept = untrained("ddpg", "Box", "mlp", f"algo.exploration.kind={'ou' if kind == 'ou' else 'gaussian'}")
    if kind != "ou":
        kept.policy.inner.algorithm.exploration.noise = Growing(kind == "a plug-in's")
    exporting.check_exportable(kept.policy, stochastic=False)
    if kind == "a plug-in's without":
        exporting.check_exportable(kept.policy, stochastic=True)
        return
    with pytest.raises(UserError, match="leave --stochastic out"):
        exporting.check_exportable(kept.policy, stochastic=True)


@pytest.mark.parametrize("forgotten", ["nothing", "normalisation", "scale", "offset", "start", "a weight", "a number"])
def test_what_is_left_out_is_found(forgotten):
    """The known traps: each of these files would be refused."""
    kept = untrained("ppo", "Discrete" if forgotten == "start" else "Box", "mlp", NORMALISED)
    graph = PolicyGraph(kept.policy)
    if forgotten == "normalisation":
        graph.inner.obs_statistics = None
    elif forgotten == "scale":
        graph.own.box.scaled = False
    elif forgotten == "offset":
        graph.own.box.shifted = False
    elif forgotten == "start":
        graph.own.start = None
    elif forgotten == "a weight":
        next(graph.inner.algorithm.parameters()).add_(0.01)
    elif forgotten == "a number":
        next(graph.inner.algorithm.parameters()).view(-1)[0] = float("nan")
    found = agreement_in_torch(graph, kept)
    assert found.holds() == (forgotten == "nothing"), found
