"""`eval.episodes=auto`: evaluations keep to their share of the work of training."""

import numpy as np
import pytest

from deeprl_cli.evaluation.evaluate import Evaluation
from deeprl_cli.schema.course import EvalConfig
from deeprl_cli.training.evaluating import Evaluating


def rule(seeds=1, episodes="auto", share=0.1):
    cfg = EvalConfig(every=1000, episodes=episodes, share=share, gradient_cost=20, final_episodes=100, max_steps=10_000)
    return Evaluating(cfg, seeds, None)


def played(*lengths):
    """An evaluation of a row of episodes for each seed."""
    most = max(map(len, lengths))
    rows = np.array([[*row, *[0] * (most - len(row))] for row in lengths])
    returns = np.where(rows > 0, 1.0, np.nan)
    return Evaluation(returns, rows, returns, None)


def test_ten_episodes_and_fewer_where_they_are_long():
    evaluating = rule()
    assert evaluating.episodes([1000], [0]) == [10]  # nothing is known yet
    evaluating.count(played([5] * 10))
    assert evaluating.episodes([2000], [0]) == [10]  # a tenth of 2,000, less 50: thirty would fit
    evaluating.count(played([50] * 10))
    assert evaluating.played == [[550, 50.0]]
    assert evaluating.episodes([7000], [0]) == [3]  # 700 less 550
    assert evaluating.episodes([3000], [0]) == [1]  # at least one


def test_gradient_steps_are_work_too():
    evaluating = rule()
    evaluating.count(played([100] * 10))
    assert evaluating.episodes([1000], [100]) == [1]
    assert evaluating.episodes([1000], [950]) == [10]  # a tenth of 1,000 + 20 · 950, less 1,000


def test_each_seed_for_itself():
    evaluating = rule(seeds=3)
    evaluating.count(played([10] * 10, [100] * 4, []))
    assert evaluating.played == [[100, 10.0], [400, 100.0], [0, 0.0]]  # the last one had left
    assert evaluating.episodes([6000] * 3, [0] * 3) == [10, 2, 10]


@pytest.mark.parametrize("number", [1, 25])
def test_a_number_that_is_given_stays(number):
    evaluating = rule(seeds=2, episodes=number)
    evaluating.count(played([1000], [1000]))
    assert evaluating.episodes([1000] * 2, [0] * 2) == [number] * 2
