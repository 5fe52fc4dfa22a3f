"""Between an environment's own terms and an algorithm's, for policies that act outside of training.

An observation has up to three forms: as the environment gives it (own), as one frame (nested ones flattened, the screen
of an Atari game in grey and small), and as the stack of the last k frames, oldest first. Shapes: B observations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from deeprl_cli.envs.actions import ActionView
from deeprl_cli.envs.answers import BadAnswer
from deeprl_cli.envs.closing import closing
from deeprl_cli.envs.make import bare_env, framed, stacked
from deeprl_cli.envs.observations import ObservationView, origin_given
from deeprl_cli.envs.place import staying
from deeprl_cli.envs.spec import Array, EnvSpec, outside
from deeprl_cli.errors import UserError
from deeprl_cli.schema.run import EnvConfig

Form = Literal["own", "frame", "stack"]
Space = gym.Space[Any]


@dataclass(frozen=True)
class Given:
    """Observations one by one, their form, and whether they came as a batch."""

    items: list[Any]
    form: Form
    many: bool


class OwnTerms:
    """How one environment's observations become an algorithm's, and an algorithm's actions the environment's.

    `observation_space` and `action_space` are the environment's own; `frame_space` is of one frame; `stack` is k, or 0
    where frames aren't stacked; `spec` is what the algorithm sees. Nothing of the environment is kept running.
    """

    def __init__(
        self,
        view: ObservationView,
        actions: ActionView,
        spaces_of: Mapping[Form, Space],
        *,
        to_frame: Sequence[gym.ObservationWrapper[Any, Any, Any]] = (),
        to_seen: Sequence[gym.ObservationWrapper[Any, Any, Any]] = (),
        screen_size: int | None = None,
    ) -> None:
        self.view, self.actions = view, actions
        self.spec = EnvSpec(view.env_id, view.space, actions.space)
        self.spaces = dict(spaces_of)
        self.observation_space, self.frame_space = self.spaces["own"], self.spaces["frame"]
        self.action_space = actions.source
        self.stack = (self.spaces["stack"].shape or (0,))[0] if "stack" in self.spaces else 0
        self._to_frame, self.to_seen, self._screen_size = tuple(to_frame), tuple(to_seen), screen_size
        self._frame_view = ObservationView(view.env_id, self.frame_space) if self.stack else view

    def read(self, observation: Any, batch: bool | None) -> Given:
        """What was handed over, by its shape: one that can be read as a single observation is one, unless `batch` says
        otherwise. Raises UserError where it has none of the forms' shapes."""
        for many in (False, True):
            if batch in (None, many):
                for form, space in self._readings():
                    count = _count(space, observation)
                    if count == 0 and batch is not False:
                        raise UserError(f"{self.view.env_id}: a batch of no observations: there is nothing to act on")
                    if (count is not None) == many and count != _NO_MATCH:
                        items = _apart(space, observation, count) if count is not None else [observation]
                        if form == "stack":  # frames are looked at one by one, in `frames`
                            self._check(space, items)
                        return Given(items, form, many)
        wanted = "one or a batch of" if batch is None else "a batch of" if batch else "one of"
        forms = " or ".join(dict.fromkeys(str(space) for _, space in self._readings()))
        hint = (
            ": a batch of them is one of arrays"
            if isinstance(observation, list | tuple) and _nested(self.spaces)
            else ""
        )
        raise UserError(f"{self.view.env_id}: an observation of {_shape(observation)} is not {wanted} {forms}{hint}")

    def _readings(self) -> list[tuple[Form, Space]]:
        """The forms an observation may have; an Atari screen may be in colour, too."""
        found: list[tuple[Form, Space]] = list(self.spaces.items())
        if self._screen_size is not None:
            shape = (*(self.observation_space.shape or ()), 3)
            found.append(("own", spaces.Box(0, 255, shape, np.uint8)))
        return found

    def _check(self, space: Space, items: Sequence[Any]) -> None:
        for item in items:
            if wrong := _wrong(space, item):
                raise UserError(f"{self.view.env_id}: {wrong}")

    def frames(self, given: Given) -> list[Array]:
        """Own observations as frames; frames as they are. Raises UserError for NaN, a choice that there isn't, and
        numbers of another kind."""
        made = given.items
        self._check(self.observation_space if given.form == "own" else self.frame_space, made)
        if given.form == "own" and self._screen_size is not None:
            made = [_small_and_grey(item, self._screen_size) for item in made]
        view = self._frame_view
        try:
            for wrapper in self._to_frame if given.form == "own" else ():
                made = [wrapper.observation(item) for item in made]
            return [np.array(view.checked(item).reshape(view.source_shape), view.declared) for item in made]
        except BadAnswer as error:
            said = str(error).removeprefix("returned ")
            raise UserError(f"{self.view.env_id}: {said}") from error

    def seen(self, stacks: Sequence[Array]) -> Array:
        """Stacks (k, *frame), or frames where nothing is stacked, as the algorithm sees them: `(B, *obs)`."""
        made: Sequence[Any] = stacks
        for wrapper in self.to_seen:
            made = [wrapper.observation(item) for item in made]
        return np.stack([self.view.row(item) for item in made])

    def acted(self, actions: npt.ArrayLike, many: bool) -> Any:
        """The algorithm's actions `(B, *action)` in the environment's terms; the one, where they aren't many."""
        decoded = self.actions.decode(actions)
        if many:
            return decoded
        return decoded.tolist()[0] if self.actions.scalar else decoded[0]


