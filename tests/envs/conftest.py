"""Environments made for these tests, and their configuration in short."""

from __future__ import annotations

import pytest

from deeprl_cli.schema.run import AtariConfig, EnvConfig
from tests.envs import probes  # noqa: F401 - registers them

ATARI_OFF = AtariConfig(
    enabled=False,
    screen_size=84,
    frame_skip=4,
    noop_max=30,
    fire_reset=True,
    clip_reward=True,
    terminal_on_life_loss=True,
)


def config(env_id, backend="sync", *, atari=None, limit=None, stack=1, **kwargs):
    """An EnvConfig; `atari`: fields to change from the usual, which turns preprocessing on."""
    values = {name: getattr(ATARI_OFF, name) for name in AtariConfig.__slots__}
    if atari is not None:
        values.update(enabled=True, **atari)
    return EnvConfig(
        id=env_id,
        backend=backend,
        kwargs=kwargs,
        wrappers=[],
        max_episode_steps=limit,
        frame_stack=stack,
        channels="auto",
        generators="shared",
        origin=None,
        atari=AtariConfig(**values),
    )


@pytest.fixture
def opened():
    """Collects vector environments and closes them."""
    environments = []

    def keep(env):
        environments.append(env)
        return env

    yield keep
    for env in environments:
        env.close()
