"""Decides, from the outcome of an action, what follows its run and which error the server must see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from attrs import evolve, frozen

from backjob.errors import BackgroundOnly, JobContinued, JobEnded, JobExit, JobFailed, JobRetried
from backjob.lifecycle import End, failed, verdict
from backjob.model import JsonValue, Status, clean_text
from backjob.worker.exits import is_from_signal, singles
from backjob.worker.files import Spool
from backjob.worker.messages import LONGEST_MESSAGE
from backjob.worker.running import Running, current

_LONGEST_ERROR: Final = 2000
_LONGEST_RETRY_AFTER: Final = 31 * 86400.0  # s
_NO_RESPONSE: Final = ("No response returned.",)
"""Starlette's BaseHTTPMiddleware raises this `RuntimeError` too if the application raised an error that is no `Exception`."""


@frozen(eq=False)
class Outcome:
    """The result of an action: its response's status line, Location and Retry-After (s), and the error that it raised.

    Of the response's body there are the ``message`` of an error, a ``result`` and a ``file``, or the ``problem`` because of
    which the job fails.
    """

    status: int = 0
    reason: str = ""
    location: str | None = None
    error: BaseException | None = None
    retry_after: float | None = None
    message: str | None = None
    result: JsonValue = None
    file: Spool | None = None
    problem: End | None = None


def seconds_of(retry_after: str | None, now: datetime) -> float | None:
    """Return the seconds, at most 31 days, that a Retry-After field means: it is a number of them or an HTTP date.

    None if it is neither.
    """
    text = (retry_after or "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(_LONGEST_RETRY_AFTER, float(text[:20]))
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - few responses have this field

    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(_LONGEST_RETRY_AFTER, max(0.0, (moment - now).total_seconds()))


def describe(error: BaseException) -> str:
    """Return an error's type and message in one line, for a job's status text."""
    try:
        message = str(error)
    except Exception:
        message = "(no message: its __str__ failed)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + " …"


def exit_of(error: BaseException) -> JobExit | None:
    """Return the error if it is a `JobExit`, or the first of an exception group of nothing else; otherwise None."""
    found: JobExit | None = None
    for single in singles(error):
        if isinstance(single, JobExit):
            found = found or single
        elif not (isinstance(single, RuntimeError) and single.args == _NO_RESPONSE):
            return None
    return found


def error_to_raise(running: Running, outcome: Outcome) -> BaseException | None:
    """Return the action's error if the middleware must raise it again once the job has ended.

    The server logs an exception and answers 500. It must not see ``sys.exit()``, which would end it, but it must see an
    error with which it ends itself; and ``sys.exit()`` in a child that the action has forked ends that child.
    """
    error = outcome.error
    if error is None or exit_of(error) is not None:
        return None
    if isinstance(error, Exception) or is_from_signal(error) or running.is_inherited:
        return error
    return error.subgroup(Exception) if isinstance(error, BaseExceptionGroup) else None


def status_of(outcome: Outcome) -> int:
    """Return the status of the response to a worker request after its action: of a `JobExit` its own, of an error 500."""
    job_exit = None if outcome.error is None else exit_of(outcome.error)
    return outcome.status or (500 if job_exit is None else job_exit.status)


def left_by(error: BaseException) -> JobExit | None:
    """Return what `exit_of` returns, and note it for the end of the current job.

    For adapters whose framework passes a response, but no `JobExit`, through all of its middlewares.
    """
    job_exit, running = exit_of(error), current.get()
    if job_exit is not None and running is not None:
        running.left_by = job_exit
    return job_exit


def end_of(running: Running, outcome: Outcome) -> End | None:
    """Return how the job ends after this outcome, unless it is retried; None if another request continues it."""
    if isinstance(_exit(running, outcome), JobContinued):
        return None
    job = running.job
    end = verdict(
        error=_error(running, outcome),
        finish=running.finish,
        status=outcome.status,
        reason=outcome.reason,
        location=outcome.location,
        retry_after=outcome.retry_after,
        lost_login=job.run > 1 and (job.held or job.sealed is not None),
        message=_message(running, outcome),
    )
    if end.status is not Status.COMPLETED:
        return end
    if outcome.problem is not None and running.file is None:
        return outcome.problem
    return end if outcome.result is None or end.result is not None else evolve(end, result=outcome.result)


def _message(running: Running, outcome: Outcome) -> str | None:
    """Return what an error response says: of an exception that the framework turned into it, that one's message."""
    message = outcome.message
    if message and running.keeping.is_stock_message(outcome.status, message):
        message = None
    if 400 <= outcome.status < 500 and running.message:
        message = " ".join(clean_text(running.message).split())
    if message is None or len(message) <= LONGEST_MESSAGE:
        return message
    return message[:LONGEST_MESSAGE] + " …"


def _exit(running: Running, outcome: Outcome) -> JobExit | None:
    error = outcome.error or running.left_by
    return None if error is None else exit_of(error)


def _error(running: Running, outcome: Outcome) -> End | None:
    error = outcome.error or running.left_by
    if error is None:
        if running.error is None and running.finish is None and not outcome.status:
            return failed("the action ended without a response", may_retry=True)
        return running.error
    job_exit = exit_of(error)
    if isinstance(job_exit, JobFailed):
        return failed(job_exit.text or None, unexpected=job_exit.unexpected)
    if isinstance(job_exit, JobRetried):
        return failed(job_exit.text or None, may_retry=True, retry_after=job_exit.delay)
    if isinstance(job_exit, JobEnded | BackgroundOnly):
        return failed(str(job_exit))
    exits = (single for single in singles(error) if not isinstance(single, Exception | JobExit))
    return failed(describe(next(exits, error)), may_retry=True, unexpected=True)
