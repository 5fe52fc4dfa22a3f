"""`deeprl export`: a trained policy as one file, written only when it acts as the policy does.

Shapes: B observations; `*stack` what the policy sees of one: a frame, or the last k of them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch.export import ExportedProgram

from deeprl_cli import __version__
from deeprl_cli.deploy.exported import FORMAT, Card, ExportedPolicy, Port, drawn, needs
from deeprl_cli.deploy.graph import PolicyGraph, digest, forgetful, hear, input_dtype
from deeprl_cli.deploy.loading import Kept
from deeprl_cli.deploy.play import recorded
from deeprl_cli.deploy.trained import TrainedPolicy
from deeprl_cli.envs.actions import UNBOUNDED
from deeprl_cli.envs.spec import Array
from deeprl_cli.errors import UserError
from deeprl_cli.processes.hardware import threads
from deeprl_cli.rl.exploration import Exploration
from deeprl_cli.runs.folder import atomic_write
from deeprl_cli.schema.run import RunConfig
from deeprl_cli.schema.typed import to_plain

To = Literal["onnx", "torch"]
ENDINGS: dict[To, str] = {"onnx": ".onnx", "torch": ".pt2"}
CARD_FILE = "deeprl.json"  # within a .pt2 file
PARTS = 4
RANDOM, RECORDED = 512, 512  # observations that a file is held against
TOLERANCE = 1e-4  # of the largest difference, in units of the row's largest number or of 1
FLIPS = 0.005  # of discrete actions, where two are as good as each other to the last bit

Function = Callable[[Array, Array | None], tuple[Array, Array]]  # observations and noise to actions and scores


@dataclass(frozen=True)
class Agreement:
    """How a file's answers differ from the policy's over so many observations: the largest difference of an action and
    of a score (relative to the larger of 1 and the largest of the row), and how many discrete actions are others."""

    random: int
    recorded: int
    action: float
    scores: float
    flips: int

    @property
    def largest(self) -> float:
        return float(np.maximum(self.action, self.scores))  # NaN stays NaN

    def holds(self) -> bool:
        """Whether the file may be written. NaN doesn't hold."""
        return self.largest <= TOLERANCE and self.flips <= FLIPS * (self.random + self.recorded)


@dataclass(frozen=True)
class Export:
    """A file that was written: what it says of itself, its size in bytes, and how well it agrees."""

    path: Path
    card: Card
    size: int
    agreement: Agreement


def export(
    kept: Kept,
    cfg: RunConfig,
    path: Path,
    *,
    to: To = "onnx",
    stochastic: bool = False,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Export:
    """Write a seed's policy to `path`: `onnx` for onnxruntime and the like, `torch` for `torch.export.load`.

    `stochastic`: actions are sampled from noise that the caller hands in, instead of being the policy's mode. `told`
    hears which of how many parts is under way: a graph, a file, playing, comparing. Nothing is written, and UserError
    raised, where a package is missing, the policy can't be exported, or the file's answers differ from the policy's.
    """
    if path.suffix != ENDINGS[to]:
        raise UserError(f"{path}: a file for {to} ends in {ENDINGS[to]}: give {path.with_suffix(ENDINGS[to])}")
    policy = kept.policy
    check_exportable(policy, stochastic)
    if to == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            needs(package, "exporting to ONNX")
    with threads(1):
        told(1, PARTS)
        card = card_for(kept, cfg, stochastic)
        program = traced(policy, card)
        told(2, PARTS)
        data, function = written(program, card, to, path)
        told(3, PARTS)
        seen = played(policy, cfg, kept.seed)
        told(4, PARTS)
        agreement = compare(function, policy, card, seen)
        if cfg.env.backend == "envpool":  # none of these was recorded
            agreement = dataclasses.replace(agreement, random=agreement.random + agreement.recorded, recorded=0)
    if not agreement.holds():
        raise UserError(
            f"{path}: not written: its answers differ from the policy's by {agreement.largest:.1e}, and in "
            f"{agreement.flips} of {RANDOM + RECORDED} discrete actions: give the other of --to onnx and --to torch"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}): give another --out") from error
    return Export(path, card, len(data), agreement)


