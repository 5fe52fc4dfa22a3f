"""The verbs of the command line, one file each: flags, help, and what the verb does.

A verb `x-y` is a module `x_y.py` with `run(arguments) -> exit code`, named in `VERBS` and in `cli.HELP`. Flags
are read before anything large is imported, so that `--help` and a mistyped flag answer at once. What two verbs share
doesn't live here, but in the room whose matter it is.
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
