"""`deeprl list`: tables of everything you can choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deeprl_cli.commands.arguments import Parser
from deeprl_cli.commands.list_runs import SORTS, list_runs
from deeprl_cli.config.files import group_options, summary
from deeprl_cli.errors import UserError, did_you_mean
from deeprl_cli.processes.cores import available_cores

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from deeprl_cli.algorithm import Algorithm

KINDS = ("algos", "envs", "networks", "hardware", "tuned", "runs")
DESCRIBED = 8  # at most this many environments are built to show their spaces
NAMED = 12  # ids of one kind that are named; the rest is counted
ON_JAX = ("phys2d", "tabular")  # environments of gymnasium that need jax, which gymnasium doesn't install
NARROW = 24  # a column of a table is readable with this width

# what each network reads, in the words of docs/networks.md
READS = {
    "vectors": ("linear", "mlp"),
    "images": ("cnn", "linear", "mlp"),
    "Discrete": ("tabular", "linear", "mlp"),
    "MultiDiscrete": ("tabular", "linear", "mlp", "transformer"),
}


@dataclass
class Listing:
    """Rows, shown as a table, or one below the other if the table would be too narrow to read."""

    columns: Sequence[str]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    caption: str | None = None

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)

    def rendered(self, width: int) -> Table | Group:
        return self.as_table() if width >= NARROW * (len(self.columns) - 1) else self.as_blocks()

    def as_table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False, caption=self.caption)
        for index, column in enumerate(self.columns):
            table.add_column(column, no_wrap=index == 0, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def as_blocks(self) -> Group:
        from rich.console import Group
        from rich.padding import Padding
        from rich.text import Text

        lines: list[Text | Padding] = []
        for name, *cells in self.rows:
            lines.append(Text(name, style="bold"))
            described = [f"{column}: {cell}" for column, cell in zip(self.columns[1:], cells, strict=True) if cell]
            lines += [Padding(Text(text), (0, 0, 0, 2)) for text in described]
        return Group(*lines, *([Text(self.caption)] if self.caption else []))


def run(arguments: Sequence[str]) -> int:
    parser = Parser(prog="deeprl list", description="Show what you can choose from.", allow_abbrev=False)
    parser.add_argument("what", choices=KINDS, help="what to list")
    parser.add_argument(
        "filter",
        nargs="?",
        default="",
        help="only names that contain this text; a few names are described in more detail",
    )
    parser.add_argument("--sort", choices=SORTS, help="for runs: sort by this column (age)")
    parser.add_argument("--json", action="store_true", help="for runs: print them as JSON")
    flags = parser.parse_args(arguments)
    if flags.what == "runs":
        list_runs(flags.filter, sort=flags.sort or SORTS[0], as_json=flags.json)
        return 0
    if flags.sort or flags.json:
        raise UserError("--sort and --json are for runs: deeprl list runs --sort return")
    show(flags.what, flags.filter)
    return 0


def show(what: str, filter_text: str = "") -> None:
    """Print the table of algos, envs, networks, hardware or tuned values, only names that contain `filter_text`.

    Raises UserError where nothing matches.
    """
    from rich.console import Console

    tables = {"algos": algos, "envs": envs, "networks": networks, "hardware": hardware, "tuned": tuned}
    console = Console(highlight=False)
    console.print(tables[what](filter_text).rendered(console.width))
    if what == "algos" and filter_text in group_options("algo"):
        console.print()
        console.print(keys(filter_text).rendered(console.width))


def algos(filter_text: str = "") -> Listing:
    from deeprl_cli.algos.registry import algorithm_names, get_algorithm

    table = Listing(("algo=", "What it is", "Loop", "Actions", "Observations", "Reference"))
    for name in _matching(algorithm_names(), filter_text, "algorithm"):
        algorithm = get_algorithm(name)
        actions = ", ".join(space.__name__ for space in algorithm.action_spaces)
        reads = ", ".join(observations(algorithm))
        table.add_row(name, _first_line(algorithm), algorithm.loop, actions, reads, algorithm.reference)
    return table


def keys(name: str) -> Listing:
    """The keys of one algorithm, and which of them a stacked sweep trains side by side."""
    from deeprl_cli.config.compose import load_config
    from deeprl_cli.config.messages import dotted_keys
    from deeprl_cli.schema.members import own_keys
    from deeprl_cli.schema.typed import to_plain

    config = load_config([f"algo={name}", "tuned=none"]).algo
    stacks, values = own_keys(type(config)), to_plain(config)
    table = Listing(
        ("Key", "Default", "Stacks"),
        caption="stacks: may differ between runs that train together (hydra/launcher=stacked)",
    )
    for key in dotted_keys(values):
        value: Any = values
        for part in key.split("."):
            value = value[part]
        if key != "name" and not isinstance(value, dict):
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            table.add_row(f"algo.{key}", shown, "stacks" if key in stacks else "")
    return table


def _first_line(algorithm: type[Algorithm]) -> str:
    return (algorithm.__doc__ or "").strip().partition("\n")[0]


def observations(algorithm: type[Algorithm]) -> list[str]:
    """The kinds of observation that this algorithm's networks read."""
    from gymnasium.spaces import Box

    networks = set(algorithm.networks)
    if algorithm.loop == "replay" and set(algorithm.action_spaces) == {Box}:
        networks -= {"tabular", "transformer"}  # these can't read the action of Q(s, a) together with the observation
    return [kind for kind, readers in READS.items() if networks & set(readers)]


