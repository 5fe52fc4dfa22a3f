"""Sums as a language task, small enough to train in a minute: read `3+4=`, write `07`, one token a step.

Tokens: 0 to 9 the digits, 10 `+`, 11 `=`, 12 end of sequence; in observations 13 is padding. The last is never part of
an answer: a policy has to learn that, too.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

ARITH_QA_ID = "ArithQA-v0"
SYMBOLS = "0123456789+=."  # `.` shows the end of sequence
PADDING = len(SYMBOLS)
LENGTH = 8  # tokens of an observation: the longest question and its answer, 49+49=98

Tokens = npt.NDArray[np.int64]


class ArithQA(gym.Env[Tokens, Any]):
    """A question, then one action for each token of the answer; the reward comes with the last one.

    Observation `MultiDiscrete([14] * 8)`: question and answer so far, left-aligned, padded with 13. Action
    `Discrete(13)`: the token appended. `task`:
    - "add": a+b with a, b uniform in 0 … `operand_max` (at most 49); the answer is the sum in two digits. With the
      default of 9 there are 100 questions, and all of them are met in training: what is measured is memory and
      arithmetic together, not generalisation.
    - "reverse": three digits, each uniform in 0 … `operand_max` (at most 9); the answer is them backwards. 1000
      questions, of which a short training sees a part.
    The reward is 1 for the right answer, else 0; with `partial_credit` the share of its tokens that are right.

    `demonstration(seed)` answers a question for a learner to imitate, wrongly with probability `corrupt`: imitation
    alone then gives a weak policy, for reinforcement learning to improve.
    """

    metadata = {"render_modes": ["ansi"], "transcripts": True}  # noqa: RUF012 (gymnasium reads it from the class)

    def __init__(
        self,
        operand_max: int = 9,
        task: str = "add",
        partial_credit: bool = False,
        corrupt: float = 0.7,
        render_mode: str | None = None,
    ) -> None:
        largest = {"add": 49, "reverse": 9}.get(task)
        if largest is None:
            raise ValueError(f"task must be add or reverse, not {task}")
        if not 1 <= operand_max <= largest:
            raise ValueError(f"operand_max must be in 1 to {largest} for task={task}")
        if not 0 <= corrupt <= 1:
            raise ValueError("corrupt is a probability, in 0 to 1")
        self.operand_max, self.task, self.partial_credit, self.corrupt = operand_max, task, partial_credit, corrupt
        self.render_mode = render_mode
        self.observation_space = spaces.MultiDiscrete([PADDING + 1] * LENGTH)
        self.action_space = spaces.Discrete(PADDING)
        self._right = ""
        self._obs: Tokens = np.full(LENGTH, PADDING, np.int64)
        self._start = self._end = 0  # where the answer starts, and what is written ends

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tokens, dict[str, Any]]:
        super().reset(seed=seed)
        question, self._right = self._draw(self.np_random)
        self._obs = _observation(question)
        self._start = self._end = len(question)
        return self._obs.copy(), {}

    def step(self, action: Any) -> tuple[Tokens, float, bool, bool, dict[str, Any]]:
        self._obs[self._end] = int(action)
        self._end += 1
        over = self._end - self._start == len(self._right)
        return self._obs.copy(), self._score() if over else 0.0, over, False, {}

    def render(self) -> Any:
        """The text so far: `3+4=07`."""
        return "".join(SYMBOLS[token] for token in self._obs[: self._end])

    def demonstration(self, seed: int) -> list[tuple[Tokens, int]]:
        """One answered question as (observation, action), a pair for each token; the seed alone decides it."""
        rng = np.random.default_rng(seed)
        question, answer = self._draw(rng)
        if rng.random() < self.corrupt:
            # any other answer of this length, each as likely
            other = int(rng.integers(10 ** len(answer) - 1))
            answer = f"{other + (other >= int(answer)):0{len(answer)}d}"
        return [(_observation(question + answer[:i]), int(token)) for i, token in enumerate(answer)]

    def _draw(self, rng: np.random.Generator) -> tuple[str, str]:
        """A question and its answer."""
        if self.task == "reverse":
            digits = "".join(map(str, rng.integers(self.operand_max + 1, size=3).tolist()))
            return f"{digits}=", digits[::-1]
        a, b = rng.integers(self.operand_max + 1, size=2).tolist()
        return f"{a}+{b}=", f"{a + b:02d}"

    def _score(self) -> float:
        written = [SYMBOLS[token] for token in self._obs[self._start : self._end]]
        right = sum(w == r for w, r in zip(written, self._right, strict=True))
        return right / len(self._right) if self.partial_credit else float(right == len(self._right))


def _observation(text: str) -> Tokens:
    tokens = np.full(LENGTH, PADDING, np.int64)
    tokens[: len(text)] = [SYMBOLS.index(symbol) for symbol in text]
    return tokens
