"""ArithQA: what it asks, what it takes for right, and what it demonstrates."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.ids import metadata, registered_ids
from deeprl_cli.envs.make import env_spec, make_vector_env
from deeprl_cli.envs.testing import register_own_envs
from deeprl_cli.errors import ConfigError
from tests.envs.conftest import config


def made(**kwargs):
    register_own_envs()
    return gym.make("ArithQA-v0", render_mode="ansi", **kwargs).unwrapped


def answered(env, answer):
    """Give `answer` to the question asked: the texts and (reward, terminated) after each token."""
    texts, results = [env.render()], []
    for symbol in answer:
        obs, reward, terminated, truncated, _ = env.step(int(symbol))
        assert obs in env.observation_space
        assert not truncated
        texts.append(env.render())
        results.append((reward, terminated))
    return texts, results


def question(env, seed):
    env.reset(seed=seed)
    return env.render()


def test_a_question_and_its_answers():
    """Seed by seed: the sum in two digits earns 1 with its last token, anything else 0."""
    env = made()
    for seed in range(30):
        obs, _ = env.reset(seed=seed)
        text = env.render()
        a, b = int(text[0]), int(text[2])
        assert text == f"{a}+{b}="
        assert obs.tolist() == [a, 10, b, 11, 13, 13, 13, 13]
        right, wrong = f"{a + b:02d}", f"{(a + b + 1) % 100:02d}"
        assert answered(env, right) == ([text, text + right[0], text + right], [(0.0, False), (1.0, True)])
        env.reset(seed=seed)
        assert answered(env, wrong)[1] == [(0.0, False), (0.0, True)]


def test_the_seed_decides_and_all_questions_come():
    """reset(seed) repeats itself; without seeds the questions go on; 100 of them there are."""
    env = made()
    assert [question(env, s) for s in range(20)] == [question(env, s) for s in range(20)]
    env.reset(seed=0)
    asked = {env.render() for _ in range(2000) if env.reset() is not None}
    assert len(asked) == 100


def test_symbols_that_are_no_digits_are_wrong():
    """`+`, `=` and the end of sequence can be written, and are never right."""
    env = made()
    env.reset(seed=0)
    for token in (11, 12):
        obs, reward, terminated, _, _ = env.step(token)
    assert (reward, terminated) == (0.0, True)
    assert obs[4:6].tolist() == [11, 12]
    assert env.render().endswith("==.")


def test_partial_credit():
    """Half the tokens right is half the reward."""
    env = made(partial_credit=True, operand_max=4)
    for seed in range(10):
        text = question(env, seed)
        total = int(text[0]) + int(text[2])
        assert answered(env, f"{(total + 1) % 10:02d}")[1][-1] == (0.5, True)


def test_larger_operands_fit():
    """Sums up to 49+49: at most eight tokens, the answer in two digits."""
    env = made(operand_max=49)
    longest = 0
    for seed in range(300):
        obs, _ = env.reset(seed=seed)
        a, b = env.render().rstrip("=").split("+")
        assert answered(env, f"{int(a) + int(b):02d}")[1][-1] == (1.0, True)
        longest = max(longest, int((obs != 13).sum()) + 2)
    assert longest == 8


def test_reverse():
    """Three digits, backwards."""
    env = made(task="reverse")
    text = question(env, 5)
    digits = text.rstrip("=")
    assert len(digits) == 3
    assert answered(env, digits[::-1])[1] == [(0.0, False), (0.0, False), (1.0, True)]


def test_demonstrations():
    """The share answered wrongly is `corrupt`; wrong answers are any other; the seed alone decides."""
    env = made(corrupt=0.7)
    env.reset(seed=3)
    before = env.render()
    right, answers = 0, set()
    for seed in range(2000):
        (first, tens), (second, ones) = env.demonstration(seed)
        assert first in env.observation_space
        assert second[4] == tens
        assert first[4:].tolist() == [13, 13, 13, 13]
        right += 10 * tens + ones == first[0] + first[2]
        answers.add((tens, ones))
    assert abs(right / 2000 - 0.3) < 4 * (0.21 / 2000) ** 0.5
    assert len(answers) == 100
    assert env.render() == before, "demonstrating leaves the episode alone"
    again = env.demonstration(7)
    assert all(np.array_equal(a, b) and x == y for (a, x), (b, y) in zip(env.demonstration(7), again, strict=True))
    for corrupt, expected in ((0.0, 1.0), (1.0, 0.0)):
        shown = [made(corrupt=corrupt).demonstration(seed) for seed in range(200)]
        assert np.mean([10 * d[0][1] + d[1][1] == d[0][0][0] + d[0][0][2] for d in shown]) == expected


@pytest.mark.parametrize(
    "kwargs",
    [
        {"operand_max": 50},
        {"operand_max": 0},
        {"task": "divide"},
        {"corrupt": 1.1},
        {"task": "reverse", "operand_max": 12},
    ],
)
def test_refuses(kwargs):
    """One line, naming what it takes."""
    with pytest.raises(ConfigError, match=r"env\.kwargs: 'ArithQA-v0' refuses"):
        env_spec(config("ArithQA-v0", **kwargs))


def test_is_registered_and_replayed():
    """By its plain id; in mid-answer brought back exactly."""
    assert "ArithQA-v0" in registered_ids()
    assert metadata("ArithQA-v0")["transcripts"]
    env, other = (make_vector_env(config("ArithQA-v0"), [1, 2], 3, training=True) for _ in range(2))
    env.reset()
    for token in (1, 2, 3):
        env.step(np.full(6, token))
    other.load_state_dict(env.state_dict())
    ours, theirs = env.step(np.arange(6)), other.step(np.arange(6))
    assert np.array_equal(ours.obs, theirs.obs)
    assert np.array_equal(ours.reward, theirs.reward)


def test_a_transformer_reads_it_unless_told_otherwise():
    """The environment's file chooses the network; the command line has the last word."""
    assert load_config("algo=ppo env=ArithQA-v0").network.name == "transformer"
    assert load_config("algo=ppo env=ArithQA-v0 network=mlp").network.name == "mlp"
    assert load_config("algo=ppo env=CartPole-v1").network.name == "auto"