def own_terms(cfg: EnvConfig) -> OwnTerms:
    """Builds the environment to read its spaces, and closes it. Raises ConfigError."""
    if cfg.backend == "envpool":  # which preprocesses and stacks by itself
        from deeprl_cli.envs.envpool_backend import EnvPoolVectorEnv

        pool = EnvPoolVectorEnv(cfg, [0], 1, training=False)
        pool.close()
        own, action_space = pool.own_spaces
        return OwnTerms(ObservationView(cfg.id, own), ActionView(cfg.id, action_space), {"own": own, "frame": own})
    with staying(), closing(bare_env(cfg), cfg.id) as bare:
        frame = framed(cfg, bare, training=False)
        env = stacked(cfg, frame)
        stacks = [w for w in _wrappers(env, frame) if isinstance(w, FrameStackObservation)]
        forms: dict[Form, Space] = {"own": bare.observation_space, "frame": frame.observation_space}
        if stacks:
            forms["stack"] = stacks[0].observation_space
        return OwnTerms(
            ObservationView(cfg.id, env.observation_space, origin_given(cfg.origin)),
            ActionView(cfg.id, env.action_space),
            forms,
            to_frame=_pure(frame, bare),
            to_seen=_pure(env, stacks[0]) if stacks else (),
            screen_size=cfg.atari.screen_size if cfg.atari.enabled else None,
        )


class FrameMemory:
    """The last k frames of each of B environments; an episode begins with k times its first one."""

    def __init__(self, stack: int) -> None:
        self.stack = stack
        self._held: list[Array | None] | None = None

    def look(self, frames: Sequence[Array]) -> list[Array]:
        """The stacks that these frames complete, `(k, *frame)` each; nothing is remembered. Raises UserError where they
        are of another number of environments than those before."""
        if not self.stack:
            return list(frames)
        held = self._held or [None] * len(frames)
        if len(held) != len(frames):
            raise UserError(
                f"{len(frames)} observations, and the policy remembers frames of {len(held)}: call policy.reset() "
                "before acting in others"
            )
        return [
            np.stack([frame] * self.stack) if before is None else np.concatenate((before[1:], frame[None]))
            for before, frame in zip(held, frames, strict=True)
        ]

    def push(self, frames: Sequence[Array]) -> list[Array]:
        """`look`, and remember."""
        stacks = self.look(frames)
        if self.stack:
            self._held = list(stacks)
        return stacks

    def reset(self, ended: npt.ArrayLike | None = None) -> None:
        """Forget all, or those environments alone that `ended` `(B,)`."""
        if ended is None or self._held is None:
            self._held = None
        else:
            self._held = [None if over else held for held, over in zip(self._held, np.asarray(ended), strict=True)]


