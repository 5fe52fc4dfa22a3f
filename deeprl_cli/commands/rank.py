"""`python -m deeprl_cli.commands.rank RUN`: one rank of a run. Our launcher starts it; it is no verb for people.

A person types `deeprl resume RUN`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from deeprl_cli.errors import UserError


def main() -> None:
    """Train; returns the exit code. Errors are left to the launcher, which shows them once and doesn't start again."""
    from deeprl_cli.training.launch import LOST, leave_word, restarts, word_left

    if word_left():
        return  # it was started again, and the error would come again
    die_with_launcher()
    if restarts() and os.environ["RANK"] == "0":
        count = f"restart {restarts()} of {os.environ['TORCHELASTIC_MAX_RESTARTS']}"
        print(f"a rank died: all ranks start again ({count})", flush=True)

    from deeprl_cli.commands.resume import resume

    try:
        resume(Path(sys.argv[1]), [], trust=True)
    except UserError as error:
        leave_word(str(error), error.code)
        sys.exit(error.code)
    except SystemExit as end:
        if end.code == LOST or not isinstance(end.code, int):
            raise
        leave_word("", 0, end.code - 128)  # a clean stop after a signal to this rank alone
    except BaseException as error:
        traceback.print_exc()
        last = traceback.format_exception_only(error)[0].strip()
        leave_word(f"{sys.argv[1]}: rank {os.environ['RANK']} failed ({last}): its traceback is above", 1)
        sys.exit(1)


def die_with_launcher() -> None:
    """End cleanly when the launcher has ended in any way. (Only on Linux; elsewhere ranks may outlive it.)"""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


if __name__ == "__main__":
    main()
