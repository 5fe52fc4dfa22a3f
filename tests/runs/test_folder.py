"""The folder of a run: its place, its files, and finding it again."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deeprl_cli.errors import UserError
from deeprl_cli.runs import folder as module
from deeprl_cli.runs.folder import create_run_folder, find_run, read_config, read_summary, slug, write_summary
from deeprl_cli.schema.typed import to_plain


@dataclass
class Algo:
    name: str
    hidden: list[int]


@dataclass
class Env:
    id: str
    kwargs: dict[str, Any]
    wrappers: list[Any] = field(default_factory=list)


@dataclass
class Config:
    """What of a RunConfig matters here: nested dataclasses, the two names of the path, `run_dir` and `name`."""

    algo: Algo
    env: Env
    network: Algo
    seed: int
    run_dir: str | None
    name: str | None = None
    callbacks: list[Any] = field(default_factory=list)


def config(env: str = "CartPole-v1", run_dir: str | None = None, **kwargs: Any) -> Any:
    hidden = [64, 64]
    return Config(Algo("ppo", hidden), Env(env, kwargs), Algo("auto", hidden), 0, run_dir)


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_has_its_place_and_its_config(tmp_path: Path) -> None:
    cfg = config("ALE/Pong-v5", obs_type="ram", tiny=1e-05, word="no", digits="1e5", nothing=None, far=math.inf)
    run = create_run_folder(cfg, {"threads": 2, "compile": False})
    assert run.parts[:3] == ("runs", "ppo", "ALE-Pong-v5")
    read = read_config(run)
    resolved = read.pop("resolved")
    assert resolved.pop("machine")["torch"]
    assert resolved == {"deeprl": "0.1.0", "numerics": module.NUMERICS, "threads": 2, "compile": False}
    assert read == to_plain(cfg)
    text = (run / "config.yaml").read_text()
    assert text.index("algo:") < text.index("env:") < text.index("resolved:")
    assert "&" not in text
    assert "!" not in text


def test_runs_started_in_one_second_get_folders_of_their_own() -> None:
    runs = [create_run_folder(config(), {}) for _ in range(5)]
    assert len(set(runs)) == 5
    assert any(run.name.endswith("_2") for run in runs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("ALE/Pong-v5", "ALE-Pong-v5"),
        ("my.module:Env-v0", "my.module-Env-v0"),
        ("../../etc", "etc"),
        ("..", "env"),
        ("a b\n", "a-b"),
        ("/", "env"),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_run_dir_is_taken_as_it_is(tmp_path: Path) -> None:
    assert create_run_folder(config(run_dir="a/b"), {}) == Path("a/b")
    (tmp_path / "empty").mkdir()
    assert create_run_folder(config(run_dir=str(tmp_path / "empty")), {}) == tmp_path / "empty"
    assert not (tmp_path / "runs").exists()


def test_run_dir_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_run_folder(config(run_dir="a"), {})
    assert "not empty: give another" in refusal(create_run_folder, config(run_dir="a"), {})
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(create_run_folder, config(run_dir="file"), {})
    assert "can't create" in refusal(create_run_folder, config(run_dir="file/below"), {})
    assert "can't create" in refusal(create_run_folder, config(run_dir="x" * 300), {})

    def another_was_first(run: Path) -> Path:
        return Path("a")

    monkeypatch.setattr(module, "_claim", another_was_first)
    assert "File exists" in refusal(create_run_folder, config(run_dir="a"), {})


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("")
    assert "runs/: can't create" in refusal(create_run_folder, config(), {})

    def denied(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "Permission denied" in refusal(create_run_folder, config(run_dir="new"), {})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"algo: [", "not valid YAML at line 2"),  # where it ends
        (b"", "not the configuration of a run"),
        (b"- 1", "not the configuration of a run"),
        (b"seed: 1", "not the configuration of a run"),
        (b"algo: {}\nresolved: 3", "not the configuration of a run"),
        (b"\xff\xfe\xff", "not text"),
        (b"a: &a [1, 1]\nalgo: [*a, *a]\nresolved: {}", "not valid YAML at line 2"),
        (b"algo: !!python/object/apply:os.system ['touch pwned']\nresolved: {}", "not valid YAML"),
        (b"[" * 100_000, "not valid YAML"),
        (b"algo: 2001-99-99\nresolved: {}", "not valid YAML"),
        (b"a: " + b"x" * (5 << 20), "larger than"),
    ],
)
def test_a_damaged_config_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    assert words in refusal(read_config, tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_no_run_there(tmp_path: Path) -> None:
    assert "not a run" in refusal(read_config, tmp_path)
    (tmp_path / "config.yaml").mkdir()
    assert "not a run" in refusal(read_config, tmp_path)


def test_summary_round_trip(tmp_path: Path) -> None:
    write_summary(tmp_path, {"status": "running"})
    summary = {"status": "finished", "name": "ü", "eval": {"return_mean": [1.5, math.nan], "x": (math.inf,)}}
    write_summary(tmp_path, summary)
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert read_summary(tmp_path) == {
        "status": "finished",
        "name": "ü",
        "eval": {"return_mean": [1.5, None], "x": [None]},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_failed_summary_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_summary(tmp_path, {"status": "old"})

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(module.os, name, fail)
            with pytest.raises(OSError, match="No space"):
                write_summary(tmp_path, {"status": "new"})
        assert read_summary(tmp_path) == {"status": "old"}


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_damaged_summary_is_one_line(tmp_path: Path, content: str) -> None:
    assert "has no summary.json" in refusal(read_summary, tmp_path)
    (tmp_path / "summary.json").write_text(content)
    assert "damaged" in refusal(read_summary, tmp_path)


def test_a_name_stands_behind_the_time() -> None:
    cfg = config()
    cfg.name = "lr=0.003, the / good one"
    run = create_run_folder(cfg, {})
    assert run.name[19:] == "_lr=0.003-the-good-one"
    assert create_run_folder(cfg, {}) != run


def test_a_run_is_found_from_inside() -> None:
    run = create_run_folder(config(), {})
    for inside in ("seed_0", "checkpoints/last", "checkpoints/best", "videos"):
        (run / inside).mkdir(parents=True)
    weights = run / "checkpoints" / "best" / "seed_0.safetensors"
    weights.write_bytes(b"")
    assert find_run(run) == run
    for inside in ("seed_0", "checkpoints", "checkpoints/last", "checkpoints/best/seed_0.safetensors"):
        assert find_run(run / inside).resolve() == run.resolve()
    assert find_run(run.resolve() / "seed_0") == run.resolve()
    assert "not a run" in refusal(find_run, run / "videos")


def test_a_folder_of_runs_names_the_newest(tmp_path: Path) -> None:
    assert "no such folder" in refusal(find_run, Path("runs"))
    for name in ("2026-01-01_00-00-00", "2026-03-01_00-00-00", "2026-02-01_00-00-00"):
        create_run_folder(config(run_dir=f"runs/ppo/CartPole-v1/{name}"), {})
    for folder in ("runs", "runs/ppo", "runs/ppo/CartPole-v1"):
        message = refusal(find_run, Path(folder))
        assert message.endswith("runs/ppo/CartPole-v1/2026-03-01_00-00-00")
    (tmp_path / "empty").mkdir()
    assert refusal(find_run, Path("empty")).endswith("(no config.yaml there)")


def test_importing_it_does_not_bring_torch() -> None:
    code = "import sys, deeprl_cli.runs.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
