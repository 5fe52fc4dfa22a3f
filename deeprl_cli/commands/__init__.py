"""The verbs of the command line, one file each: flags, help, and what the verb does.

A verb `x-y` is a module `x_y.py` with `run(arguments) -> exit code`, named in `VERBS` and in `cli.HELP`. Flags
are read before anything large is imported, so that `--help` and a mistyped flag answer at once. Code that two verbs
share is in the room that it belongs to, not here.
"""

VERBS = (
    "train",
    "resume",
    "verify",
    "eval",
    "watch",
    "export",
    "list",
    "bench",
    "plot",
    "report",
    "sweep",
    "compare",
    "tune",
    "new",
    "check-algorithm",
    "doctor",
)
