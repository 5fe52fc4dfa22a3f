"""Training throughput of a peer library on one job, as one line of JSON.

Usage: python peers.py sb3|sbx JOB [--threads N] [--steps N], with the Python of the peer's own environment. The
hyper-parameters of a job are those that speed.py gives to deeprl.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from importlib.metadata import version

WARM_UP_STEPS = 2_048  # first episodes, exploration without learning, JAX's compilation
DISTRIBUTIONS = {"sb3": "stable-baselines3", "sbx": "sbx-rl"}

PONG = "PongNoFrameskip-v4"

# job: algorithm, environment, how many of them (None: not a vector), arguments, environment steps to time
JOBS = {
    "sac": ("SAC", "Pendulum-v1", None, {"learning_starts": 100}, 2_000),
    "td3": (
        "TD3",
        "Pendulum-v1",
        None,
        {"learning_starts": 100, "batch_size": 256, "policy_kwargs": {"net_arch": [256, 256]}},
        2_000,
    ),
    "dqn": (
        "DQN",
        "CartPole-v1",
        None,
        {"learning_starts": 100, "batch_size": 64, "train_freq": 1, "gradient_steps": 1},
        8_000,
    ),
    "ppo": ("PPO", "CartPole-v1", 8, {"n_steps": 32, "batch_size": 256, "n_epochs": 20}, 60_000),
    "ppo_default": ("PPO", "CartPole-v1", 1, {}, 20_480),
    "a2c": ("A2C", "CartPole-v1", 8, {}, 80_000),
    "ppo_pixels": (
        "PPO",
        PONG,
        8,
        {
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 4,
            "learning_rate": 2.5e-4,
            "clip_range": 0.1,
            "ent_coef": 0.01,
        },
        4_096,
    ),
    "dqn_pixels": (
        "DQN",
        PONG,
        1,
        {"learning_starts": 1_000, "train_freq": 4, "buffer_size": 10_000, "target_update_interval": 1_000},
        4_000,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=DISTRIBUTIONS)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()

    import gymnasium as gym
    import torch
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(options.threads)
    algorithm, env_id, num_envs, arguments, steps = JOBS[options.job]
    steps = options.steps or steps
    if env_id == PONG:
        gym.register_envs(import_module("ale_py"))
        env = VecFrameStack(make_atari_env(env_id, num_envs), 4)
    else:
        env = gym.make(env_id) if num_envs is None else make_vec_env(env_id, num_envs)
    library = import_module("stable_baselines3" if options.library == "sb3" else "sbx")
    model = getattr(library, algorithm)("CnnPolicy" if env_id == PONG else "MlpPolicy", env, **arguments)
    model.learn(min(WARM_UP_STEPS, steps))
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    done = model.num_timesteps - before  # on-policy: whole rollouts
    result = {
        "library": options.library,
        "version": version(DISTRIBUTIONS[options.library]),
        "job": options.job,
        "threads": options.threads,
        "steps": done,
        "seconds": seconds,
        "steps_per_second": done / seconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
