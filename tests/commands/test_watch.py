"""`deeprl watch`: what is shown is what the policy does, on a page that only this machine can read."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from deeprl_cli.cli import main
from deeprl_cli.deploy.live import Moment, Player
from deeprl_cli.deploy.live_page import LivePage, as_message, served
from deeprl_cli.envs.closing import closing
from deeprl_cli.errors import UserError
from deeprl_cli.runs.lock import locked
from deeprl_cli.runs.reading import read_run
from deeprl_cli.runs.weights import best_path

pytest.importorskip("PIL")


def moment(**changes) -> Moment:
    values = {"episode": 1, "step": 0, "frame": None, "action": None, "value": 1.5, "reward": 0.0, "total": 0.0}
    return Moment(**{**values, "ended": "", "weights": 7, **changes})


def ask(port: int, path: str = "/", host: str | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def caught_by_c() -> set[int]:
    """The signals for which this process has handlers that Python doesn't know of."""
    if sys.platform != "linux":
        return set()
    bits = int(re.search(r"SigCgt:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
    return {one for one in signal.valid_signals() if bits >> one - 1 & 1 and signal.getsignal(one) == signal.SIG_DFL}


# ---- playing


def test_moments_are_those_of_an_evaluation(whole_run, capsys):
    """Returns and lengths of the first episodes equal those that `deeprl eval` plays; the last moment says how it
    ended."""
    run, cfg = read_run(whole_run("sac")[0])
    player = Player(run, cfg, cfg.seed, None, stochastic=False)
    env = player.make_env()
    seen = list(player.episodes(env, 2, drawn=False))
    env.close()
    ends = [one for one in seen if one.ended]
    assert [one.episode for one in ends] == [1, 2]
    assert seen[0].action is None
    assert seen[0].step == 0
    assert all(np.shape(one.action) == env.env.action_space.shape for one in seen if one.step)
    assert all(isinstance(one.value, float) for one in seen)
    for last in ends:
        steps = [one.reward for one in seen if one.episode == last.episode]
        assert last.total == pytest.approx(sum(steps))
        assert len(steps) == last.step + 1
    main(["eval", str(run), "--episodes", "2", "--seed", str(cfg.seed), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["return_mean"][0] == pytest.approx(np.mean([one.total for one in ends]), rel=1e-4)


def test_a_new_checkpoint_is_taken_at_the_next_episode(whole_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole_run("sac")[0], folder)
    run, cfg = read_run(folder)
    player = Player(run, cfg, cfg.seed, "last", stochastic=True)
    first, env = player.kept, player.make_env()
    moments = player.episodes(env, 2, drawn=False)
    while not next(moments).ended:
        pass
    assert player.kept is first
    manifest = folder / "checkpoints" / "last" / "manifest.json"
    os.utime(manifest, ns=(1, manifest.stat().st_mtime_ns + 1))
    next(moments)
    assert player.kept is not first
    env.close()


def test_it_follows_a_training(whole_run, tmp_path, monkeypatch):
    """Its first weights are waited for; an episode begins with each newer ones, of whichever kind; none does after the
    training's end."""
    folder, waits = tmp_path / "run", []
    shutil.copytree(whole_run("sac")[0], folder)
    run, cfg = read_run(folder)
    last, best = folder / "checkpoints" / "last" / "manifest.json", best_path(folder, cfg.seed)
    away = best.parent.rename(tmp_path / "away")
    hidden = last.rename(tmp_path / "manifest.json")
    training = ExitStack()
    training.enter_context(locked(folder))

    def newer(file):
        os.utime(file, ns=(1, time.time_ns() + 10**9 * len(waits)))

    def sleep(_seconds):
        waits.append(None)
        match len(waits):
            case 1:
                hidden.rename(last)
            case 3:
                away.rename(best.parent)
                newer(best)
            case 5:
                newer(last)
                training.close()

    monkeypatch.setattr("deeprl_cli.deploy.live.time.sleep", sleep)
    player = Player(run, cfg, cfg.seed, None, stochastic=False, every=0.0)
    assert len(waits) == 1
    env, kinds = player.make_env(), []
    kinds = [(player.kept.checkpoint, one.episode) for one in player.episodes(env, None, drawn=False) if one.ended]
    env.close()
    assert kinds == [("last", 1), ("best", 2), ("last", 3)]
    assert len(waits) == 5


def test_episodes_that_nothing_ends_are_cut_as_in_an_evaluation(whole_run):
    """At eval.max_steps, as docs/watch.md has it."""
    gym.register("WatchEndless-v0", "gymnasium.envs.classic_control:PendulumEnv")
    try:
        run, cfg = read_run(whole_run("sac")[0])
        endless = dataclasses.replace(cfg.env, id="WatchEndless-v0", max_episode_steps=None)
        cfg = dataclasses.replace(cfg, env=endless, eval=dataclasses.replace(cfg.eval, max_steps=7))
        player = Player(run, cfg, cfg.seed, None, stochastic=False)
        with closing(player.make_env(), "WatchEndless-v0") as env:
            ends = [one for one in player.episodes(env, 2, drawn=True) if one.ended]
            caught = caught_by_c()
    finally:
        del gym.registry["WatchEndless-v0"]
    assert [(one.step, one.ended) for one in ends] == [(7, "truncated")] * 2
    assert signal.SIGTERM not in caught, "pygame's library would make it an event of its window"


# ---- the page


def test_the_page_shows_moments_to_this_machine_alone():
    page = LivePage("<script>x</script>", "about")
    with served(page, 0) as address:
        port = int(address.rpartition(":")[2])
        answer = ask(port)
        text = answer.read().decode()
        assert answer.status == 200
        assert "&lt;script&gt;x" in text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert ask(port, host="evil.example").status == 403
        assert ask(port, "/events", host="evil.example").status == 403
        assert ask(port, "/etc/passwd").status == 404
        assert not page.wait_for_viewer(0.01)
        page.show(moment(frame=np.zeros((4, 6, 3), np.uint8), action=np.array([1.0, np.nan]), value=float("inf")))
        stream = ask(port, "/events")
        told = json.loads(stream.readline().removeprefix(b"data: "))
        assert page.wait_for_viewer(5)
        assert (told["action"], told["value"], told["weights"]) == ([1.0, None], None, 7)
        assert told["picture"].startswith("data:image/jpeg;base64,")
        stream.readline()
        page.show(moment(step=3, ended="terminated", total=3.0))
        assert json.loads(stream.readline().removeprefix(b"data: "))["return"] == 3.0
        page.close()
        assert b"event: over" in stream.read()


def test_a_slow_viewer_sees_the_newest():
    page, got = LivePage("a", "b"), []
    page.show(moment(step=1))
    viewer = page.messages()
    got.append(next(viewer))
    for step in range(2, 50):
        page.show(moment(step=step))
    got.append(next(viewer))
    assert [json.loads(one.removeprefix(b"data: "))["step"] for one in got] == [1, 49]
    viewer.close()
    assert page.viewers == 0


def test_two_pages_cant_have_one_port():
    with served(LivePage("a", "b"), 0) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(UserError, match=f"--port {port}: can't be used"), served(LivePage("a", "b"), port):
            pass
    with pytest.raises(UserError, match="there is no such port"), served(LivePage("a", "b"), 99_999):
        pass


def test_a_long_action_is_cut():
    assert len(json.loads(as_message(moment(action=np.zeros((40, 40)))))["action"]) == 64


# ---- the command


@pytest.fixture
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_it_plays_while_somebody_watches(whole_run, capsys, no_display):
    """One episode: nothing happens before a viewer comes; then it is played, told and over."""
    run, done = whole_run("sac")[0], []

    def look() -> None:
        found = None
        while found is None:
            time.sleep(0.05)
            found = re.search(r"http://127.0.0.1:(\d+)", capsys.readouterr().out)
        stream = ask(int(found[1]), "/events")
        done.append(stream.read().count(b"data: {"))

    viewer = threading.Thread(target=look)
    viewer.start()
    assert main(["watch", str(run), "--episodes", "1", "--speed", "1000"]) is None
    viewer.join(10)
    assert done
    assert done[0] >= 2
    assert re.search(r"mean return of 1 episode: -?\d", capsys.readouterr().out)


def test_with_a_display_the_environment_has_its_window(whole_run, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    main(["watch", str(whole_run("sac")[0]), "--episodes", "1", "--speed", "1000"])
    said = capsys.readouterr().out
    assert "http" not in said
    assert "episode 1: return" in said


@pytest.mark.skipif(sys.platform != "linux", reason="signals")
def test_ctrl_c_ends_it_with_what_was_seen(whole_run, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "deeprl_cli", "watch", str(whole_run("sac")[0])]
    # a shell's background job starts with Ctrl-C ignored, and so would what it starts
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heard) as process:
        try:
            line = process.stdout.readline()
            assert "watch it at http://127.0.0.1:" in line
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere"], "nowhere: no such folder"),
    (["RUN", "--seed", "77"], "has no seed 77: this run's are 0, 1"),
    (["RUN", "--speed", "0"], "'0' is not a number above 0"),
    (["RUN", "--speed", "fast"], "'fast' is not a number above 0"),
    (["RUN", "--every", "0"], "'0' is not a number above 0"),
    (["RUN", "--every", "5", "--checkpoint", "100"], "weights of step 100 never change: leave one of them out"),
    (["RUN", "--episodes", "0"], "is not a whole number of at least 1"),
])  # fmt: skip
def test_mistakes(whole_run, capsys, arguments, said):
    run = str(whole_run("sac")[0])
    with pytest.raises(SystemExit) as stop:
        main(["watch", *(run if text == "RUN" else text for text in arguments)])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
