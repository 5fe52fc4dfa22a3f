"""Atari games as DQN saw them: gymnasium's AtariPreprocessing, FIRE at the start, and lives as episodes in training."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, TimeLimit

from deeprl_cli.errors import ConfigError
from deeprl_cli.schema.run import AtariConfig

LIFE_LOST = "life_lost"  # key in `info`: terminated for learning, yet the game goes on

Env = gym.Env[Any, Any]


def preprocess(env_id: str, env: Env, config: AtariConfig, max_episode_steps: int | None, *, training: bool) -> Env:
    """A raw game (frameskip 1) with skipping, max-pooling, grayscale and resizing; observations (H, W) uint8.

    `max_episode_steps` counts agent steps. Raises ConfigError for an environment that isn't an Atari game.
    """
    if not hasattr(env.unwrapped, "ale"):
        raise ConfigError(f"env.atari.enabled=true: '{env_id}' is no Atari game; leave it false")
    try:
        env = AtariPreprocessing(
            env,
            noop_max=config.noop_max,
            frame_skip=config.frame_skip,
            screen_size=config.screen_size,
            terminal_on_life_loss=False,
            grayscale_obs=True,
        )
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError("Atari preprocessing needs opencv: pip install 'deeprl-cli[atari]'") from error
    if max_episode_steps is not None:
        env = TimeLimit(env, max_episode_steps)
    return AtariLives(env, config.fire_reset, terminal_on_life_loss=training and config.terminal_on_life_loss)


class AtariLives(gym.Wrapper[Any, Any, Any, Any]):
    """FIRE where a game waits for it, and (in training) a lost life as a termination within the same game.

    At a lost life the game moves on by one no-op (and FIRE) within the same step(): terminated=True, LIFE_LOST in
    info, and the following reset() returns the position reached instead of a new game. Rewards of those moves, and of
    FIRE at a game's start, count in the step before or after, so that the sum is the game's own score.
    """

    def __init__(self, env: Env, fire_reset: bool, *, terminal_on_life_loss: bool) -> None:
        super().__init__(env)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        fires = fire_reset and len(meanings) >= 3 and meanings[1] == "FIRE"
        self._opening = [1] if fires else []
        self._by_life = terminal_on_life_loss
        self._lives = 0
        self._waiting: Any = None  # the observation to go on with after a lost life
        self._carried = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, self._waiting = self._waiting, None
        if observation is not None and seed is None:
            return observation, {}
        observation, info = self.env.reset(seed=seed, options=options)
        observation, self._carried, over, _ = self._move(self._opening, observation)
        if over:
            observation, info = self.env.reset()
        self._lives = self._count()
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, gained, terminated, truncated, info = self.env.step(action)
        reward = float(gained) + self._carried
        self._carried = 0.0
        lives, before = self._count(), self._lives
        self._lives = lives
        if self._by_life and 0 < lives < before and not (terminated or truncated):
            after, gained, over, cut = self._move([0, *self._opening], observation)
            self._lives = self._count()
            reward += gained
            if over:
                return after, reward, not cut, cut, info
            self._waiting = after
            return observation, reward, True, False, {**info, LIFE_LOST: True}
        return observation, reward, terminated, truncated, info

    def _move(self, actions: list[int], observation: Any) -> tuple[Any, float, bool, bool]:
        """Play `actions`: last observation, reward gained, whether the game is over, whether only by a limit."""
        gained = 0.0
        for action in actions:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            gained += float(reward)
            if terminated or truncated:
                return observation, gained, True, not terminated
        return observation, gained, False, False

    def _count(self) -> int:
        return int(self.env.unwrapped.ale.lives())  # type: ignore[attr-defined]