def check_exportable(policy: TrainedPolicy, stochastic: bool) -> None:
    """Raise UserError where one call can't be the whole policy: noise that goes on from step to step."""
    for part in policy.inner.algorithm.children():
        if stochastic and isinstance(part, Exploration) and part.remembers():
            raise UserError(
                f"algo.exploration.kind={part.config.kind} is a process with a memory, which a file has not: leave "
                "--stochastic out, and add noise of your own to the actions"
            )


def card_for(kept: Kept, cfg: RunConfig, stochastic: bool) -> Card:
    """What the file will say of itself."""
    policy, terms = kept.policy, kept.policy.terms
    stack = [terms.stack] if terms.stack else []
    one = "a frame" if terms.frame_space is not terms.observation_space else "an observation"
    seen = f"{one} of {terms.view.env_id}, in its own numbers"
    if terms.stack:
        seen = f"the last {terms.stack} frames of {terms.view.env_id}, oldest first; as an episode begins, its first"
    obs = policy_input(policy, 2)
    with torch.no_grad():
        noise = policy.draw(2)[0]
        action, scores = PolicyGraph(policy)(torch.from_numpy(obs), noise if stochastic else None)
    act = policy.inner.algorithm.noise_spec().act
    return Card(
        format=FORMAT,
        algo=cfg.algo.called,
        env=cfg.env,
        seed=kept.seed,
        step=kept.step,
        checkpoint=str(kept.checkpoint),
        weights_sha256=digest(policy),
        versions={"deeprl": __version__, "torch": torch.__version__, "gymnasium": gym.__version__},
        max_eval_steps=cfg.eval.max_steps,
        frame_stack=terms.stack,
        observation=Port(
            name="obs", dtype=str(obs.dtype), shape=[*stack, *(terms.frame_space.shape or ())], meaning=seen
        ),
        noise=Port(name="noise", dtype="float32", shape=list(noise.shape[1:]), meaning=act.kind)
        if stochastic
        else None,
        action=Port(name="action", dtype=_name(action), shape=list(action.shape[1:]), meaning=str(terms.action_space)),
        scores=Port(
            name="scores", dtype=_name(scores), shape=list(scores.shape[1:]), meaning="what the network says of actions"
        ),
    )


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def policy_input(policy: TrainedPolicy, count: int) -> Array:
    """`count` random observations in the file's own type."""
    return random_observations(policy, count, np.random.default_rng(0)).astype(input_dtype(policy.terms.view))


def traced(policy: TrainedPolicy, card: Card) -> ExportedProgram:
    """The policy as a graph of torch's operations, for a batch of any size. Raises UserError."""
    inputs = [torch.from_numpy(policy_input(policy, 3))]
    if card.noise is not None:
        inputs.append(policy.draw(3)[0])
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    with torch.no_grad(), quiet():
        try:
            return torch.export.export(PolicyGraph(policy), tuple(inputs), dynamic_shapes=dynamic)
        except Exception as error:
            raise _impossible(card, "a graph", error) from error


def _impossible(card: Card, what: str, error: Exception) -> UserError:
    why = (str(error).strip() or "nothing said").splitlines()[0]
    return UserError(f"algo={card.algo} on {card.env.id} can't be made {what} ({type(error).__name__}: {why})")


def written(program: ExportedProgram, card: Card, to: To, path: Path) -> tuple[bytes, Function]:
    """The file's bytes, and what they compute when they are loaded. Raises UserError."""
    with quiet():
        if to == "onnx":
            data = onnx_bytes(program, card)
            return data, ExportedPolicy(path, data)
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={CARD_FILE: json.dumps(to_plain(card), indent=2)})
        module = torch.export.load(io.BytesIO(buffer.getvalue())).module()

    def function(observations: Array, noise: Array | None) -> tuple[Array, Array]:
        given = [torch.from_numpy(x) for x in (observations, noise) if x is not None]
        action, scores = module(*given)
        return action.numpy(), scores.numpy()

    return buffer.getvalue(), function