def _wrappers(outer: gym.Env[Any, Any], inner: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """From `outer` inwards, those that aren't part of `inner`."""
    within = []
    env: Any = inner
    while env is not None:
        within.append(env)
        env = env.env if isinstance(env, gym.Wrapper) else None
    env = outer
    while not any(env is one for one in within):
        yield env
        env = env.env


def _pure(outer: gym.Env[Any, Any], inner: gym.Env[Any, Any]) -> list[gym.ObservationWrapper[Any, Any, Any]]:
    """What changes observations between the two, in the order in which it does; a stack's copying of frames is not."""
    found = [w for w in _wrappers(outer, inner) if isinstance(w, gym.ObservationWrapper)]
    return found[::-1]


def _small_and_grey(screen: Any, size: int) -> Array:
    """As AtariPreprocessing does it; a screen in colour is made grey first (the emulator's own grey differs by 1)."""
    import cv2

    screen = np.asarray(screen, np.uint8)
    if screen.ndim == 3:
        screen = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(screen, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _nested(forms: Mapping[Form, Space]) -> bool:
    return isinstance(forms["own"], spaces.Dict | spaces.Tuple)


def _wrong(space: Space, value: Any) -> str:
    """What can't be learnt from in an observation of the right shape; "" where there is nothing."""
    if isinstance(space, spaces.Dict):
        return next(filter(None, (_wrong(part, value[key]) for key, part in space.spaces.items())), "")
    if isinstance(space, spaces.Tuple):
        return next(filter(None, map(_wrong, space.spaces, value)), "")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if outside(space, np.asarray(value) - space.start).any():
            return f"an observation of {np.asarray(value).tolist()} is outside {space}"
    elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and np.isnan(value).any():
        return "an observation holds NaN: nothing can be said of it"
    return ""


_NO_MATCH = -1


def _count(space: Space, value: Any) -> int | None:
    """None for one observation of `space`, a number for a batch of so many, _NO_MATCH for neither."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or not space.spaces.keys() <= value.keys():
            return _NO_MATCH
        return _agreed(_count(part, value[key]) for key, part in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return _NO_MATCH
        return _agreed(_count(part, item) for part, item in zip(space.spaces, value, strict=True))
    if space.shape is None:  # texts
        return None if isinstance(value, str) else len(value) if isinstance(value, Sequence | np.ndarray) else _NO_MATCH
    try:
        shape = np.shape(value)
    except ValueError:  # lists of several lengths
        return _NO_MATCH
    if shape == space.shape:
        return None
    return int(shape[0]) if shape[1:] == space.shape and len(shape) else _NO_MATCH


def _agreed(counts: Iterator[int | None]) -> int | None:
    several = set(counts)
    return several.pop() if len(several) == 1 else _NO_MATCH


def _apart(space: Space, value: Any, count: int) -> list[Any]:
    """A batch of `count`, one by one."""
    if isinstance(space, spaces.Dict):
        parts = {key: _apart(part, value[key], count) for key, part in space.spaces.items()}
        return [{key: items[i] for key, items in parts.items()} for i in range(count)]
    if isinstance(space, spaces.Tuple):
        columns = [_apart(part, item, count) for part, item in zip(space.spaces, value, strict=True)]
        return [tuple(column[i] for column in columns) for i in range(count)]
    return list(value if space.shape is None else np.asarray(value))


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the parts {', '.join(map(str, value))}"
    try:
        return f"shape {np.shape(value)}"
    except ValueError:
        return f"kind {type(value).__name__}"
