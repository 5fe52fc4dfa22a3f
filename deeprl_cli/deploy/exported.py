"""A policy exported to ONNX, read and played without torch: what the file says of itself, and acting.

Shapes: B observations of a batch; `*frame` one observation of the environment's, flattened where it was nested.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeprl_cli.envs.own_terms import OwnTerms
from deeprl_cli.envs.spec import Array
from deeprl_cli.errors import ConfigError, UserError
from deeprl_cli.schema.run import EnvConfig
from deeprl_cli.schema.typed import NonNegativeInt, PositiveInt, build, to_plain

FORMAT = 1
PREFIX = "deeprl."  # of a card's entries among the metadata of an ONNX file


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of the file: an array of `dtype`, of `shape` behind the batch's axis."""

    name: str
    dtype: str
    shape: list[int]
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What an exported file says of itself: whose policy it is, of which moment, and what goes in and out.

    `env` has the preprocessing that an environment needs around it. `frame_stack`: how many frames an observation
    holds, oldest first, kept by the caller; 0 where it is a single one. `noise`: what a sampled action takes, None in a
    file that gives the policy's mode. `weights_sha256` is that of `deploy.graph.digest`.
    """

    format: int
    algo: str
    env: EnvConfig
    seed: NonNegativeInt
    step: NonNegativeInt
    checkpoint: str
    weights_sha256: str
    versions: dict[str, Any]
    max_eval_steps: PositiveInt
    frame_stack: NonNegativeInt
    observation: Port
    noise: Port | None
    action: Port
    scores: Port

    @property
    def stochastic(self) -> bool:
        """Whether actions are sampled."""
        return self.noise is not None

    def entries(self) -> dict[str, str]:
        """Each field as text, under its own name."""
        return {PREFIX + key: v if isinstance(v, str) else json.dumps(v) for key, v in to_plain(self).items()}


def card_of(path: Path, entries: Mapping[str, str]) -> Card:
    """The card among a file's metadata, every value checked. Raises UserError."""
    kinds = typing.get_type_hints(Card)
    texts = {key.removeprefix(PREFIX): text for key, text in entries.items() if key.startswith(PREFIX)}
    if "format" not in texts:
        raise UserError(f"{path}: not a policy that `deeprl export` wrote: it doesn't say what it needs")
    try:
        if json.loads(texts["format"]) != FORMAT:
            raise UserError(f"{path}: written by another deeprl (format {texts['format']}, not {FORMAT}): export again")
        values = {key: text if kinds.get(key) is str else json.loads(text) for key, text in texts.items()}
        return build(Card, values)
    except (ConfigError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: what it says of itself can't be read ({error})") from error


class ExportedPolicy:
    """The policy in `path`, an ONNX file of `deeprl export`. Raises UserError where it isn't one.

    `data`: its bytes, where they aren't on the disk yet.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        needs("onnxruntime", "playing an ONNX file")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # small networks: several threads only wait for each other
        options.log_severity_level = 3
        try:
            content = path.expanduser().read_bytes() if data is None else data
            self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file") from error
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror})") from error
        except Exception as error:  # onnxruntime has a class of its own for each of its reasons
            raise UserError(f"{path}: not an ONNX file that onnxruntime can open") from error
        self.path = path
        self.card = card_of(path, self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, observations: Array, noise: Array | None = None) -> tuple[Array, Array]:
        """The environment's actions `(B, *action)`, and the scores behind them."""
        feeds = {self.card.observation.name: observations.astype(self.card.observation.dtype, copy=False)}
        if self.card.noise is not None:
            assert noise is not None
            feeds[self.card.noise.name] = noise
        action, scores = self.session.run([self.card.action.name, self.card.scores.name], feeds)
        return action, scores

    def draw(self, count: int, rng: np.random.Generator) -> Array | None:
        """The noise of `count` sampled actions; None where none is taken."""
        return None if self.card.noise is None else drawn(self.card.noise, count, rng)

    def actor(self, seed: int) -> Callable[[Array], Array]:
        """Acts on one batch of observations after the other; what is drawn at random comes from `seed`."""
        rng = np.random.default_rng(seed)
        return lambda observations: self(observations, self.draw(len(observations), rng))[0]

    def check_fits(self, terms: OwnTerms) -> None:
        """Raise UserError where an environment has other observations or actions than the policy was trained on."""
        env_id, due = terms.view.env_id, self.card
        shape = [*([terms.stack] if terms.stack else []), *(terms.frame_space.shape or ())]
        if (shape, terms.stack) != (due.observation.shape, due.frame_stack):
            raise UserError(
                f"{self.path}: takes observations of shape {tuple(due.observation.shape)}, and those of {env_id} have "
                f"{tuple(shape)}: give --env {due.env.id}, which it was trained on"
            )
        if (told := str(terms.action_space)) != due.action.meaning:
            raise UserError(
                f"{self.path}: acts in {due.action.meaning}, and {env_id} takes {told}: give --env {due.env.id}, which "
                "it was trained on"
            )


def drawn(noise: Port, count: int, rng: np.random.Generator) -> Array:
    """Random numbers `(count, *shape)` of the kind that `noise` says: standard normal, or uniform in [0, 1)."""
    shape = (count, *noise.shape)
    if noise.meaning == "normal":
        return rng.standard_normal(shape, np.float32)
    return rng.random(shape, np.float32)


def for_env(card: Card, env_id: str | None) -> EnvConfig:
    """The environment to play in, with the preprocessing that the policy was trained with; another than its own
    (`env_id`) without the arguments that were meant for that."""
    if env_id is None or env_id == card.env.id:
        return card.env
    return dataclasses.replace(card.env, id=env_id, kwargs={}, max_episode_steps=None)


def needs(package: str, what: str) -> None:
    """Raise UserError where a package of the extra `export` is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs {package}: pip install 'deeprl-cli[export]'")
