"""`deeprl plot RUN…`: learning curves as a PNG or SVG."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deeprl_cli.commands.arguments import Parser, positive
from deeprl_cli.config.messages import some
from deeprl_cli.errors import UserError, did_you_mean
from deeprl_cli.runs.folder import slug

if TYPE_CHECKING:
    from deeprl_cli.reports.curves import Group

FORMATS = (".png", ".svg")


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl plot",
        description="Draw learning curves: one panel for each environment, one line for the seeds of a group, with its "
        "95% bootstrap interval.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="a run, or a folder: all runs below it; or a study of `deeprl tune`",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .png or .svg (default: <metric>.png there)")
    parser.add_argument("--metric", default="eval/return_mean", help="a column of metrics.csv (eval/return_mean)")
    parser.add_argument(
        "--group",
        metavar="KEY[,KEY…]",
        help="draw one line for each value of: env, algo.lr, run, seed, … (algo; for a sweep: what varies)",
    )
    parser.add_argument(
        "--over",
        metavar="KEY[,KEY]",
        help="for a sweep: draw its return over these keys, one or two (what varies)",
    )
    parser.add_argument(
        "--statistic", choices=["iqm", "mean"], default="iqm", help="how the seeds are put together (iqm)"
    )
    parser.add_argument("--smooth", type=positive, default=1, metavar="N", help="mean of the last N points (1)")
    parser.add_argument(
        "--bar", action="append", default=[], metavar="[ENV=]VALUE", help="a dashed line, in ENV's panel only"
    )
    parser.add_argument("--title", help="a title for the picture")
    flags = parser.parse_args(arguments)
    if len(flags.runs) == 1 and plot_study(flags.runs[0], flags.out):
        return 0
    plot_runs(
        flags.runs,
        out=flags.out,
        metric=flags.metric,
        group=flags.group,
        statistic=flags.statistic,
        smooth=flags.smooth,
        bars=flags.bar,
        title=flags.title,
    )
    if len(flags.runs) == 1:
        plot_returns(flags.runs[0], flags.over, flags.out, flags.title)
    elif flags.over:
        raise UserError("--over is for one sweep: name it alone")
    return 0


def plot_study(path: Path, out: Path | None) -> bool:
    """If `path` is a study of `deeprl tune`: draw it, print where the picture is, and return True. Raises UserError."""
    if not (path.expanduser() / "study.json").is_file():
        return False
    if importlib.util.find_spec("optuna") is None:
        raise UserError(f"{path}: a study needs Optuna: pip install 'deeprl-cli[tune]'")
    from deeprl_cli.tuning import plan
    from deeprl_cli.tuning.pictures import picture
    from deeprl_cli.tuning.store import Store

    print(picture(Store(plan.read(path.expanduser())), None if out is None else _file(out, [path], "study")))
    return True


def plot_returns(path: Path, over: str | None, curves: Path | None, title: str | None) -> Path | None:
    """Draw the return of a sweep over one or two of its keys, next to the picture of its curves; print and return where
    it is. None if `path` is no sweep, or has too many keys and none was chosen. Raises UserError."""
    from deeprl_cli.reports.landscape import Point, draw_returns
    from deeprl_cli.reports.picture import save
    from deeprl_cli.runs.catalogue import find_any
    from deeprl_cli.runs.sweep_folder import SWEEP_NAME, read_sweep
    from deeprl_cli.sweeps.ranking import keys_of, ranked

    folder = find_any(path)
    if not (folder / SWEEP_NAME).is_file():
        if over:
            raise UserError(f"--over {over}: {folder} is no sweep")
        return None
    jobs = read_sweep(folder).jobs
    known = [key for key in keys_of(jobs)[0] if key != "env"]
    keys = over.split(",") if over else known
    for key in keys:
        if key not in known:
            raise UserError(f"--over {key}: doesn't vary in this sweep{did_you_mean(key, known)}; {some(known)} vary")
    if not keys or (len(keys) > 2 and not over):
        if keys:
            print(f"{len(keys)} keys vary: --over {keys[0]},{keys[1]} draws the return over two of them")
        return None
    if len(keys) > 2:
        raise UserError(f"--over {over}: one key or two")
    points = [Point(row.setting.env or "", row.setting.values, row.last) for row in ranked(jobs) if row.last]
    if not points:
        return None
    name = "returns.png" if curves is None else f"{curves.stem}-returns{curves.suffix}"
    file = (folder if curves is None else curves.expanduser().parent) / name
    try:
        save(draw_returns(points, keys, title), file)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}): give another --out") from error
    print(file)
    return file


def plot_runs(
    paths: Sequence[Path],
    *,
    out: Path | None,
    metric: str,
    group: str | None,
    statistic: str,
    smooth: int,
    bars: Sequence[str],
    title: str | None,
) -> Path:
    """Draw the runs below `paths` and print where the picture is; returns that. Raises UserError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("deeprl plot needs matplotlib: pip install 'deeprl-cli[plot]'")
    from deeprl_cli.reports.curves import by_default, find_runs, read_groups
    from deeprl_cli.reports.picture import draw, save

    file = _file(out, paths, metric)
    runs = find_runs(paths)
    group = by_default(runs) if group is None else group
    keys = [key.strip() for key in group.split(",") if key.strip()]
    if not keys:
        raise UserError(f"--group '{group}': name a key of the configuration, for example algo or algo.lr")
    groups = read_groups(runs, metric, keys)
    figure = draw(groups, metric, statistic, smooth, _bars(bars, groups), title)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(figure, file)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}): give another --out") from error
    print(file)
    return file


def _bars(texts: Sequence[str], groups: Sequence[Group]) -> dict[str, list[float]]:
    """Heights of the dashed lines by environment; under "" those of all panels."""
    envs = list(dict.fromkeys(run.env for group in groups for run in group.runs))
    bars: dict[str, list[float]] = {}
    for text in texts:
        env, _, height = text.rpartition("=")
        try:
            bars.setdefault(env, []).append(float(height))
        except ValueError:
            raise UserError(
                f"--bar {text}: write a number, --bar 475, or for one panel --bar CartPole-v1=475"
            ) from None
        if env and env not in envs:
            raise UserError(f"--bar {text}: no run is on '{env}'{did_you_mean(env, envs)}; there are {some(envs)}")
    return bars


def _file(out: Path | None, paths: Sequence[Path], metric: str) -> Path:
    """The picture's path: in the folder that was named if there is only one, else in the current folder."""
    name = f"{slug(metric)}.png"
    if out is None:
        from deeprl_cli.runs.catalogue import find_any

        only = find_any(paths[0]) if len(paths) == 1 else None
        return (only if only is not None and only.is_dir() else Path()) / name
    out = out.expanduser()
    if out.is_dir():
        return out / name
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: must end in {' or '.join(FORMATS)}: for example {out.with_suffix('.png')}")
    return out
