"""The exit codes: each has one meaning, whichever command ends with it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from backjob.errors import BackJobError, InvalidRequest, JobNotFound, StoreUnavailable
from backjob.model import Status


class Exit(IntEnum):
    """How a command ended. The doctor has 10 to 20 for what it finds: see `backjob.cli.findings`."""

    SUCCESS = 0
    FAILED = 1
    CANCELLED = 2
    UNKNOWN_JOB = 3
    ENDED = 4
    NOT_DELIVERED = 5
    USAGE = 64
    UNAVAILABLE = 69
    INTERNAL = 70
    CONFIGURATION = 78
    TIMEOUT = 124
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: Final = {
    "0": "success; of a job that the command waited for: COMPLETED",
    "1": "the job that the command waited for FAILED",
    "2": "the job that the command waited for was CANCELLED",
    "3": "no job has this id",
    "4": "the job had already ended",
    "5": "deliver: not delivered: another process has the job, this one lacks its user's login, or it shuts down",
    "10–20": "doctor: the first problem",
    "64": "wrong usage, or a wrong setting",
    "69": "the store is unavailable at the moment",
    "70": "an unexpected error, with its traceback",
    "78": "the store or the configuration is unusable",
    "124": "the job did not end within the --timeout",
    "130": "Ctrl-C",
    "141": "the reader of a pipe closed it",
}
"""Each code as users write it, with its meaning."""

OF_STATUS: Final = {
    Status.COMPLETED: Exit.SUCCESS,
    Status.FAILED: Exit.FAILED,
    Status.CANCELLED: Exit.CANCELLED,
}
"""The exit code of a command that waits for a job's end."""


def exit_code(error: BackJobError) -> Exit:
    """Return the exit code for an error."""
    if isinstance(error, InvalidRequest):
        return Exit.USAGE
    if isinstance(error, JobNotFound):
        return Exit.UNKNOWN_JOB
    return Exit.UNAVAILABLE if isinstance(error, StoreUnavailable) else Exit.CONFIGURATION
