"""Opening what others made: runs with files cut, flipped, swapped and forged are refused in one line, or read rightly.

Every case copies one small run, changes one of its files, and opens it through the verbs. What counts: an exit code of
0 or 2, no traceback, no hang, nothing executed, and every complaint in lines that begin with `deeprl: `.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import pytest
import torch

from deeprl_cli.cli import main
from deeprl_cli.runs import checkpoint as checkpoints
from deeprl_cli.runs.tensor_files import load_weights, save_weights
from tests.commands.test_resume import break_off
from tests.contract.harness import short_run

PARTS, CASES = 4, 130
BOMB = Path("/tmp/deeprl_fuzz_executed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds that broke off just before its end, with two checkpoints and a replay memory."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz") / "run"
        options = ["seeds=2", "checkpoint.every=56", "log.every=16", "eval.every=60", "log.tensorboard=true"]
        return break_off(short_run("dqn", folder, *options), 224, patch)


def files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")


# --- what is done to a file -------------------------------------------------------------------------------------------


def truncated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flipped(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 50])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_out(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 200) :]


def repeated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start : start + 300] * rng.randrange(2, 20) + data[start:]


def noise(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 8, 100, 5000]))


def anothers(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return rng.choice(others)


def foreign(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Other programs' files, some of which would run code if they were unpickled or loaded as full YAML."""
    pickled = b"cposix\nsystem\n(S'touch " + str(BOMB).encode() + b"'\ntR."
    return rng.choice(
        [
            pickled,
            b"PK\x03\x04" + pickled,
            f"!!python/object/apply:os.system ['touch {BOMB}']\n".encode(),
            f"algo: {{name: dqn}}\nresolved: !!python/object/apply:os.system ['touch {BOMB}']\n".encode(),
            b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\nalgo: {name: ppo}\nresolved: {}\n",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"\x89PNG\r\n\x1a\n",
            "é".encode("latin-1") * 1000,
            b"null",
            b"{}",
            b"[]",
            b"1e999",
            b"step,eval/return_mean\n1,nan\n2\n3,4,5\nx,y\n",
        ]
    )


