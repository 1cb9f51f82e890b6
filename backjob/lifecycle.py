"""The state machine of a job: pure functions that decide what to write or to do next.

They use no clock, store or socket; `backjob.delivery` and `backjob.worker` carry out their decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from http import HTTPStatus
from typing import Final, TypeAlias, cast

from attrs import frozen

from backjob.model import UNSET, Changes, Expect, Job, JsonValue, Response, Status, Unset, short_text

__all__ = [
    "BUSY",
    "CLAIM_REFUSED",
    "DELIVERY_LEASE",
    "REFUSAL_HEADER",
    "ROW_CHANGED",
    "TIMED_OUT",
    "WAITING_TEXTS",
    "Conclusion",
    "End",
    "Late",
    "Next",
    "Requeue",
    "Step",
    "after_answer",
    "after_run",
    "after_silence",
    "backoff",
    "cancelled",
    "claimed",
    "completed",
    "concluded",
    "continued",
    "ended",
    "failed",
    "history_of",
    "late",
    "local_deadline",
    "overdue",
    "past_end",
    "reaped",
    "requeued",
    "status_line",
    "timed_out",
    "verdict",
    "waiting_for",
    "waits_until_sent",
]

REFUSAL_HEADER: Final = "backjob-refusal"
"""Marks a response as the middleware's own refusal; its value is the reason in one word."""

CLAIM_REFUSED: Final = "claimed"

BUSY: Final = "busy"
"""The refusal of a process that runs as many jobs as it may, or that is draining. It counts as no failure."""

DELIVERY_LEASE: Final = 30.0
"""Seconds that a monitor's lease of a waiting job lasts. The monitor renews it after half of them."""

TIMED_OUT: Final = "timed-out"
"""The token of a run that has timed out while its process lives: the job waits for its lease to end before it is retried."""

ROW_CHANGED: Final = "the stored row of this job was changed outside of backjob, so it was not run; start it again"
"""The text of a job whose row is not as the application wrote it."""

_RETRY_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
_RETRY_REFUSALS: Final = ("unknown-key", "unavailable", CLAIM_REFUSED, BUSY)
_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 10.0
_LONGEST_RETRY_DELAY: Final = 3600.0  # s
_LONGEST_RETRY_AFTER: Final = 31 * 86400.0  # s
_JITTER: Final = 0.2
_FIRST_ENTRIES: Final = 50
_MOST_ENTRIES: Final = 100
_PLACE_AFTER: Final = 1.0  # s: sending takes a moment even if there is room
_LOGIN_EXPIRED: Final = "the login has expired; see as_owner"


@frozen
class End:
    """How a job ends: its final status, its text (None: keep the current one) and its result.

    ``may_retry``: if the job has a retry left, another run follows instead, after ``retry_after`` seconds (None: the usual).
    """

    status: Status
    text: str | None = None
    result: JsonValue = None
    may_retry: bool = False
    retry_after: float | None = None


@frozen
class Requeue:
    """Another run follows: a retry, or the next slice. ``delay`` is in seconds; ``reason`` goes into the history."""

    reason: str
    delay: float = 0.0
    is_retry: bool = True
    cursor: JsonValue | Unset = UNSET


Conclusion: TypeAlias = End | Requeue
"""What follows a run: the end of the job, or another run."""


def completed(text: str | None = None, result: JsonValue = None) -> End:
    """The end of a job that succeeded."""
    return End(Status.COMPLETED, text, result)


def failed(text: str | None, *, may_retry: bool = False, retry_after: float | None = None) -> End:
    """The end of a job that failed, with the reason."""
    return End(Status.FAILED, text, may_retry=may_retry, retry_after=retry_after)


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


def claimed(token: str, run: int, lease: float) -> tuple[Expect, Changes]:
    """The claim of this run, for ``lease`` seconds, with the token that fences every later write of the run.

    ``lessee`` stays: with credentials that only the delivering process has, it must deliver the next slice too.
    """
    return Expect(run=run, unclaimed=True), Changes(
        status=Status.IN_PROGRESS,
        token=token,
        lease=lease,
        waiting_for=None,
        expires=None,
        claimed=True,
        alive=True,
    )


