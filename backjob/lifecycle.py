"""The state machine of a job: pure functions that decide what to write or to do next.

They use no clock, store or socket; `backjob.delivery` and `backjob.worker` carry out their decisions.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from http import HTTPStatus
from typing import Final

from attrs import frozen

from backjob.model import UNSET, Changes, Expect, Job, JsonValue, Response, Status, short_text

__all__ = [
    "CLAIM_REFUSED",
    "REFUSAL_HEADER",
    "ROW_CHANGED",
    "WAITING_TEXTS",
    "End",
    "Next",
    "Step",
    "after_answer",
    "after_silence",
    "backoff",
    "cancelled",
    "claimed",
    "completed",
    "ended",
    "failed",
    "local_deadline",
    "overdue",
    "status_line",
    "verdict",
    "waiting_for",
    "waits_until_sent",
]

REFUSAL_HEADER: Final = "backjob-refusal"
"""Marks a response as the middleware's own refusal; its value is the reason in one word."""

CLAIM_REFUSED: Final = "claimed"

ROW_CHANGED: Final = "the stored row of this job was changed outside of backjob, so it was not run; start it again"
"""The text of a job whose row is not as the application wrote it."""

_RETRY_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
_RETRY_REFUSALS: Final = ("unknown-key", "unavailable", CLAIM_REFUSED)
_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 10.0


@frozen
class End:
    """How a job ends: its final status, its text (None: keep the current one) and its result."""

    status: Status
    text: str | None = None
    result: JsonValue = None


def completed(text: str | None = None, result: JsonValue = None) -> End:
    """The end of a job that succeeded."""
    return End(Status.COMPLETED, text, result)


def failed(text: str | None) -> End:
    """The end of a job that failed, with the reason."""
    return End(Status.FAILED, text)


def cancelled(text: str = "cancelled") -> End:
    """The end of a cancelled job."""
    return End(Status.CANCELLED, text)


def ended(end: End) -> Changes:
    """The changes that end a job. COMPLETED sets the progress to 100 and writes the result."""
    is_completed = end.status is Status.COMPLETED
    return Changes(
        status=end.status,
        progress=100 if is_completed else UNSET,
        status_text=UNSET if end.text is None else short_text(end.text),
        result=end.result if is_completed else UNSET,
        alive=True,
        end=True,
    )


def claimed(token: str) -> tuple[Expect, Changes]:
    """The claim: STARTED → IN_PROGRESS, with the token that fences every later write of this attempt."""
    return Expect(status=Status.STARTED), Changes(
        status=Status.IN_PROGRESS,
        token=token,
        lessee=None,
        lease=None,
        waiting_for=None,
        alive=True,
        erase_sealed=True,
    )


def overdue(job: Job) -> End | None:
    """The end of a job that has timed out by the store's clock, or None. It times out exactly at the limit."""
    if job.status is Status.IN_PROGRESS and job.read_time >= job.updated_time + timedelta(seconds=job.error_timeout):
        return failed(f"job timeout: no sign of life for {job.error_timeout:g} s")
    if job.status is Status.STARTED and job.read_time >= job.deliver_by:
        seconds = (job.deliver_by - job.start_time).total_seconds()
        return failed(f"job timeout: not delivered within {seconds:g} s")
    return None


WAITING_TEXTS: Final = {
    "connection": "no connection to the application yet",
    "proof": "no answer by this application at its address yet",
}
"""The reasons why a job waits, as the status text of a job that has none."""


def waiting_for(job: Job) -> str | None:
    """Why a job is not running yet, in one word; None if it waits for nothing, runs or has ended."""
    is_early = job.status is Status.STARTED and job.start_time > job.read_time
    return "due" if is_early else job.waiting_for


def local_deadline(job: Job, now: datetime) -> datetime:
    """``deliver_by`` by the caller's clock, which showed ``now`` when the store read the job.

    Clocks that differ by less than a second count as equal, so that reading does not shorten a signature's validity.
    """
    if abs(now - job.read_time) < timedelta(seconds=1):
        return job.deliver_by
    return now + (job.deliver_by - job.read_time)


def waits_until_sent(merge_key: str | None) -> bool:
    """Whether the merge key joins only jobs that are not sent yet, so that it must be freed before sending."""
    return merge_key is not None and merge_key.startswith("pending:")


def status_line(status: int, reason: str = "") -> str:
    """A status with its standard phrase, because servers' phrases differ; an unregistered one with the given reason."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} {reason}".strip()


def verdict(
    *, error: str | None, finish: End | None, status: int, reason: str = "", location: str | None = None
) -> End:
    """The end of a job whose action returned: the error, else the recorded finish, else COMPLETED for a 2xx, else FAILED.

    An error with an empty text keeps the current status text.
    """
    if error is not None:
        return failed(error or None)
    if finish is not None:
        return finish
    if 200 <= status < 300:
        return completed()
    line = status_line(status, reason)
    return failed(f"{line} → {location}" if location else line)


# --- after a delivery -----------------------------------------------------------------------------------------------


class Next(Enum):
    """The monitor's next step after a delivery."""

    DONE = "done"
    """The job has ended."""
    WATCH = "watch"
    """A worker request claimed the job, so the outcome of the connection proves nothing."""
    RETRY = "retry"
    """Deliver again, with backoff."""
    END = "end"
    """It can't be delivered: end it if it is still STARTED."""


@frozen
class Step:
    """A decision; with END, the end to write."""

    next: Next
    end: End | None = None


def _settled(job: Job | None) -> Step | None:
    if job is None or job.status.is_final:
        return Step(Next.DONE)
    if job.status is Status.IN_PROGRESS:
        return Step(Next.WATCH)
    return None


def after_silence(job: Job | None) -> Step:
    """After `NotSent` or `ConnectionLost`: deliver again if the job is still STARTED."""
    return _settled(job) or Step(Next.RETRY)


def after_answer(job: Job | None, response: Response) -> Step:
    """After a complete response, which counts only while the job is STARTED. A header marks our own refusals."""
    settled = _settled(job)
    if settled is not None:
        return settled
    refusal = response.header(REFUSAL_HEADER)
    is_retried = response.status in _RETRY_STATUSES if refusal is None else refusal in _RETRY_REFUSALS
    if is_retried:
        return Step(Next.RETRY)
    return Step(Next.END, failed(_unclaimed(response, refusal)))


def _unclaimed(response: Response, refusal: str | None) -> str:
    line = status_line(response.status, response.reason)
    location = response.header("location")
    if location:
        line += f" → {location}"
    if refusal is not None:
        detail = response.body[:300].decode("utf-8", "replace").strip()
        return f"{line}: the middleware refused the worker request ({refusal}). {detail}".rstrip()
    text = f"{line}: answered, but the middleware did not claim the job: is it installed, or does a login page answer first?"
    if response.status == 400:
        text += " A 400 may mean a server that refuses the method (httptools: custom verbs), the Host or a long header."
    if response.status == 405:
        text += " A 405 means a server or proxy that does not allow this method."
    return text


def backoff(failures: int) -> float:
    """Seconds until the next attempt after this many failures: 0.1, 0.2, 0.4 … 10."""
    return min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(max(failures - 1, 0), 20))
