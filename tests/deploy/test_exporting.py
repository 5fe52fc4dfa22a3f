"""`deeprl export` and `deeprl eval FILE.onnx`: what is written, when, and what playing it earns."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import deeprl_cli as deeprl
from deeprl_cli.commands.eval import Wanted, evaluate_file, evaluate_run
from deeprl_cli.commands.eval import run as eval_command
from deeprl_cli.commands.export import run as export_command
from deeprl_cli.deploy import exporting
from deeprl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("one_onnx_registry")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """PPO on Pendulum, observations normalised and stacked; seeds 3 and 4."""
    return deeprl.train(
        ["algo=ppo", "env=Pendulum-v1", "tuned=none", "env.frame_stack=2", "hardware.compile=false"],
        quiet=True,
        seed=3,
        seeds=2,
        total_steps=128,
        run_dir=str(tmp_path_factory.mktemp("export") / "run"),
        **{
            "algo.hidden": [8],
            "algo.rollout_length": 32,
            "algo.num_envs": 2,
            "algo.batch_size": 32,
            "algo.normalize_obs": True,
            "log.tensorboard": False,
            "eval.every": 0,
            "eval.final_episodes": 1,
        },
    )


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    """Seed 4's policy, exported to ONNX, with what was said."""
    path = tmp_path_factory.mktemp("file") / "here" / "policy.onnx"
    return path, exporting.export(run.kept[4], run.config, path)


