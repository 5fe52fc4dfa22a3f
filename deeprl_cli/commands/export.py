"""`deeprl export RUN`: the trained policy as one file, for programs without deeprl."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deeprl_cli.commands.arguments import Parser, natural
from deeprl_cli.commands.counting import counting
from deeprl_cli.runs.catalogue import find
from deeprl_cli.runs.folder import chosen_seed, find_run

if TYPE_CHECKING:
    from deeprl_cli.deploy.exporting import Export


def run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="deeprl export",
        description="Write a trained policy to one file: observations as the environment gives them go in, its actions "
        "come out. The file is written only if it acts like the policy.",
        allow_abbrev=False,
    )
    parser.takes_run()
    parser.add_argument(
        "--to", choices=["onnx", "torch"], default="onnx", help="ONNX (the default), or torch's own .pt2"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write (policy.onnx or policy.pt2 in RUN/seed_K)"
    )
    parser.add_argument(
        "--stochastic", action="store_true", help="sample actions; the file then has noise as a second input"
    )
    parser.takes_checkpoint("--which")
    parser.add_argument("--seed", type=natural, metavar="K", help="which of the run's seeds (the first)")
    flags = parser.parse_args(arguments)
    path = find(flags.run)
    find_run(path)  # a mistyped folder is refused before torch is loaded

    from deeprl_cli.deploy.exporting import ENDINGS, export
    from deeprl_cli.deploy.loading import load_policies
    from deeprl_cli.runs.reading import read_run

    folder, cfg = read_run(path, flags.trust)
    seed = chosen_seed(path, flags.seed, cfg.seed_list)
    kept = load_policies(folder, cfg, flags.checkpoint, trust=flags.trust)[cfg.seed if seed is None else seed]
    name = "policy_stochastic" if flags.stochastic else "policy"
    out = flags.out or folder / f"seed_{kept.seed}" / f"{name}{ENDINGS[flags.to]}"
    with counting(f"{out.name}: graph, file, playing, comparing") as counted:
        made = export(kept, cfg, out, to=flags.to, stochastic=flags.stochastic, told=counted)
    print(told(made, flags.to))
    return 0


def told(made: Export, to: str) -> str:
    """What was written, its inputs and outputs, how closely it agrees with the policy, and how to use it."""
    card, agreement, size = made.card, made.agreement, max(made.size // 1000, 1)
    lines = [
        f"{made.path}: {card.algo} on {card.env.id}, seed {card.seed}, {card.checkpoint} policy of step {card.step:,} "
        f"({size:,} kB)"
    ]
    for port in (card.observation, card.noise, card.action, card.scores):
        if port is not None:
            shape = ", ".join(["batch", *map(str, port.shape)])
            lines.append(f"  {port.name}: {port.dtype} ({shape}), {port.meaning}")
    if card.frame_stack:
        lines.append(f"  the last {card.frame_stack} frames must be kept by you: the file remembers nothing")
    actions = f", {agreement.flips} actions differ" if "int" in card.action.dtype else ""
    lines.append(
        f"  largest difference from the policy {agreement.largest:.1e}{actions}: {agreement.random} random and "
        f"{agreement.recorded} recorded observations"
    )
    if to == "torch":
        lines.append(f"load it with torch alone: torch.export.load({str(made.path)!r}).module()")
    elif card.env.backend != "envpool":
        lines.append(f"play it without torch: deeprl eval {shlex.quote(str(made.path))} --env {card.env.id}")
    return "\n".join(lines)
