"""The message when a run fails: where it stopped, which checkpoint there is, and how to go on."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from deeprl_cli.errors import TrainingError, UserError, text_of
from deeprl_cli.plugins.classes import where_raised
from deeprl_cli.training.share import Share

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)  # disk full, gone, or not ours


def explained(shares: Sequence[Share], step: int, error: Exception) -> Exception:
    """`error`, which ended the training, with what the user needs to go on: another to raise, or the same with a note
    that stands below its traceback.

    An environment that fails on actions which are no numbers isn't to blame: the parameters are named that gave them.
    It ended the first of `shares`, or all of them.
    """
    run, where = shares[0].outlet.name, standing(shares[0], step)
    if isinstance(error, OSError) and error.errno in DISK:
        return UserError(f"{run}: can't be written ({error.strerror}): {where}; make room, then `deeprl resume {run}`")
    bad = None if isinstance(error, TrainingError) else bad_tensor(shares)
    if bad is not None:
        return TrainingError(f"{run}: {bad}; then {first_line(error)}; {where}: look at rewards and learning rates")
    if isinstance(error, UserError):
        mend = "look at rewards and learning rates" if isinstance(error, TrainingError) else "mend it"
        return type(error)(f"{run}: {error}; {where}: {mend}, then `deeprl resume {run}`")
    error.add_note(f"deeprl: {run}: {where}; fix this, then `deeprl resume {run}`")
    return error


def standing(share: Share, step: int) -> str:
    """Where the run stopped, and from where it would go on."""
    kept = share.checkpoint_step
    last = f"the last whole checkpoint is of step {kept}" if kept is not None else "there is no checkpoint yet"
    return f"stopped at step {step}, {last}"


def bad_tensor(shares: Sequence[Share]) -> str | None:
    """A parameter or statistic that holds NaN or infinity, and of which seed."""
    for share in shares:
        for index, seed in enumerate(share.job.seed_list):
            if (found := share.watch.bad_tensor(index)) is not None:
                return f"seed {seed}: {found}"
    return None


def in_a_line(error: BaseException) -> str:
    """The error in one line, for summary.json; with type and place if the user can't fix it."""
    return first_line(error) if isinstance(error, UserError) else where_raised(error)


def first_line(error: BaseException) -> str:
    return text_of(error) or type(error).__name__
