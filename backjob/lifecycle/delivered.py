"""What the monitor does after it has sent a worker request."""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen

from backjob.lifecycle.ends import End, failed, status_line
from backjob.model import Job, Response

REFUSAL_HEADER: Final = "backjob-refusal"
"""Marks a response as the middleware's own refusal; its value is the reason in one word."""

CLAIM_REFUSED: Final = "claimed"

BUSY: Final = "busy"
"""The refusal of a process that runs as many jobs as it may, or that is draining. It counts as no failure."""

_RETRY_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
_RETRY_REFUSALS: Final = ("unknown-key", "unavailable", CLAIM_REFUSED, BUSY)
_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 10.0


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
