"""Shell completion: Hydra completes the overrides of `train`; verbs and flags are completed here."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence

from deeprl_cli.commands import VERBS
from deeprl_cli.commands.list import KINDS
from deeprl_cli.config.files import group_options, suite_names


def complete(arguments: Sequence[str]) -> int:
    """Answer the shell, which asks by COMP_LINE; or print the script that makes it ask (`install=SHELL`)."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")[1:]
    if any(argument.startswith("query=") for argument in arguments) and (len(words) < 2 or words[0] != "train"):
        follow: dict[str, Sequence[str]] = {"list": KINDS, "bench": suite_names(), "new": ["algorithm"]}
        follow["check-algorithm"] = group_options("algo")
        choices = follow.get(words[0], []) if len(words) > 1 else VERBS
        print(" ".join(choice for choice in choices if choice.startswith(words[-1] if words else "")))
        return 0

    from deeprl_cli.config.shell import shell_completion

    with contextlib.redirect_stdout(io.StringIO()) as offered:
        shell_completion(arguments)
    # Hydra takes every folder of configurations for a group, the suites of `deeprl bench` too
    print(re.sub(r"(?<!\S)bench[=/]\S* ?", "", offered.getvalue()), end="")
    return 0