def header_forged(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A safetensors header that promises what the file doesn't hold."""
    declared = rng.choice(
        [
            {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
            {"x": {"dtype": "F32", "shape": [2**31, 2**31, 2**31], "data_offsets": [0, 4]}},
            {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
            {"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
            {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
            {"../../escape": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
            {"__metadata__": {"deeprl": "not json"}},
        ]
    )
    header = json.dumps(declared).encode()
    size = rng.choice([len(header), 1 << 60, len(header) + 9])
    return struct.pack("<Q", size) + header + b"\0\0\0\0"


def words_changed(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Values of a text file: other types, huge numbers, paths that lead out of the folder."""
    lines = data.decode(errors="replace").split("\n")
    values = ["-1", "1e400", ".nan", "null", "[]", "{}", "../../../etc/passwd", "99999999999999999999", "''", "true"]
    values += ["dqn2", "os:system-v0", "Namespace/None-v9", "0.5", "'a b'", "- x", "!!binary abc", "2147483648"]
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(lines))
        key, colon, _ = lines[place].partition(":")
        lines[place] = f"{key}: {rng.choice(values)}" if colon else rng.choice(values)
    return "\n".join(lines).encode()


MUTATIONS = [truncated, flipped, cut_out, repeated, noise, anothers, foreign, header_forged, words_changed]


# --- opening ----------------------------------------------------------------------------------------------------------


def opened(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a verb and what it said on standard error."""
    try:
        main(arguments)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


def assert_civil(arguments: list[str], capsys: pytest.CaptureFixture[str], what: str) -> int:
    code, said = opened(arguments, capsys)
    assert code in (0, 2), f"{what}: exit code {code}: {said}"
    assert all(line.startswith("deeprl: ") for line in said.splitlines()), f"{what}: {said}"
    assert said or code == 0, what
    assert not BOMB.exists(), what
    return code


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_mutated_file_gets_through(part, made, tmp_path, capsys):
    """Hundreds of random changes, each opened by a verb that reads the file."""
    rng = random.Random(part)
    names = [path.relative_to(made) for path in files(made)]
    contents = [(made / name).read_bytes() for name in names]
    refused = 0
    for number in range(part * CASES, (part + 1) * CASES):
        run = tmp_path / f"run_{number}"
        shutil.copytree(made, run)
        name = names[number % len(names)]
        mutation = MUTATIONS[number // len(names) % len(MUTATIONS)]
        data = mutation((made / name).read_bytes(), rng, contents)
        (run / name).write_bytes(data)
        if rng.random() < 0.05:
            (run / name).unlink()
        verbs = {
            "eval": ["eval", str(run), "--episodes", "1"],
            "last": ["eval", str(run), "--episodes", "1", "--checkpoint", "last"],
            "plot": ["plot", str(run), "--out", str(run / "curve.png")],
            "resume": ["resume", str(run), "eval.final_episodes=1", "total_steps=228"],
        }
        chosen = {"checkpoints/best": "eval", "checkpoints/last": rng.choice(["last", "resume"]), "seed_": "plot"}
        verb = next((verb for place, verb in chosen.items() if str(name).startswith(place)), rng.choice(list(verbs)))
        if str(name).startswith("seed_") and rng.random() < 0.5:
            verb = "resume"
        refused += assert_civil(verbs[verb], capsys, f"case {number}: {mutation.__name__} of {name}, {verb}") == 2
        shutil.rmtree(run)
    assert refused > CASES // 6  # by chance a quarter, about: many changes leave what the verb reads as it was


# --- forged with care: checksums right, content hostile ---------------------------------------------------------------


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def resigned(run: Path, change) -> None:
    """Apply `change` to the manifest of the last checkpoint, its checksum made right again."""
    last = run / "checkpoints" / "last"
    for earlier in last.glob("manifest-*.json"):
        earlier.unlink()  # nothing to fall back to
    manifest = json.loads((last / "manifest.json").read_text())
    change(manifest)
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    (last / "manifest.json").write_text(json.dumps({**body, "sha256": checkpoints._digest(body)}))


def drop(key):
    return lambda manifest: manifest.pop(key)


def put(path, value):
    def change(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


FORGERIES = {
    "no state": drop("state"),
    "future": put(["format"], 999),
    "past": put(["format"], 0),
    "traversal": put(["tensors"], "../../../etc/passwd"),
    "absolute": put(["files", "/etc/passwd"], {"bytes": 1, "sha256": "0"}),
    "steps are words": put(["state", "steps"], "many"),
    "steps are missing": lambda manifest: manifest["state"].pop("steps"),
    "policy is a list": put(["state", "policy"], []),
    "tensor of no file": put(["state", "policy"], {"$tensor": "nowhere"}),
    "log positions": put(["state", "log"], {"0": {"rows": -5}}),
    "event file elsewhere": put(["state", "log", "0", "events"], "../../x"),
    "chain": put(["state", "chain"], {"head": 5, "bytes": -1}),
    "next": put(["state", "next"], ["a"]),
    "noise": put(["state", "act_noise"], {}),
    "envs": put(["state", "envs", "episodes"], [10**30, 1, 2, 3]),
    "metrics": put(["state", "metrics"], {"loss": 3}),
    "memory": put(["state", "memory"], {"capacity": 10**12, "written": [1, 1], "segment_rows": 1}),
    "segments renamed": lambda manifest: manifest.update(
        segments={f"replay-99999-{i:012d}": name for i, name in enumerate(manifest["segments"].values())}
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
@pytest.mark.parametrize("verb", ["resume", "last"])
def test_forged_manifests(kind, verb, run, capsys):
    """Checksums that fit don't help: content is checked where it is used."""
    resigned(run, FORGERIES[kind])
    verbs = {
        "resume": ["resume", str(run), "eval.final_episodes=1"],
        "last": ["eval", str(run), "--episodes", "1", "--checkpoint", "last"],
    }
    code = assert_civil(verbs[verb], capsys, kind)
    harmless_to_eval = verb == "last" and kind not in (
        *("no state", "future", "past", "traversal", "absolute"),
        *("policy is a list", "tensor of no file", "steps are words", "steps are missing"),
    )
    assert code == (0 if harmless_to_eval else 2)


def test_weights_that_are_no_numbers(run, capsys):
    """NaN in the weights, checksums right: refused by name, whichever checkpoint holds them."""
    path = run / "checkpoints" / "best" / "seed_0.safetensors"
    tensors, meta = load_weights(path)
    name = next(iter(tensors))
    tensors[name][0] = torch.nan
    save_weights(path, tensors, meta)
    code, said = opened(["eval", str(run), "--episodes", "1"], capsys)
    assert code == 2
    assert f"'{name}' holds NaN or infinity" in said


def test_a_module_is_imported_with_leave_only(run, tmp_path, capsys, monkeypatch):
    """An environment `module:Id` in a stranger's config.yaml would run that module."""
    (tmp_path / "stranger.py").write_text(f"open({str(BOMB)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("id: CartPole-v1", "id: stranger:CartPole-v1"))
    for verb in ("eval", "resume", "verify"):
        code, said = opened([verb, str(run)], capsys)
        assert code == 2
        assert "imports the module 'stranger'" in said
        assert "--trust" in said
        assert not BOMB.exists()
    assert opened(["plot", str(run), "--out", str(run / "x.png")], capsys)[0] == 0
    assert not BOMB.exists()
    try:
        assert opened(["eval", str(run), "--episodes", "1", "--trust"], capsys)[0] == 0
        assert BOMB.exists()
    finally:
        BOMB.unlink(missing_ok=True)


def test_links_out_of_the_folder(run, tmp_path, capsys):
    """A link in a data file's place isn't followed."""
    last = run / "checkpoints" / "last"
    state = json.loads((last / "manifest.json").read_text())["tensors"]
    for earlier in last.glob("manifest-*.json"):
        earlier.unlink()
    (last / state).rename(tmp_path / "elsewhere")
    (last / state).symlink_to(tmp_path / "elsewhere")
    code, said = opened(["eval", str(run), "--episodes", "1", "--checkpoint", "last"], capsys)
    assert code == 2
    assert "not a regular file" in said
