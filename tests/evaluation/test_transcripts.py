"""Episodes as text: the same questions before and after, ticks for right and wrong, in `train` and in `eval`."""

from __future__ import annotations

import json

import pytest

from deeprl_cli.cli import main
from deeprl_cli.config.compose import load_config
from deeprl_cli.envs.look import has_transcripts
from deeprl_cli.envs.make import env_spec
from deeprl_cli.evaluation.transcripts import Transcript, in_a_row, transcripts
from deeprl_cli.policy import make_policy
from tests.contract.harness import short_run, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A policy that has seen no wrong answer, of two seeds."""
    place = tmp_path_factory.mktemp("run") / "run"
    options = ["env.kwargs.corrupt=0", "env.kwargs.operand_max=1", "total_steps=12000", "algo.lr=0.003", "seeds=2"]
    return trained(short_run("bc", place, *options, "network=mlp", "algo.batch_size=60", "eval.every=0"))[0]


def evaluated(run, capsys, *flags):
    main(["eval", str(run), "--checkpoint", "last", "--episodes", "20", *flags])
    return capsys.readouterr().out


def test_a_row():
    assert in_a_row("greedy", [Transcript("1+1=02", 1.0), Transcript("1+2=04", 0.5)]) == (
        "greedy, 1 of 2 right:\n  1+1=02 ✓   1+2=04 ✗"
    )


def test_who_has_them():
    assert has_transcripts("ArithQA-v0")
    assert not has_transcripts("CartPole-v1")
    assert not has_transcripts("deeprl/Chain-v0")


def test_eval_shows_greedy_answers_and_sampled_ones(run, capsys):
    """Ten of each seed, questions of the run's environment; sampling answers otherwise, to the same questions."""
    greedy, sampled = evaluated(run, capsys), evaluated(run, capsys, "--stochastic")
    assert evaluated(run, capsys) == greedy
    for said, how in ((greedy, "greedy"), (sampled, "sampled")):
        for seed in (0, 1):
            (position,) = [i for i, line in enumerate(said.splitlines()) if line.startswith(f"{how}, seed {seed}")]
            title, row = said.splitlines()[position : position + 2]
            episodes = row.strip().split("   ")
            assert len(episodes) == 10
            right = 0
            for episode in episodes:
                text, mark = episode.split()
                question, answer = text.split("=", 1)
                a, b = map(int, question.split("+"))
                assert a in (0, 1)
                assert (answer == f"{a + b:02d}") == (mark == "✓")
                right += mark == "✓"
            assert f"{right} of 10 right" in title
    assert greedy.count("✓") > 12, "four questions, learned"
    assert "greedy" not in sampled
    questions = [[part[:4] for part in said.split() if "=" in part and "+" in part] for said in (greedy, sampled)]
    assert questions[0] == questions[1]


def test_eval_json(run, capsys):
    """As [text, return], for the seeds asked."""
    report = json.loads(evaluated(run, capsys, "--json", "--seed", "1"))
    (shown,) = report["transcripts"]
    assert len(shown) == 10
    assert all(len(text) == 6 and reward in (0.0, 1.0) for text, reward in shown)


def test_train_shows_the_first_seed_before_and_after(tmp_path, capsys):
    """The same questions both times; an environment without transcripts shows nothing."""
    options = ["hardware.compile=false", "log.tensorboard=false", "eval.every=0", "eval.final_episodes=2"]
    small = ["total_steps=256", "tuned=none", f"run_dir={tmp_path / 'run'}", *options]
    main(["train", "algo=bc", "env=ArithQA-v0", "network=mlp", "seed=5", *small])
    said = capsys.readouterr().out.splitlines()
    rows = {}
    for when in ("before training", "after training"):
        (position,) = [i for i, line in enumerate(said) if line.startswith(f"{when}, greedy, seed 5, ")]
        rows[when] = [part[:4] for part in said[position + 1].split() if "+" in part]
    assert len(rows["before training"]) == 10
    assert rows["before training"] == rows["after training"]
    main(
        ["train", "algo=ppo", "env=CartPole-v1", "total_steps=64", "tuned=none", *options, f"run_dir={tmp_path / 'b'}"]
    )
    assert "before training" not in capsys.readouterr().out


def test_seeds_have_questions_of_their_own():
    cfg = load_config("algo=bc env=ArithQA-v0 network=mlp seeds=2")
    policy = make_policy(cfg, env_spec(cfg.env))
    first, second = (transcripts(policy, cfg, index) for index in (0, 1))
    assert [t.text[:4] for t in first] != [t.text[:4] for t in second]
    assert first == transcripts(policy, cfg, 0)
    assert first != transcripts(policy, cfg, 0, stochastic=True)