def onnx_bytes(program: ExportedProgram, card: Card) -> bytes:
    """The graph in ONNX, its card among the metadata; without the source lines of this machine."""
    import onnx

    names = [port.name for port in (card.observation, card.noise) if port is not None]
    try:
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names, output_names=[card.action.name, card.scores.name]
        )
        assert made is not None
        model = made.model_proto
    except Exception as error:
        raise _impossible(card, "an ONNX file", error) from error
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    parts: Iterable[Any] = (graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    model.doc_string = f"algo={card.algo} on {card.env.id}, seed {card.seed}, step {card.step:,}: {card.action.meaning}"
    onnx.helper.set_model_props(model, card.entries())
    return bytes(model.SerializeToString())


@contextmanager
def quiet() -> Iterator[None]:
    """torch's exporters warn of what isn't the user's to mend."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- does it agree? ---------------------------------------------------------------------------------------------------


def played(policy: TrainedPolicy, cfg: RunConfig, seed: int) -> Array:
    """What the policy sees while it plays `(B, *stack)`; of EnvPool's environments, which can't be played so, nothing
    but what is drawn at random."""
    if cfg.env.backend == "envpool":
        return random_observations(policy, RECORDED, np.random.default_rng(1))
    inner = forgetful(policy)

    def act(stacks: Array) -> Any:
        return policy.terms.acted(inner.act(policy.terms.seen(list(stacks)), None), many=True)

    return recorded(cfg.env, cfg.eval.max_steps, policy.terms, act, RECORDED, seed)


def random_observations(policy: TrainedPolicy, count: int, rng: np.random.Generator) -> Array:
    """`(count, *stack)`: anywhere within the bounds of the observation space; where it has none, of any size from a
    tenth to a hundred."""
    terms = policy.terms
    lead = (count, terms.stack) if terms.stack else (count,)
    space: Any = terms.frame_space
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
        return np.asarray(rng.integers(sizes, size=(*lead, *(space.shape or ()))) + space.start)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=(*lead, *space.shape))
    assert isinstance(space, spaces.Box)
    if np.issubdtype(space.dtype, np.integer):
        return rng.integers(space.low, space.high, size=(*lead, *space.shape), endpoint=True, dtype=space.dtype)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (low > -UNBOUNDED) & (high < UNBOUNDED)
    size = 10 ** rng.uniform(-1, 2, size=(*lead, *(1 for _ in space.shape)))
    anywhere = (rng.standard_normal((*lead, *space.shape)) * size).clip(low, high)
    within = rng.uniform(np.where(bounded, low, 0), np.where(bounded, high, 1), (*lead, *space.shape))
    return np.where(bounded, within, anywhere).astype(space.dtype)


def compare(function: Function, policy: TrainedPolicy, card: Card, seen: Array) -> Agreement:
    """Hold the file against the policy on observations that were `seen` and on random ones, one at a time and many.

    The policy's answers come the way they come in training: prepared and rescaled by the environment's own wrappers.
    """
    rng = np.random.default_rng(seed=2)
    inner = forgetful(policy)
    heard = hear(inner)
    worst = {"action": 0.0, "scores": 0.0}
    flips = 0
    random = random_observations(policy, RANDOM, rng)
    for stacks in (random[:1], random[1:], seen[:1], seen[1:]):
        noise = None if card.noise is None else drawn(card.noise, len(stacks), rng)
        heard.clear()
        xi = None if noise is None else torch.from_numpy(noise).unsqueeze(0)
        action = policy.terms.acted(inner.act(policy.terms.seen(list(stacks)), xi), many=True)
        scores = heard[0].squeeze(0).numpy()
        theirs, their_scores = function(stacks.astype(card.observation.dtype), noise)
        for port, ours, given in (("action", action, theirs), ("scores", scores, their_scores)):
            if given.shape != ours.shape:
                raise UserError(f"the file gives {port} of shape {given.shape}, and the policy of {ours.shape}")
        if np.issubdtype(action.dtype, np.floating):
            worst["action"] = float(np.maximum(worst["action"], _difference(action, theirs)))
        else:
            flips += int((action != theirs).reshape(len(stacks), -1).any(1).sum())
        worst["scores"] = float(np.maximum(worst["scores"], _difference(scores, their_scores)))
    return Agreement(len(random), len(seen), worst["action"], worst["scores"], flips)


def _difference(ours: Array, theirs: Array) -> float:
    """The largest, each row in units of the larger of 1 and its largest number; NaN where one is."""
    ours, theirs = (x.reshape(len(x), -1).astype(np.float64) for x in (ours, theirs))
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours).max(1, keepdims=True))).max())