def test_a_file_says_whose_it_is(file):
    onnx = pytest.importorskip("onnx")
    path, made = file
    model = onnx.load(path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["deeprl.algo"] == "ppo"
    assert json.loads(said["deeprl.env"])["id"] == "Pendulum-v1"
    assert (said["deeprl.seed"], said["deeprl.step"], said["deeprl.checkpoint"]) == ("4", "128", "last")
    assert json.loads(said["deeprl.frame_stack"]) == 2
    assert json.loads(said["deeprl.versions"]).keys() == {"deeprl", "torch", "gymnasium"}
    assert len(said["deeprl.weights_sha256"]) == 64
    assert [i.name for i in model.graph.input] == ["obs"]
    assert [o.name for o in model.graph.output] == ["action", "scores"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert json.loads(said["deeprl.observation"])["shape"] == [2, 3]
    data = path.read_bytes()
    assert made.size == len(data)
    assert b"/site-packages/" not in data  # of this machine
    assert b"deeprl_cli" not in data


def test_each_seed_has_a_digest_of_its_own(run):
    from deeprl_cli.deploy.graph import digest

    again = deeprl.load(run.path)
    assert digest(again.policies[3]) == digest(run.policies[3]) != digest(run.policies[4])


def test_the_check_is_on_random_and_on_recorded_observations(file):
    _, made = file
    assert (made.agreement.random, made.agreement.recorded) == (512, 512)
    assert 0 < made.agreement.largest < 1e-5


def test_playing_the_file_earns_what_the_run_earns(run, file):
    told, _ = evaluate_run(run.path, Wanted(episodes=12, seed=4))
    ours, notes = evaluate_file(file[0], None, 12, None)
    assert ours["return_mean"] == pytest.approx(told["return_mean"], rel=1e-5)
    assert ours["return_std"] == pytest.approx(told["return_std"], rel=1e-4)
    assert ours["length_mean"] == told["length_mean"]
    assert (ours["seeds"], notes) == ([4], [])
    other, _ = evaluate_file(file[0], "Pendulum-v1", 12, 3)
    assert other["return_mean"] != ours["return_mean"]  # other episodes


WITHOUT_TORCH = """
import sys
from deeprl_cli.cli import run
code = run(sys.argv[1:])
assert not {"torch", "onnx", "hydra", "omegaconf"} & set(sys.modules), "loaded"
sys.exit(code)
"""


def test_a_file_is_played_without_torch(file):
    arguments = ["eval", str(file[0]), "--env", "Pendulum-v1", "--episodes", "1", "--json"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["return_mean"] == evaluate_file(file[0], None, 1, None)[0]["return_mean"]


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "sampled.onnx"
    assert export_command([str(run.path), "--stochastic", "--out", str(out), "--which", "last"]) == 0
    said = capsys.readouterr().out
    assert "ppo on Pendulum-v1, seed 3, last policy of step 128" in said
    assert "noise: float32 (batch, 1), normal" in said
    assert "obs: float32 (batch, 2, 3), the last 2 frames of Pendulum-v1" in said
    assert "the last 2 frames must be kept by you" in said
    assert "largest difference from the policy" in said
    assert f"deeprl eval {out} --env Pendulum-v1" in said
    assert eval_command([str(out), "--episodes", "1"]) == 0
    assert "actions are sampled" in capsys.readouterr().out


OPENED_BY_TORCH_ALONE = """
import sys, json, torch, numpy as np
extra = {"deeprl.json": ""}
policy = torch.export.load(sys.argv[1], extra_files=extra).module()
action, scores = policy(torch.from_numpy(np.load(sys.argv[2])))
assert "deeprl_cli" not in sys.modules
print(json.dumps([json.loads(extra["deeprl.json"])["algo"], action.tolist()]))
"""


@pytest.mark.slow
def test_torch_alone_opens_its_file(run, tmp_path):
    path = tmp_path / "policy.pt2"
    assert exporting.export(run.kept[4], run.config, path, to="torch").agreement.holds()
    stacks = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    np.save(tmp_path / "obs.npy", stacks)
    done = subprocess.run(
        [sys.executable, "-c", OPENED_BY_TORCH_ALONE, str(path), str(tmp_path / "obs.npy")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    algo, actions = json.loads(done.stdout)
    assert algo == "ppo"
    np.testing.assert_allclose(actions, run.policies[4].act(stacks), atol=1e-6)


def test_nothing_is_written_that_disagrees(run, tmp_path, monkeypatch):
    path = tmp_path / "policy.pt2"
    path.write_bytes(b"an older one")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"not written: its answers differ from the policy's by"):
        exporting.export(run.kept[4], run.config, path, to="torch")
    assert path.read_bytes() == b"an older one"
    assert list(tmp_path.iterdir()) == [path]


def test_mistakes_are_one_line(run, file, tmp_path, monkeypatch):
    kept, cfg = run.kept[3], run.config
    with pytest.raises(UserError, match=r"a file for onnx ends in \.onnx: give .*a\.onnx"):
        exporting.export(kept, cfg, tmp_path / "a.pt2")
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    for wrong, told in [
        (["nowhere.onnx"], "no such file"),
        ([str(tmp_path / "b.onnx")], "not an ONNX file"),
        ([str(file[0]), "--env", "CartPole-v1"], r"takes observations of shape \(2, 3\), and those of CartPole-v1"),
        ([str(file[0]), "--stochastic"], "--stochastic: .* leave --stochastic out"),
        ([str(file[0]), str(run.path)], "name it alone"),
        ([str(tmp_path / "c.pt2")], "--to onnx"),
        ([str(run.path), "--env", "Pendulum-v1"], r"--env goes with FILE\.onnx"),
    ]:
        with pytest.raises(UserError, match=told):
            eval_command(wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx: pip install 'deeprl-cli\[export\]'"):
        exporting.export(kept, cfg, tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'deeprl-cli\[export\]'"):
        eval_command([str(file[0])])


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("format", "2", "written by another deeprl"),
        ("format", None, "not a policy that `deeprl export` wrote"),
        ("seed", "-1", "damaged"),
        ("env", '{"id": 3}', "damaged"),
        ("noise", "{", "damaged"),
        ("env", "stranger", "imports the module 'stranger_module'"),
        ("env", "wrapped", "its env.wrappers import stranger_module:Wrapper, which runs code.*give --trust"),
    ],
)
def test_what_a_file_says_is_checked(file, tmp_path, entry, value, told):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(file[0])
    for said in list(model.metadata_props):
        if said.key == f"deeprl.{entry}":
            if value is None:
                model.metadata_props.remove(said)
            else:
                whole = said.value.replace('"Pendulum-v1"', '"stranger_module:Pendulum-v1"')
                wrapped = said.value.replace('"wrappers": []', '"wrappers": ["stranger_module:Wrapper"]')
                said.value = {"stranger": whole, "wrapped": wrapped}.get(value, value)
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(UserError, match=told):
        evaluate_file(tmp_path / "odd.onnx", "Pendulum-v1" if value == "wrapped" else None, 1, None)
    assert "stranger_module" not in sys.modules