# --- runs -----------------------------------------------------------------------------------------------------------


def continued(cursor: JsonValue | Unset = UNSET) -> Requeue:
    """The next slice, from a cursor (UNSET: from the last checkpoint)."""
    return Requeue("continued", is_retry=False, cursor=cursor)


def after_run(job: Job, end: End, spread: float) -> Conclusion:
    """The end of a job, or another run if it may be retried and has a retry left.

    ``spread``, from -1 to 1, is random: it keeps jobs that failed together from returning together.
    """
    if not end.may_retry or job.attempt > job.retries:
        return end
    delay = min(_LONGEST_RETRY_DELAY, job.retry_delay * 2.0 ** min(job.attempt - 1, 30)) * (1 + _JITTER * spread)
    delay = min(_LONGEST_RETRY_DELAY, delay)
    if end.retry_after is not None:
        delay = min(_LONGEST_RETRY_AFTER, max(0.0, end.retry_after))
    return Requeue(end.text or "failed", delay)


def requeued(job: Job, requeue: Requeue, at: datetime) -> Changes:
    """The changes that end a run and have the job wait for the next one.

    ``at`` is the end of the run (UTC). A job between two slices stays IN_PROGRESS, and a moved cursor resets the attempts.
    A retry without a checkpoint begins from the start. If only its lessee has the credentials, the lease stays there.
    """
    has_cursor = job.cursor is not None if isinstance(requeue.cursor, Unset) else requeue.cursor is not None
    return Changes(
        status=Status.STARTED if requeue.is_retry else UNSET,
        run=job.run + 1,
        attempt=job.attempt + 1 if requeue.is_retry else 1,
        delivery=1,
        token=None,
        progress=0 if requeue.is_retry and not has_cursor else UNSET,
        lessee=UNSET if job.held else None,
        lease=requeue.delay + DELIVERY_LEASE if job.held else None,
        due=requeue.delay,
        deliver_by=None,
        slot=None,
        cursor=requeue.cursor,
        history=_lengthened(job, requeue.reason, at),
        alive=True,
    )


def concluded(job: Job, conclusion: Conclusion, at: datetime) -> Changes:
    """The changes that follow a run which ended at ``at`` (UTC)."""
    return ended(conclusion) if isinstance(conclusion, End) else requeued(job, conclusion, at)


def history_of(job: Job) -> Sequence[Mapping[str, JsonValue]]:
    """The earlier runs, oldest first: ``run``, ``begin`` and ``end`` (ISO 8601), ``reason``. Of many, some are left out."""
    return cast("Sequence[Mapping[str, JsonValue]]", job.history or ())


def _lengthened(job: Job, reason: str, at: datetime) -> JsonValue:
    begin = job.claimed_time
    entry: Mapping[str, JsonValue] = {
        "run": job.run,
        "begin": None if begin is None else begin.isoformat(),
        "end": at.isoformat(),
        "reason": reason[:500],
    }
    entries = list(history_of(job))
    if len(entries) >= _MOST_ENTRIES:
        del entries[_FIRST_ENTRIES]
    return [*entries, entry]


# --- time limits ----------------------------------------------------------------------------------------------------


class Late(Enum):
    """Which time limit a job has passed, by the store's clock. It passes one exactly at the limit."""

    DEAD = "dead"
    """Its run lease is over: the process that ran it has ended, or can't reach the store."""
    SILENT = "silent"
    """Its process lives, but its action has reported nothing for ``error_timeout``."""
    UNDELIVERED = "undelivered"
    """It was sent, but not claimed by ``deliver_by``."""
    EXPIRED = "expired"
    """It was not claimed before it expired."""


def late(job: Job) -> Late | None:
    """Which time limit a job has passed, or None."""
    now = job.read_time
    if job.status.is_final:
        return None
    if job.is_waiting:
        if job.expires is not None and job.expires <= now:
            return Late.EXPIRED
        return Late.UNDELIVERED if job.deliver_by is not None and job.deliver_by <= now else None
    if job.lease_until is not None and job.lease_until <= now:
        return Late.DEAD
    if job.token == TIMED_OUT or not job.error_timeout:
        return None
    return Late.SILENT if job.updated_time + timedelta(seconds=job.error_timeout) <= now else None