def envs(filter_text: str = "") -> Listing:
    import gymnasium

    from deeprl_cli.envs.ids import registered_ids

    ids = _matching(registered_ids(), filter_text, "environment")
    if filter_text in ids:
        ids = [filter_text]
    if len(ids) <= DESCRIBED:
        table = Listing(("env=", "Observations", "Actions", "Step limit"))
        for name in ids:
            table.add_row(name, *_described(name))
        return table
    kinds: dict[str, list[str]] = {}
    for name in ids:
        kinds.setdefault(_kind(gymnasium.registry[name]), []).append(name)
    table = Listing(("Kind", "Ids"))
    for kind, names in sorted(kinds.items()):
        shown = names if filter_text else names[:NAMED]
        rest = f", and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        table.add_row(kind, ", ".join(shown) + rest)
    table.caption = "`deeprl list envs TEXT` shows all ids that contain TEXT, with their spaces if they are few"
    return table


def _kind(spec: EnvSpec) -> str:
    """The package of environments an id belongs to: classic_control, box2d, mujoco, atari, minigrid, …"""
    import importlib.util

    from deeprl_cli.envs.ids import family

    found = family(spec)
    lacks_jax = found in ON_JAX and importlib.util.find_spec("jax") is None
    if found is None or found == "gymnasium" or lacks_jax or callable(spec.entry_point):
        return "needs more packages"
    return found


def _described(name: str) -> tuple[str, str, str]:
    """Observation space, action space and step limit of an environment; or why it can't be built."""
    import warnings

    import gymnasium

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a list of ids needs no warning that there is a newer version
            env: Any = gymnasium.make(name)
    except Exception as error:  # the row shows any error that the environment's package raises
        return f"can't be built: {str(error).splitlines()[0] if str(error) else type(error).__name__}", "", ""
    limit = env.spec.max_episode_steps
    texts = _space(env.observation_space), _space(env.action_space), str(limit or "none")
    env.close()
    return texts


def _space(space: Any) -> str:
    """A space in a few words, with its bounds if they are the same for every element."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        low, high = space.low.min(), space.high.max()
        same = (space.low == low).all() and (space.high == high).all()
        bounds = f" in [{low:g}, {high:g}]" if same else ""
        return f"Box{space.shape} {space.dtype}{bounds}"
    if isinstance(space, spaces.Dict):
        return "Dict(" + ", ".join(f"{key}: {_space(part)}" for key, part in space.spaces.items()) + ")"
    if isinstance(space, spaces.Tuple):
        return "Tuple(" + ", ".join(map(_space, space.spaces)) + ")"
    return str(space)


def networks(filter_text: str = "") -> Listing:
    import dataclasses

    from deeprl_cli.schema.run import NETWORKS

    table = Listing(("network=", "What it is", "Options (network.…)"))
    for name in _matching(group_options("network"), filter_text, "network"):
        options = [option.name for option in dataclasses.fields(NETWORKS[name]) if option.name != "name"]
        table.add_row(name, summary("network", name), ", ".join(options))
    return table


def tuned(filter_text: str = "") -> Listing:
    """The tuned values that `algo=… env=…` uses automatically: the files of pairs and of families of environments."""
    from deeprl_cli.config.tuned import FAMILIES, tuned_summary

    names = [name for name in group_options("tuned") if name != "none"]
    if filter_text:
        table = Listing(("tuned=", "Steps", "Where the values are from, and what they reached"))
        for name in _matching(names, filter_text, "pair of algorithm and environment"):
            steps, comment = tuned_summary(name)
            table.add_row(name, "" if steps is None else f"{steps:,}", comment)
        return table
    table = Listing(("algo=", "Environments with values of their own", "All others of"))
    algos: dict[str, list[str]] = {}
    for name in names:
        algo, _, env_id = name.partition("/")
        algos.setdefault(algo, []).append(env_id)
    for algo, ids in algos.items():
        own = [env_id for env_id in ids if env_id not in FAMILIES]
        table.add_row(algo, ", ".join(own), ", ".join(FAMILIES[name] for name in FAMILIES if name in ids))
    table.caption = "`deeprl list tuned TEXT` describes those whose algorithm or environment contains TEXT"
    return table


def hardware(filter_text: str = "") -> Listing:
    import torch

    there = {
        "cpu": f"{available_cores()} cores, {torch.get_num_threads()} torch threads",
        "cuda": "; ".join(_cuda_devices()) or "no CUDA device, or a torch built without CUDA",
    }
    table = Listing(("hardware=", "What it is", "On this machine"))
    for name in _matching(group_options("hardware"), filter_text, "hardware"):
        table.add_row(name, summary("hardware", name), there.get(name, ""))
    return table


def _cuda_devices() -> list[str]:
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices]


def _matching(names: Sequence[str], filter_text: str, kind: str) -> list[str]:
    found = [name for name in names if filter_text.lower() in name.lower()]
    if not found:
        raise UserError(f"no {kind} contains '{filter_text}'{did_you_mean(filter_text, names)}")
    return found
