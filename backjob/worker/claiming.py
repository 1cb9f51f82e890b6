"""The receiving side: from a request that says it is ours to a claimed job, and from an action's outcome to its end.

Framework-neutral: the adapters translate a request, ask `Worker.open` and `Worker.claim`, run the action within
`Running.active`, and hand what came of it to `Worker.end`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from attrs import frozen

from backjob.errors import BackgroundOnly, BackJobError, JobEnded, JobExit, JobFailed, SignatureError, StoreUnavailable
from backjob.lifecycle import CLAIM_REFUSED, REFUSAL_HEADER, End, claimed, verdict
from backjob.model import Headers, Job, Request, Status
from backjob.protocols import Clock, Signer, Store, Verified
from backjob.worker.running import Running

__all__ = ["CONCURRENCY_HEADER", "Outcome", "Refusal", "Worker", "describe", "exit_of", "no_store"]

CONCURRENCY_HEADER: Final = "backjob-concurrency"
"""On a refusal: ``one`` if the server says that it serves a single request at a time, else ``many``. For the doctor."""

_LONGEST_ERROR: Final = 2000
_NO_RESPONSE: Final = ("No response returned.",)
"""What Starlette's BaseHTTPMiddleware finds wrong itself, beside an error that is no `Exception` and left what is within."""

_log = logging.getLogger("backjob")


class Refusal(BackJobError):
    """A worker request that runs nothing. ``kind`` is the reason in one word, for the monitor that sent it."""

    def __init__(self, status: int, reason: str, kind: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.kind = kind

    @property
    def headers(self) -> Headers:
        return (*no_store(), (REFUSAL_HEADER, self.kind))


@frozen
class Outcome:
    """What came of an action: the response's first line and Location, and the error that left it, if one did."""

    status: int = 0
    reason: str = ""
    location: str | None = None
    error: BaseException | None = None


def no_store() -> Headers:
    """The fields of every answer that this package gives in the action's stead."""
    return (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    )


def describe(error: BaseException) -> str:
    """An error in one line for a job's status text: its type, and what it says."""
    try:
        said = str(error)
    except Exception:
        said = "(its text can't be had)"
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + " …"


def exit_of(error: BaseException) -> JobExit | None:
    """The `JobExit` that an error is, or that is all there is in an exception group; else None."""
    found: JobExit | None = None
    for single in _singles(error):
        if isinstance(single, JobExit):
            found = found or single
        elif not (isinstance(single, RuntimeError) and single.args == _NO_RESPONSE):
            return None
    return found


def _singles(error: BaseException) -> Iterator[BaseException]:
    """The errors in an exception group, in order; an error alone is the only one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _singles(inner)
    else:
        yield error


class Worker:
    """Recognises, claims and ends. ``settle`` takes over an end that the store could not take."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clock: Clock,
        *,
        max_body: int,
        max_output: int,
        write_later: Callable[[Running], None],
        settle: Callable[[Running, End], None],
        announce: Callable[[Job], None],
        owner: object,
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._max_body = max_body
        self._max_output = max_output
        self._write_later = write_later
        self._settle = settle
        self._announce = announce
        self.owner = owner

    def open(self, request: Request, *others: Request) -> Verified | None:
        """None for a stranger's ordinary request; a worker request with target and headers proven, or a `Refusal`.

        ``others`` are the same request, spelled as it may have been on the wire too; the first that proves counts.
        """
        if not self._signer.claims(request):
            return None
        for spelled in others:
            with suppress(SignatureError):
                return self._signer.verify(spelled, self._clock.now())
        try:
            return self._signer.verify(request, self._clock.now())
        except SignatureError as error:
            _log.warning("a worker request was refused: %s", error)
            raise Refusal(403, "Forbidden", error.kind, str(error)) from error

    def body_length(self, content_length: str | None) -> int:
        """How many bytes of body to read, or a `Refusal`: ours always say so, and keep to ``max_body``."""
        if not content_length:
            return 0
        if not (content_length.isascii() and content_length.isdigit()):
            raise Refusal(400, "Bad Request", "length", "Content-Length is no number")
        length = int(content_length[:20])
        if length > self._max_body:
            text = f"the body has {length} bytes, and max_body here is {self._max_body}"
            raise Refusal(413, "Content Too Large", "too-large", text)
        return length

    def claim(self, verified: Verified, body: bytes) -> Running:
        """Win the right to run the action, or a `Refusal`: 403 for another body, 409 if somebody else won it."""
        try:
            verified.check(body)
        except SignatureError as error:
            _log.warning("a worker request was refused: %s", error)
            raise Refusal(403, "Forbidden", error.kind, str(error)) from error
        token = secrets.token_urlsafe(16)
        expect, changes = claimed(token)
        try:
            job = self._store.change(verified.grant.job_id, expect, changes)
        except StoreUnavailable as error:
            job = self._claimed_all_the_same(verified.grant.job_id, token)
            if job is None:
                raise Refusal(503, "Service Unavailable", "unavailable", str(error)) from error
        if job is None:
            text = "this job was claimed before, has ended, or is unknown"
            raise Refusal(409, "Conflict", CLAIM_REFUSED, text)
        return Running(
            job,
            token,
            store=self._store,
            clock=self._clock,
            max_output=self._max_output,
            dirty=self._write_later,
            owner=self.owner,
        )

    def _claimed_all_the_same(self, job_id: str, token: str) -> Job | None:
        """The job, if the store made the claim and only its answer was lost: nobody else would ever run it."""
        try:
            job = self._store.get(job_id)
        except StoreUnavailable:
            return None
        return job if job is not None and job.token == token and job.status is Status.IN_PROGRESS else None

    def end(self, running: Running, outcome: Outcome) -> None:
        """Decide how the job ends, and write it. Never raises: a store that is away gets it later."""
        error = self._error_text(running, outcome)
        end = verdict(
            error=error,
            finish=running.finish,
            status=outcome.status,
            reason=outcome.reason,
            location=outcome.location,
        )
        try:
            job = running.end(end)
        except StoreUnavailable as unavailable:
            _log.info("job %s: its end will be written later: %s", running.job.id, unavailable)
            self._settle(running, end)
            return
        except Exception:
            _log.exception("job %s: its end could not be written", running.job.id)
            return
        if job is None:
            _log.info(
                "job %s had already ended; its action's end (%s) is not recorded", running.job.id, end.status.name
            )
        else:
            self._announce(job)

    def _error_text(self, running: Running, outcome: Outcome) -> str | None:
        error = outcome.error
        if error is None:
            if running.error is None and running.finish is None and not outcome.status:
                return "the action ended without a response"
            return running.error
        left = exit_of(error)
        if isinstance(left, JobFailed):
            return left.text
        if isinstance(left, JobEnded | BackgroundOnly):
            return str(left)
        return describe(error)
