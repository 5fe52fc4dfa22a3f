"""Episodes played without torch are those that an evaluation plays: the same observations, actions and returns."""

from __future__ import annotations

import numpy as np
import pytest

from deeprl_cli.config.compose import load_config
from deeprl_cli.deploy.exporting import card_for, policy_input
from deeprl_cli.deploy.loading import Kept
from deeprl_cli.deploy.play import play, recorded
from deeprl_cli.deploy.trained import TrainedPolicy
from deeprl_cli.envs.own_terms import own_terms
from deeprl_cli.evaluation.episodes import FRESH
from deeprl_cli.evaluation.evaluate import eval_envs, evaluate
from deeprl_cli.policy import make_policy
from tests.contract.harness import shaken

ENVIRONMENTS = {
    "vector": "algo=sac env=Pendulum-v1",
    "stacked vector": "algo=ppo env=CartPole-v1 env.frame_stack=3 algo.normalize_obs=true",
    "choice": "algo=dqn env=FrozenLake-v1 network=tabular",
    "stacked choice": "algo=ppo env=FrozenLake-v1 env.frame_stack=2",
    "tuple": "algo=ppo env=Blackjack-v1",
    "dictionary of texts": "algo=ppo env=MiniGrid-Empty-5x5-v0 env.max_episode_steps=20",
    "image": "algo=dqn env=deeprl/PixelCatch-v0 network=mlp env.frame_stack=2",
}
ATARI = "algo=dqn env=ALE/Pong-v5 env.atari.enabled=true env.frame_stack=4 env.max_episode_steps=60"


def same_episodes(overrides, episodes):
    cfg = load_config([*overrides.split(), "tuned=none", "algo.hidden=[8]"])
    terms = own_terms(cfg.env)
    policy = TrainedPolicy(shaken(make_policy(cfg, terms.spec)), terms)

    def act(stacks):
        return terms.acted(policy.inner.act(terms.seen(list(stacks)), None), many=True)

    envs = eval_envs(cfg, [cfg.seed + FRESH], episodes)
    expected = evaluate(policy.inner, envs, episodes)
    envs.close()
    found = play(cfg.env, cfg.eval.max_steps, terms, act, episodes, cfg.seed)
    np.testing.assert_array_equal(found.lengths, expected.lengths[0])
    np.testing.assert_allclose(found.returns, expected.returns[0], rtol=1e-5)
    seen = recorded(cfg.env, cfg.eval.max_steps, terms, act, 25, cfg.seed)
    card = card_for(Kept(policy, cfg.seed, "last", 0), cfg, False)
    assert list(seen.shape[1:]) == card.observation.shape == list(policy_input(policy, 2).shape[1:])
    assert card.frame_stack == (cfg.env.frame_stack if cfg.env.frame_stack > 1 else 0)


@pytest.mark.parametrize("overrides", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_episodes_of_an_evaluation(overrides):
    same_episodes(overrides, 12)


@pytest.mark.slow
def test_the_episodes_of_an_atari_game():
    """Skipped frames, no-ops and FIRE are the environment's part; the small grey frames are stacked."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    same_episodes(ATARI, 2)
