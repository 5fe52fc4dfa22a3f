"""`deeprl compare RUNS… --against RUNS…`: do they differ, how sure is that, and how many seeds would settle it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.config.messages import some
from deeprl_cli.errors import UserError, warn

PROTOCOL = ("eval.final_episodes", "eval.max_steps", "env")  # what must be the same for returns to be comparable
PICTURE = "performance-profile.png"


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl compare",
        description="Whether runs earn more than others: the difference of their interquartile means with its 95% "
        "interval, the probability of improvement, and how many seeds would settle it. Seeds are the unit.",
        epilog="Without --against: the first RUN against all others. A folder means all finished runs below it.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, or folders of runs: one side")
    parser.add_argument("--against", nargs="+", metavar="RUN", help="the other side")
    parser.add_argument("--by", choices=["last", "best"], default="last", help="policy whose return counts (last)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the picture, .png or .svg ({PICTURE})")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and draw nothing")
    flags = parser.parse_args(arguments)
    if flags.against is None and len(flags.runs) < 2:
        raise UserError("nothing to compare with: name more runs, or --against RUN")
    first, second = (flags.runs, flags.against) if flags.against else (flags.runs[:1], flags.runs[1:])
    compare(first, second, policy=flags.by, out=flags.out, as_json=flags.json)
    return 0


def compare(first: Sequence[str], second: Sequence[str], *, policy: str, out: Path | None, as_json: bool) -> None:
    """Print how two sides of runs differ, environment by environment. Raises UserError where they can't be compared."""
    sides = [_side(names, policy) for names in (first, second)]
    _check_protocol([run for side in sides for run in side])
    envs = [_by_env(side) for side in sides]
    common = [env for env in envs[0] if env in envs[1]]
    if not common:
        raise UserError(f"no environment in common: {some(envs[0])} against {some(envs[1])}")
    alone = sorted({*envs[0], *envs[1]} - set(common))
    if alone:
        warn(f"left out, because only one side has it: {some(alone)}")
    results = [_compared(env, envs[0][env], envs[1][env]) for env in common]
    chances = _chances([[side[env] for env in common] for side in envs])
    if as_json:
        print(json.dumps({"environments": results, "probability_of_improvement": chances}))
        return
    for line in _lines(" ".join(first), " ".join(second), results, chances, policy):
        print(line)
    _draw([" ".join(first), " ".join(second)], {env: [side[env] for side in envs] for env in common}, out)


def _side(names: Sequence[str], policy: str) -> list[dict[str, Any]]:
    """The finished runs of one side: their configurations, and the return of each seed."""
    from deeprl_cli.reports.curves import find_runs
    from deeprl_cli.runs.sweep_folder import results

    found = []
    for one in find_runs([Path(name) for name in names]):
        told = results(one.folder)
        values = told.get(f"{policy}_returns")
        if told.get("status") != "done" or not values or None in values:
            warn(f"left out: {one.folder}: hasn't finished, or has no return")
            continue
        found.append({"run": one, "returns": dict(zip(told["seeds"], values, strict=True))})
    if not found:
        raise UserError(f"{' '.join(names)}: no finished run there")
    return found


