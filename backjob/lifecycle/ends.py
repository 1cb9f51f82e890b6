"""How a run ends: the end of the job, or a requeue; and the end that follows from an action's response."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, TypeAlias

from attrs import frozen

from backjob.lifecycle.keys import lasts
from backjob.model import UNSET, Changes, Job, JsonValue, Status, Unset, short_text

ROW_CHANGED: Final = "the stored row of this job was changed outside of backjob, so it was not run; start it again"
"""The text of a job whose row is not as the application wrote it."""

UNEXPECTED: Final = "unexpected"
"""The ``error`` of a job, or of a run in its history, whose text is that of an exception or of a 5xx body."""

LOGIN_EXPIRED: Final = "the login has expired; see as_owner"
"""How the text of a later run ends whose user is no longer logged in."""


@frozen
class End:
    """How a job ends: its final status, its text (None: keep the current one) and its result.

    ``may_retry``: if the job has a retry left, another run follows instead, after ``retry_after`` seconds (None: the usual).
    ``unexpected``: the text is that of an exception or of a 5xx body, which not every visitor may see. ``file`` describes the
    file that a job which succeeds has made.
    """

    status: Status
    text: str | None = None
    result: JsonValue = None
    may_retry: bool = False
    retry_after: float | None = None
    unexpected: bool = False
    file: JsonValue = None


@frozen
class Requeue:
    """Another run follows: a retry, or the next slice. ``delay`` is in seconds; ``reason`` goes into the history.

    ``unexpected`` is as for `End`.
    """

    reason: str
    delay: float = 0.0
    is_retry: bool = True
    cursor: JsonValue | Unset = UNSET
    unexpected: bool = False


Conclusion: TypeAlias = End | Requeue
"""What follows a run: the end of the job, or another run."""


def completed(text: str | None = None, result: JsonValue = None) -> End:
    """The end of a job that succeeded."""
    return End(Status.COMPLETED, text, result)


def failed(
    text: str | None, *, may_retry: bool = False, retry_after: float | None = None, unexpected: bool = False
) -> End:
    """The end of a job that failed, with the reason. ``unexpected`` is as for `End`."""
    return End(Status.FAILED, text, may_retry=may_retry, retry_after=retry_after, unexpected=unexpected)


def cancelled(text: str = "cancelled") -> End:
    """The end of a cancelled job."""
    return End(Status.CANCELLED, text)


def ended(end: End, job: Job | None = None) -> Changes:
    """The changes that end a job. COMPLETED sets the progress to 100 and writes the result.

    ``job``, as it was read before, says what stays: with ``keep_request`` the request, and a key that outlives the job's end.
    """
    is_completed = end.status is Status.COMPLETED
    return Changes(
        status=end.status,
        progress=100 if is_completed else UNSET,
        status_text=UNSET if end.text is None else short_text(end.text),
        result=end.result if is_completed else UNSET,
        error=UNEXPECTED if end.unexpected else UNSET,
        file=end.file if is_completed and end.file is not None else UNSET,
        alive=True,
        end=True,
        keep_request=job is not None and job.keep_request,
        keep_key=job is not None and lasts(job.merge_key),
    )


def status_line(status: int, reason: str = "") -> str:
    """A status with its standard phrase, because servers' phrases differ; an unregistered one with the given reason."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} {reason}".strip()


def verdict(
    *,
    error: End | None,
    finish: End | None,
    status: int,
    reason: str = "",
    location: str | None = None,
    retry_after: float | None = None,
    lost_login: bool = False,
    message: str | None = None,
) -> End:
    """The end of a job whose action returned: the error, else the recorded finish, else COMPLETED for a 2xx, else FAILED.

    408, 425, 429 and 5xx may be retried, after ``retry_after`` seconds if the response says so. ``lost_login``: this is a
    later run with the user's credentials, so that a 401 or a redirect means that they are no longer valid. ``message`` is
    what the error response says.
    """
    if error is not None:
        return error
    if finish is not None:
        return finish
    if 200 <= status < 300:
        return completed()
    line = status_line(status, reason)
    text = f"{line} → {location}" if location else line
    if lost_login and (status == 401 or (300 <= status < 400 and location)):
        text = f"{text}: {LOGIN_EXPIRED}"
    elif message:
        text = f"{text}: {message}"
    is_server_error = 500 <= status < 600
    return failed(
        text,
        may_retry=status in (408, 425, 429) or is_server_error,
        retry_after=retry_after,
        unexpected=is_server_error and bool(message),
    )
