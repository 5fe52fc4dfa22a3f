"""A peer's whole script for one job: train with RL Zoo's values, then play, and say the return as one line of JSON.

Usage: python door_peers.py sb3|sbx JOB [--seed N] [--evaluation-steps N], with the Python of the peer's environment.
The values are those of deeprl's tuned files for the same pair.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

THREADS = 1
EPISODES = 100  # of the final return
ENVS = 10  # side by side while evaluating


def falling(value: float) -> Callable[[float], float]:
    """From `value` to 0 over the run."""
    return lambda left: left * value


# job: algorithm, environment, how many of them, total steps, arguments
JOBS: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "ppo": (
        "PPO",
        "CartPole-v1",
        8,
        100_000,
        {
            "n_steps": 32,
            "batch_size": 256,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "learning_rate": falling(1e-3),
            "clip_range": falling(0.2),
        },
    ),
    "a2c": ("A2C", "CartPole-v1", 8, 500_000, {}),
    "dqn": (
        "DQN",
        "CartPole-v1",
        1,
        50_000,
        {
            "policy_kwargs": {"net_arch": [256, 256]},
            "buffer_size": 100_000,
            "batch_size": 64,
            "learning_starts": 1_000,
            "train_freq": 256,
            "gradient_steps": 128,
            "learning_rate": 2.3e-3,
            "target_update_interval": 10,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
        },
    ),
    "sac": ("SAC", "Pendulum-v1", 1, 20_000, {"learning_rate": 1e-3}),
    "cheetah": (
        "PPO",
        "HalfCheetah-v5",
        1,
        100_000,
        {
            "policy_kwargs": {"log_std_init": -2, "ortho_init": False, "net_arch": [256, 256], "activation_fn": "ReLU"},
            "n_steps": 512,
            "batch_size": 64,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.92,
            "learning_rate": 2.0633e-5,
            "clip_range": 0.1,
            "max_grad_norm": 0.8,
            "vf_coef": 0.58096,
            "ent_coef": 4.01762e-4,
        },
    ),
}
NORMALISED = ("cheetah",)  # observations and rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["sb3", "sbx"])
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluation-steps", type=int, default=0, help="steps of evaluations on the way, played too")
    options = parser.parse_args()

    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(THREADS)
    algorithm, env_id, num_envs, steps, arguments = JOBS[options.job]
    if "activation_fn" in arguments.get("policy_kwargs", {}):
        name = arguments["policy_kwargs"]["activation_fn"]  # torch's word for it; flax has a function
        own = (
            getattr(import_module("flax.linen"), name.lower()) if options.library == "sbx" else getattr(torch.nn, name)
        )
        arguments["policy_kwargs"]["activation_fn"] = own
    library = import_module("stable_baselines3" if options.library == "sb3" else "sbx")
    train, played = make_vec_env(env_id, num_envs), make_vec_env(env_id, ENVS, seed=options.seed + 1_000)
    if options.job in NORMALISED:
        train = VecNormalize(train, gamma=arguments["gamma"])
    model = getattr(library, algorithm)("MlpPolicy", train, seed=options.seed, **arguments)
    model.learn(steps)
    if options.job in NORMALISED:
        played = VecNormalize(played, training=False, norm_reward=False)
        played.obs_rms = train.obs_rms
    returns, lengths = evaluate_policy(model, played, EPISODES, return_episode_rewards=True)
    obs = played.reset()
    for _ in range(max(0, options.evaluation_steps - sum(lengths)) // ENVS):
        obs = played.step(model.predict(obs, deterministic=True)[0])[0]
    print(json.dumps({"return": sum(returns) / len(returns)}))


if __name__ == "__main__":
    main()