def _check_protocol(runs: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if runs on one environment were evaluated differently; the message names the difference."""
    from deeprl_cli.reports.curves import value_at

    known: dict[str, Mapping[str, Any]] = {}
    for one in runs:
        before = known.setdefault(one["run"].env, one)
        for key in PROTOCOL:
            ours, theirs = (value_at(side["run"].config, key) for side in (before, one))
            if ours != theirs:
                told = _difference(key, ours, theirs)
                raise UserError(f"{before['run'].folder} and {one['run'].folder} were not evaluated alike: {told}")


def _difference(key: str, ours: Any, theirs: Any) -> str:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        inner = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        return _difference(f"{key}.{inner}", ours.get(inner), theirs.get(inner))
    return f"{key} is {json.dumps(ours)} and {json.dumps(theirs)}"


def _by_env(side: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The returns of all seeds on each environment. A seed of the same configuration trained twice counts once."""
    from deeprl_cli.reports.curves import same_experiment

    found: dict[str, dict[tuple[str, int], float]] = {}
    for one in side:
        for seed, value in one["returns"].items():
            found.setdefault(one["run"].env, {}).setdefault((same_experiment(one["run"]), seed), value)
    return {env: list(values.values()) for env, values in found.items()}


def _compared(env: str, first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    from deeprl_cli.reports.comparison import difference, probability_of_improvement, seeds_to_settle
    from deeprl_cli.reports.intervals import estimates, number_or_null

    told = difference(first, second)
    chance = probability_of_improvement([first], [second])
    return {
        "env": env,
        "first": estimates(first),
        "second": estimates(second),
        "difference": told.value,
        "difference_ci95": [number_or_null(told.low), number_or_null(told.high)],
        "p": number_or_null(told.p),
        "probability_of_improvement": [number_or_null(value) for value in chance],
        "seeds_to_settle": seeds_to_settle(first, second),
    }


def _chances(sides: Sequence[Sequence[Sequence[float]]]) -> list[float | None]:
    from deeprl_cli.reports.comparison import probability_of_improvement
    from deeprl_cli.reports.intervals import number_or_null

    return [number_or_null(value) for value in probability_of_improvement(*sides)]


def _lines(
    first: str, second: str, results: Sequence[Mapping[str, Any]], chances: Sequence[float | None], policy: str
) -> list[str]:
    from deeprl_cli.reports.cells import interval, number

    lines = [f"{first}  against  {second}  ({policy} policy)"]
    for one in results:
        a, b = one["first"], one["second"]
        lines.append(one["env"])
        for name, side in (("first", a), ("second", b)):
            seeds = f"{len(side['returns'])} seed{'s' if len(side['returns']) > 1 else ''}"
            lines.append(f"  {name:<7} IQM {number(side['iqm'])} {interval(side['iqm_ci95'])}, {seeds}")
        lines.append(f"  difference of IQM       {number(one['difference'])} {interval(one['difference_ci95'])}")
        value, *ends = one["probability_of_improvement"]
        lines.append(f"  P(first earns more)     {number(value)} {interval(ends)}")
        lines.append(f"  {_verdict(one)}")
    if len(results) > 1:
        value, *ends = chances
        lines.append(f"over {len(results)} environments: P(first earns more) {number(value)} {interval(ends)}")
    return lines


def _verdict(one: Mapping[str, Any]) -> str:
    seeds = one["seeds_to_settle"]
    if one["p"] is None:
        return "one seed says nothing about another: train at least two of each (seeds=5)"
    if one["p"] < 0.05:
        return f"the {'first' if one['difference'] > 0 else 'second'} earns more (Yuen's test, p = {one['p']:.2g})"
    if seeds is None:
        return "no difference can be seen; it is so small that 1,000 seeds of each would not show it"
    more = [max(0, seeds - len(one[side]["returns"])) for side in ("first", "second")]
    return (
        f"can't be told apart (p = {one['p']:.2g}); {seeds} seeds of each would tell, if they differ as much as it "
        f"looks now: {more[0]} more of the first, {more[1]} of the second"
    )


def _draw(names: Sequence[str], returns: Mapping[str, Sequence[Sequence[float]]], out: Path | None) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        if out is not None:
            raise UserError("--out needs matplotlib: pip install 'deeprl-cli[plot]'")
        return
    from deeprl_cli.reports.landscape import draw_profiles
    from deeprl_cli.reports.picture import save

    file = Path(PICTURE) if out is None else out.expanduser()
    if file.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"--out {file}: must end in .png or .svg: for example {file.with_suffix('.png')}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save(draw_profiles(names, returns), file)
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}): give another --out") from error
    print(f"performance profile: {file}")
