"""`deeprl watch RUN`: see the trained policy play, in the environment's window or on a page in the browser."""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprl_cli.commands.arguments import Parser, natural, positive
from deeprl_cli.errors import UserError

if TYPE_CHECKING:
    from deeprl_cli.deploy.live import Moment, Player

PAUSE = 1.0  # seconds between episodes, to see how one ended


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl watch",
        description="Play the policy of a run, for you to see: in the environment's own window where there is a "
        "display, else on a page at 127.0.0.1 that your browser shows, with its action, value and return. A run that "
        "trains can be watched, too: each episode takes the newest weights. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    parser.takes_run()
    parser.add_argument("--episodes", type=positive, metavar="N", help="end after N episodes (never)")
    parser.add_argument("--speed", type=_number, default=1.0, metavar="X", help="times as fast as it is meant (1)")
    parser.add_argument("--seed", type=natural, metavar="K", help="which seed of the run (the first)")
    parser.takes_checkpoint()
    following = "follow the training: an episode with each newer weights, one in S seconds at most, until it ends"
    parser.add_argument("--every", type=_number, metavar="S", help=following)
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the policy's mode")
    parser.add_argument("--page", action="store_true", help="the page, even where there is a display")
    parser.add_argument("--port", type=natural, metavar="P", help="of the page (one that is free)")
    flags = parser.parse_args(arguments)
    return watch(
        flags.run,
        episodes=flags.episodes,
        speed=flags.speed,
        seed=flags.seed,
        checkpoint=flags.checkpoint,
        every=flags.every,
        stochastic=flags.stochastic,
        trust=flags.trust,
        page=flags.page,
        port=flags.port,
    )


def watch(
    path: Path,
    *,
    episodes: int | None = None,
    speed: float = 1.0,
    seed: int | None = None,
    checkpoint: Any = None,
    every: float | None = None,
    stochastic: bool = False,
    trust: bool = False,
    page: bool = False,
    port: int | None = None,
) -> int:
    """Play until `episodes` are over, with `every` until the training is, or until Ctrl-C; the exit code. Raises
    UserError."""
    if every is not None and checkpoint not in (None, "best", "last"):
        raise UserError(f"--every {every:g}: weights of step {checkpoint} never change: leave one of them out")
    from deeprl_cli.runs.catalogue import find
    from deeprl_cli.runs.folder import chosen_seed, find_run

    path = find(path)
    find_run(path)  # a mistyped folder is refused before torch is loaded

    from deeprl_cli.deploy.live import Player, has_display
    from deeprl_cli.processes.hardware import threads
    from deeprl_cli.runs.reading import check_trust, read_run

    run, cfg = read_run(path, trust)
    check_trust(run, cfg, trust)
    seed = chosen_seed(path, seed, cfg.seed_list)
    page = page or port is not None or not has_display()
    shown: list[float] = []
    following = every is not None
    try:
        if following:
            print(f"following {run} as it trains (Ctrl-C ends it)", flush=True)
        player = Player(run, cfg, cfg.seed if seed is None else seed, checkpoint, stochastic=stochastic, every=every)
        with threads(1):  # one observation at a time
            for moment in (_on_page if page else _in_window)(player, episodes, speed, port or 0):
                if moment.ended:
                    shown.append(moment.total)
                    told = f"episode {moment.episode}: return {moment.total:.2f} in {moment.step} steps"
                    print(f"{told} ({moment.ended}, weights of step {moment.weights})", flush=True)
        if following and len(shown) != episodes:
            print("its training has ended")
    except KeyboardInterrupt:
        print()
    if shown and not following:  # there, each episode is another policy's
        print(f"mean return of {len(shown)} episode{'s' if len(shown) > 1 else ''}: {sum(shown) / len(shown):.2f}")
    return 0


def _in_window(player: Player, episodes: int | None, speed: float, port: int) -> Iterator[Moment]:
    """The environment draws itself, and keeps the time of its own frames."""
    from deeprl_cli.deploy.live import Pace
    from deeprl_cli.envs.closing import closing
    from deeprl_cli.evaluation.video import fps_of

    with closing(player.make_env("human"), player.cfg.env.id) as env:
        fps = fps_of(env) * speed
        env.unwrapped.metadata = {**env.unwrapped.metadata, "render_fps": fps}
        pace, pause = Pace(fps), Pace(1 / PAUSE)
        for moment in player.episodes(env, episodes, drawn=False):
            yield moment
            (pause if moment.ended else pace).wait()


def _on_page(player: Player, episodes: int | None, speed: float, port: int) -> Iterator[Moment]:
    """It plays while somebody watches."""
    from deeprl_cli.deploy.live import LOOK, Pace
    from deeprl_cli.deploy.live_page import LivePage, served
    from deeprl_cli.envs.closing import closing
    from deeprl_cli.evaluation.video import fps_of

    if importlib.util.find_spec("PIL") is None:
        raise UserError("a page with pictures needs pillow: pip install 'deeprl-cli[video]'")
    cfg = player.cfg
    page = LivePage(cfg.name or f"{cfg.algo.called} on {cfg.env.id}", f"{player.run}, seed {player.seed}")
    with closing(player.make_env(), cfg.env.id) as env, served(page, port) as address:
        print(f"watch it at {address} (Ctrl-C ends it)", flush=True)
        pace, pause = Pace(fps_of(env) * speed), Pace(1 / PAUSE)
        for moment in player.episodes(env, episodes, drawn=True):
            while not page.wait_for_viewer(LOOK):
                pass
            page.show(moment)
            yield moment
            (pause if moment.ended else pace).wait()


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0, for example 2 or 0.5")
    return value
