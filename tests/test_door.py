"""benchmarks/door.py: what is typed has the values that the peers' scripts have; auto.py: it is a job.

No speed is judged.
"""

from __future__ import annotations

import pytest

from deeprl_cli.config.compose import load_config
from tests.test_benchmarks import load

door, peers, auto = load("door"), load("door_peers"), load("auto")

KEYS = {
    "n_steps": "rollout_length",
    "batch_size": "batch_size",
    "n_epochs": "epochs",
    "gamma": "gamma",
    "gae_lambda": "gae_lambda",
    "max_grad_norm": "clip_norm",
    "vf_coef": "vf_coef",
    "ent_coef": "ent_coef",
    "buffer_size": "buffer_capacity",
    "learning_starts": "learning_starts",
    "train_freq": "train_every",
    "gradient_steps": "gradient_steps",
    "target_update_interval": "target_every",
    "exploration_fraction": "epsilon.fraction",
    "exploration_final_eps": "epsilon.end",
}


@pytest.mark.parametrize("name", door.JOBS)
def test_what_is_typed_has_the_values_of_the_peers(name):
    cfg = load_config(door.JOBS[name].command.split())
    algorithm, env, num_envs, steps, arguments = peers.JOBS[name]
    assert (cfg.algo.name.upper(), cfg.env.id, cfg.algo.num_envs, cfg.total_steps) == (algorithm, env, num_envs, steps)
    for theirs, value in arguments.items():
        if theirs in KEYS:
            ours = cfg.algo
            for part in KEYS[theirs].split("."):
                ours = getattr(ours, part)
            assert ours == value, theirs
    if "learning_rate" in arguments:
        rate = arguments["learning_rate"]
        assert cfg.algo.lr_schedule == ("linear" if callable(rate) else "constant")
        rate = rate(1.0) if callable(rate) else rate
        assert rate == (cfg.algo.lr_actor if name == "sac" else cfg.algo.lr)
    if "clip_range" in arguments and callable(arguments["clip_range"]):
        assert (cfg.algo.clip_eps, cfg.algo.clip_schedule) == (arguments["clip_range"](1.0), "linear")
    assert cfg.algo.normalize_obs == cfg.algo.normalize_reward == (name in peers.NORMALISED)


def test_table():
    row = door.Row()
    for seconds, final in ((10.0, 500.0), (12.0, 480.0), (11.0, 490.0)):
        row.add("deeprl", seconds, final)
        row.add("sb3", 5 * seconds, 495.0)
        row.add("sbx", 2 * seconds, 900.0)
    _, _, sb3, sbx = door.table({"ppo": row}, cold=False)
    assert sb3.endswith("| 11.0 s | sb3 55.0 s | 5.00× | 5× | 490.0, 495.0 |")
    assert sbx.endswith("| 2.00× | 1× | 490.0, 900.0, not alike: does not count |")


@pytest.mark.parametrize("name", auto.JOBS)
def test_each_choice_is_one_of_the_hardwares(name):
    typed = auto.JOBS[name].split()
    assert load_config(typed).hardware.compile == "auto"
    offered = {called: load_config([*typed, *more]).hardware for called, more in auto.choices().items()}
    assert {called: auto.called(cfg.compile, cfg.threads) for called, cfg in offered.items()} == {n: n for n in offered}
