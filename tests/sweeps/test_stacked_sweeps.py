"""`hydra/launcher=stacked`: jobs that differ in what members may have of their own train as one."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import gymnasium
import pytest
import torch

from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import look
from deeprl_cli.envs.testing import Chain
from deeprl_cli.runs.checkpoint import load_checkpoint
from deeprl_cli.runs.group_record import read_group
from deeprl_cli.runs.reading import read_run
from deeprl_cli.schema.typed import to_plain
from deeprl_cli.sweeps.groups import grouped
from deeprl_cli.training.base import Trainer

SMALL = [
    "tuned=none",
    "algo.num_envs=2",
    "algo.hidden=[8]",
    "hardware.compile=false",
    "hardware.threads=1",
    "total_steps=256",
    "log.every=64",
    "eval.every=128",
    "eval.episodes=2",
    "eval.final_episodes=2",
    "checkpoint.every=64",
    "log.tensorboard=false",
    "env=test/SweptTrouble-v0",
]
PPO = ["algo=ppo", "algo.rollout_length=16", "algo.batch_size=16", "algo.epochs=2", *SMALL]


class Trouble(Chain):
    """Raises at its so many-th step."""

    def __init__(self, breaks_at=0, **options):
        super().__init__(**options)
        self.breaks_at, self.steps = breaks_at, 0

    def step(self, action):
        self.steps += 1
        if self.steps == self.breaks_at:
            raise ZeroDivisionError("the joint broke")
        return super().step(action)


if "test/SweptTrouble-v0" not in gymnasium.registry:
    gymnasium.register("test/SweptTrouble-v0", Trouble, max_episode_steps=12)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def code(*arguments):
    try:
        main(list(arguments))
    except SystemExit as stop:
        return stop.code
    return 0


def stacked(*overrides, folder="sweep"):
    return code("train", "-m", *overrides, "hydra/launcher=stacked", f"hydra.sweep.dir={folder}")


def jobs(folder="sweep"):
    return json.loads((Path(folder) / "sweep.json").read_text())["jobs"]


def runs(folder="sweep"):
    return [Path(job["run"]) for job in jobs(folder)]


def chain(run):
    return (run / "weights.sha256").read_text()


def weights(run):
    return load_checkpoint(run / "checkpoints" / "last").state["policy"]["algorithm.model.flat"]


def rows(run, seed):
    with (run / f"seed_{seed}" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# ---- whole sweeps


def test_each_job_leaves_a_run_of_its_own(capsys):
    """Two learning rates times two environments' kwargs times two seeds, in one group; each is what it is alone."""
    swept = ["algo.lr=1e-3,1e-2", "env.kwargs.slip=0.0,0.3", "seed=3,5"]
    assert stacked(*PPO, *swept) == 0
    assert "sweep of 8 runs in 1 group" in capsys.readouterr().out
    assert [job["status"] for job in jobs()] == ["done"] * 8
    assert len(set(runs())) == 8
    for run, job in zip(runs(), jobs(), strict=True):
        _, cfg = read_run(run)
        own = dict(text.split("=") for text in job["overrides"])
        assert (cfg.algo.lr, cfg.env.kwargs["slip"], cfg.seed) == (
            float(own["algo.lr"]),
            float(own["env.kwargs.slip"]),
            int(own["seed"]),
        )
        assert len(rows(run, cfg.seed)) > 3
        summary = json.loads((run / "summary.json").read_text())
        assert summary["status"] == "finished"
        assert job["seconds"] == round(summary["wall_seconds"] / 8, 1)  # its share, so that a setting's can be added up
        assert (run / "checkpoints" / "best" / f"seed_{cfg.seed}.safetensors").exists()
    assert len({chain(run) for run in runs()}) == 8
    seventh = runs()[6]
    assert code("train", *PPO, *jobs()[6]["overrides"][-3:], "run_dir=alone") == 0
    torch.testing.assert_close(weights(seventh), weights(Path("alone")), rtol=1e-3, atol=1e-4)
    ours, theirs = rows(seventh, 3), rows(Path("alone"), 3)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row["rollout/return_mean"] for row in ours] == [row["rollout/return_mean"] for row in theirs]

    capsys.readouterr()
    assert code("eval", str(seventh), "--episodes", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [3]
    assert code("verify", str(seventh)) == 0
    assert "with the 7 others of its group" in capsys.readouterr().out
    assert code("train", *PPO, f"init_from={seventh}", "run_dir=later") == 0


def interrupted_at(step, monkeypatch):
    """Ctrl-C, when a trainer comes to this step."""
    stopped = []

    def log(self):
        if self.steps >= step and not stopped:
            stopped.append(self.steps)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    original = Trainer.log
    monkeypatch.setattr(Trainer, "log", log)


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize(
    "algo",
    [
        PPO,
        ["algo=dqn", "algo.learning_starts=32", "algo.batch_size=8", *SMALL],
        pytest.param(
            [
                "algo=dqn",
                "algo.learning_starts=32",
                "algo.batch_size=8",
                *SMALL[:-1],
                "env=deeprl/PixelCatch-v0",
                "env.frame_stack=2",
            ],
            marks=pytest.mark.slow,
        ),
        ["algo=reinforce", *SMALL],
    ],
    ids=["ppo", "dqn", "pixels", "reinforce"],
)
def test_a_sweep_goes_on_bit_for_bit(algo, how, monkeypatch, capsys):
    """Interrupted, or killed with checkpoints of different steps: the same weights as without."""
    lr = "algo.lr_actor" if "algo=reinforce" in algo else "algo.lr"
    swept = [f"{lr}=1e-3,1e-2", "seed=3,5"]
    assert stacked(*algo, *swept, folder="whole") == 0
    with monkeypatch.context() as patch:
        if how == "stopped":
            interrupted_at(128, patch)
            assert stacked(*algo, *swept) == 130
            assert {job["status"] for job in jobs()} == {"stopped"}
        else:
            kill_while_saving(patch)
            with pytest.raises(Killed):
                stacked(*algo, *swept)
            assert {job["status"] for job in jobs()} == {"running"}
            steps = [load_checkpoint(run / "checkpoints" / "last").state["together"] for run in runs()]
            assert len(set(steps)) == 2
    assert code("resume", "sweep") == 0
    assert [job["status"] for job in jobs()] == ["done"] * 4
    for run, whole in zip(runs(), runs("whole"), strict=True):
        assert chain(run) == chain(whole)
        drop = [key for key in rows(run, 3 if (run / "seed_3").exists() else 5)[0] if key.startswith("time/")]
        seed = read_run(run)[1].seed
        kept = [[{k: v for k, v in row.items() if k not in drop} for row in rows(r, seed)] for r in (run, whole)]
        assert kept[0] == kept[1]
    assert code("resume", "sweep") == 2


class Killed(BaseException):
    pass


def kill_while_saving(patch):
    """The process dies between the second checkpoints of two runs."""
    from deeprl_cli.training import share

    saved = []

    def save(folder, *arguments, **options):
        if len(saved) == 6:
            raise Killed
        saved.append(folder)
        original(folder, *arguments, **options)

    original = share.save_checkpoint
    patch.setattr(share, "save_checkpoint", save)


def test_a_job_resumed_alone_says_so(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupted_at(128, patch)
        assert stacked(*PPO, "algo.lr=1e-3,1e-2") == 130
    first = runs()[0]
    capsys.readouterr()
    assert code("resume", str(first)) == 0
    assert "trained side by side with 1 other" in capsys.readouterr().out
    assert json.loads((first / "summary.json").read_text())["status"] == "finished"
    assert code("verify", str(first)) == 0
    assert "from step 128 on it trained without the others" in capsys.readouterr().out
    before = chain(first)
    assert code("resume", "sweep") == 0, "the other one goes on, as it would have beside this one"
    assert chain(first) == before
    assert json.loads((runs()[1] / "summary.json").read_text())["status"] == "finished"
    assert code("verify", str(runs()[1])) == 0


@pytest.mark.parametrize(
    ("swept", "why"),
    [
        (["env.kwargs.breaks_at=0,60"], "the joint broke"),
        (["env.kwargs.step_reward=0,1e38", "algo.normalize_advantage=false"], "no update of any seed was finite"),
    ],
    ids=["raises", "diverges"],
)
def test_a_member_ends_alone(swept, why, capsys):
    """Its run has failed, and says why; the other one is what it is beside a healthy one, bit for bit."""
    assert stacked(*PPO, *swept) == 1
    assert [job["status"] for job in jobs()] == ["done", "failed"]
    assert why in jobs()[1]["error"]
    told = capsys.readouterr()
    assert why in told.err
    summary = json.loads((runs()[1] / "summary.json").read_text())
    assert summary["status"] == "failed"
    healthy = [text.rpartition(",")[0] + ",0.0" if "step_reward" in text else text for text in swept]
    healthy = [text.replace("0,60", "0,6000") for text in healthy]
    assert stacked(*PPO, *healthy, folder="well") == 0
    assert [job["status"] for job in jobs("well")] == ["done"] * 2
    assert chain(runs()[0]) == chain(runs("well")[0])
    assert rows(runs()[0], 0)[-1]["eval/return_mean"] == rows(runs("well")[0], 0)[-1]["eval/return_mean"]
    assert math.isfinite(json.loads((runs()[0] / "summary.json").read_text())["eval"]["return_mean"][0])


def test_where_all_members_fail_the_sweep_says_so(capsys):
    assert stacked(*PPO, "env.kwargs.breaks_at=40,60") == 1
    assert [job["status"] for job in jobs()] == ["failed"] * 2
    assert all("the joint broke" in job["error"] for job in jobs())
    assert "0 of 2 runs done" in capsys.readouterr().out


def test_a_job_of_several_seeds_is_as_many_members():
    assert stacked(*PPO, "algo.gamma=0.9,0.99", "seeds=2") == 0
    for run in runs():
        number, group, folders = read_group(*read_run(run))
        assert [job.algo.gamma for job in group] == [0.9, 0.99]
        assert str(folders[number]) == str(run)
        assert (run / "seed_0").exists()
        assert (run / "seed_1").exists()
        assert weights(run).shape[0] == 2


# ---- which jobs train together


def groups_of(*overrides, **options):
    """The groups of the jobs that these overrides are, each a list."""
    configs = [load_config(["tuned=none", *job]) for job in overrides]
    looks = {str(to_plain(cfg.env)): cfg.env for cfg in configs}
    seen = {key: look(env) for key, env in looks.items()}
    return grouped([(cfg, seen[str(to_plain(cfg.env))]) for cfg in configs], **options)


def test_what_changes_structure_splits():
    assert groups_of(["algo=ppo"], ["algo=ppo", "algo.lr=1"], ["algo=a2c"], ["algo=ppo", "seed=4", "seeds=2"]) == [
        [0, 1, 3],
        [2],
    ]
    for option in ("clip_norm=null", "lr_schedule=linear", "epochs=3", "num_envs=4", "hidden=[8]"):
        assert groups_of(["algo=ppo"], ["algo=ppo", f"algo.{option}"]) == [[0], [1]], option
    assert groups_of(["algo=ppo"], ["algo=ppo", "total_steps=7"], ["algo=ppo", "eval.every=0"]) == [[0], [1], [2]]
    sac = ["algo=sac", "env=Pendulum-v1"]
    assert groups_of(sac, [*sac, "algo.alpha=0.2"], [*sac, "algo.alpha=0.3"], [*sac, "algo.alpha_init=2"]) == [
        [0, 3],
        [1, 2],
    ]
    assert groups_of(["algo=grpo"], ["algo=grpo", "algo.kl.coef=0.1"], ["algo=grpo", "algo.kl.coef=0.2"]) == [
        [0],
        [1, 2],
    ]
    dqn = ["algo=dqn", "env=deeprl/Chain-v0"]
    assert groups_of(dqn, [*dqn, "algo.rho=null", "algo.tau=0.1"], [*dqn, "algo.rho=0.9"]) == [[0, 2], [1]]


def test_environments_stand_together_where_their_spaces_are_the_same():
    chains = [["algo=dqn", "env=deeprl/Chain-v0", f"env.kwargs.{option}"] for option in ("slip=0.1", "length=9")]
    plain = ["algo=dqn", "env=deeprl/Chain-v0"]
    assert groups_of(plain, *chains) == [[0, 1], [2]]
    asynchronous = [[*job, "env.backend=async"] for job in (plain, chains[0])]
    assert groups_of(*asynchronous) == [[0], [1]]


def test_too_many_members_split(monkeypatch):
    jobs_of_two = [["algo=ppo", f"seed={seed}", "seeds=2"] for seed in range(3)]
    assert groups_of(*jobs_of_two, most=4) == [[0, 1], [2]]
    assert groups_of(*jobs_of_two, most=1) == [[0], [1], [2]]
    monkeypatch.setattr("deeprl_cli.sweeps.groups.free_bytes", lambda device: 60 << 20)
    large = load_config(["algo=dqn", "tuned=none", "algo.buffer_capacity=100000"])
    seen = look(large.env)
    thirty = [(dataclasses.replace(large, seed=seed), seen) for seed in range(30)]
    found = grouped(thirty)
    assert 2 < len(found) < 30
    assert sorted(number for group in found for number in group) == list(range(30))
    assert len(grouped(thirty, at_a_time=2)) >= 2 * len(found) - 1