def overdue(job: Job) -> End | None:
    """The end of a job that has passed a time limit, if it is not retried; otherwise None."""
    limit = late(job)
    return None if limit is None else past_end(job, limit)


def past_end(job: Job, limit: Late) -> End:
    """The end of a job that has passed this limit, if it is not retried."""
    if limit is Late.EXPIRED:
        return failed("expired: not started in time")
    if limit is Late.UNDELIVERED:
        return failed("job timeout: sent, but not taken by the application in time")
    if limit is Late.DEAD and job.token != TIMED_OUT:
        return failed("the process that ran it ended", may_retry=True)
    return failed(f"job timeout: no sign of life for {job.error_timeout:g} s", may_retry=True)


def timed_out(job: Job) -> tuple[Expect, Changes]:
    """Fence a run that has timed out while its process lives. It is retried once its lease is over, or its action returned."""
    return Expect(status=Status.IN_PROGRESS, run=job.run, token=job.token, version=job.version), Changes(
        token=TIMED_OUT
    )


def reaped(job: Job, limit: Late) -> Expect:
    """The condition under which a job may be ended or requeued because it has passed this limit."""
    if limit is Late.DEAD:
        return Expect(run=job.run, token=job.token, lease_over=True)
    return Expect(run=job.run, token=job.token, version=job.version, unclaimed=job.is_waiting)


# --- waiting --------------------------------------------------------------------------------------------------------

WAITING_TEXTS: Final = {
    "place": "waiting for a free place",
    "connection": "no connection to the application yet",
    "proof": "no answer by this application at its address yet",
    "store": "the application can't reach its job store yet",
    "engine": "waiting for the engine that runs this queue",
}
"""The reasons why a job waits, as the status text of a job that has none."""


def waiting_for(job: Job) -> str | None:
    """Why a job is not running yet, in one word; None if it waits for nothing, runs, is between slices or has ended."""
    if not job.is_waiting or job.status is not Status.STARTED:
        return None
    if job.start_time > job.read_time:
        return "due"
    if job.waiting_for is not None:
        return job.waiting_for
    is_unsent = job.deliver_by is None and job.read_time - job.start_time > timedelta(seconds=_PLACE_AFTER)
    return "place" if is_unsent else None


def local_deadline(job: Job, now: datetime, delivery_timeout: float) -> datetime:
    """``deliver_by`` by the caller's clock, which showed ``now`` when the store read the job; at first a timeout from now.

    Clocks that differ by less than a second count as equal, so that reading does not shorten a signature's validity.
    """
    if job.deliver_by is None:
        return now + timedelta(seconds=delivery_timeout)
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
    *,
    error: End | None,
    finish: End | None,
    status: int,
    reason: str = "",
    location: str | None = None,
    retry_after: float | None = None,
    lost_login: bool = False,
) -> End:
    """The end of a job whose action returned: the error, else the recorded finish, else COMPLETED for a 2xx, else FAILED.

    408, 425, 429 and 5xx may be retried, after ``retry_after`` seconds if the response says so. ``lost_login``: this is a
    later run with the user's credentials, so that a 401 or a redirect means that they are no longer valid.
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
        text = f"{text}: {_LOGIN_EXPIRED}"
    may_retry = status in (408, 425, 429) or 500 <= status < 600
    return failed(text, may_retry=may_retry, retry_after=retry_after)


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


def _settled(job: Job | None, run: int) -> Step | None:
    if job is None or job.status.is_final:
        return Step(Next.DONE)
    if job.run != run or not job.is_waiting:
        return Step(Next.WATCH)
    return None


def after_silence(job: Job | None, run: int) -> Step:
    """After `NotSent` or `ConnectionLost`: deliver again if the job still waits for the run that was sent."""
    return _settled(job, run) or Step(Next.RETRY)


def after_answer(job: Job | None, run: int, response: Response) -> Step:
    """After a complete response, which counts only while the job waits for that run. A header marks our own refusals."""
    settled = _settled(job, run)
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
