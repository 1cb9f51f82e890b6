"""The four steps from a worker request to the end of its job, the same in every middleware.

Each step needs the result of the one before, so an adapter can't change their order:

1. **Open**: ``opened = worker.open(request)`` verifies the signature of target and headers, before the body is read.
   It returns None for any other request, which the middleware passes on.
2. **Length**: the adapter reads ``opened.length`` bytes. `Worker.open` has refused a body that is longer than ``max_body``.
3. **Claim**: ``running = worker.claim(opened, body)`` verifies the body and claims the job in the store. From here on,
   only this request may run the action, so the adapter no longer lets a lost connection interrupt it.
4. **End**: the adapter restores the request, runs the action within ``running.active()``, closes the action's response and
   calls ``worker.end(running, outcome)``. The response to the monitor comes last: when it arrives, the end is written.

Steps 1 and 3 raise `Reply` if no action runs; the adapter sends it as the response. It is the answer to a probe, or a
`Refusal`. Only steps 3 and 4 use
the store.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from attrs import frozen

from backjob.errors import (
    AddressUnknown,
    BackgroundOnly,
    BackJobError,
    JobEnded,
    JobExit,
    JobFailed,
    SignatureError,
    StoreError,
    StoreUnavailable,
)
from backjob.http.listening import Listener
from backjob.http.marks import MARK_LABEL, PROBE_ATTEMPT, mark
from backjob.lifecycle import CLAIM_REFUSED, REFUSAL_HEADER, ROW_CHANGED, End, claimed, ended, failed, verdict
from backjob.model import Expect, Headers, Job, Request, Status
from backjob.process import Outage, RareWarnings
from backjob.protocols import Clock, Signer, Store, Verified
from backjob.worker.exits import call_contained, is_from_signal, singles
from backjob.worker.running import Running, current

CONCURRENCY_HEADER: Final = "backjob-concurrency"
"""In a refusal: ``one`` if the server declares that it serves one request at a time, else ``many``. The doctor reads it."""

_LONGEST_ERROR: Final = 2000
_NO_RESPONSE: Final = ("No response returned.",)
"""Starlette's BaseHTTPMiddleware raises this `RuntimeError` too if the application raised an error that is no `Exception`."""

_log = logging.getLogger("backjob")


class Reply(BackJobError):
    """The response to a worker request for which no action runs. The adapter sends it after ``hold`` seconds."""

    def __init__(self, status: int, reason: str, text: str, headers: Headers = (), hold: float = 0.0) -> None:
        super().__init__(text)
        self.hold = hold
        self.status = status
        self.reason = reason
        self.headers: Headers = (*no_store(), *headers)


class Refusal(Reply):
    """The response to a worker request that must not run. ``kind`` is the reason in one word, for the monitor."""

    def __init__(self, status: int, reason: str, kind: str, text: str, mark: Headers = ()) -> None:
        super().__init__(status, reason, text, ((REFUSAL_HEADER, kind), *mark))
        self.kind = kind


@frozen
class WorkerRequest:
    """A worker request with a valid signature. Read ``length`` bytes of body, and pass both to `Worker.claim`.

    Each response to it has the fields ``mark``, which prove that this application gave it.
    """

    verified: Verified
    length: int
    mark: Headers = ()

    @property
    def headers(self) -> Headers:
        """The header fields of the response after its action has run."""
        return (*no_store(), *self.mark)

    @property
    def request(self) -> Request:
        """The request that the action gets, without the signature."""
        return self.verified.request


class Inheritance(Protocol):
    """Knows which header fields of the request that started a job its action gets."""

    def logins(self, job_id: str, request: Request) -> Mapping[str, str | None]:
        """Return the fields of logins that this worker request carries; None removes one. Raises `SignatureError`."""
        ...

    def context(self, job: Job) -> Mapping[str, str | None]:
        """Return the other fields, from the job."""
        ...


@frozen
class Outcome:
    """The result of an action: its response's status line and Location, and the error that it raised, if any."""

    status: int = 0
    reason: str = ""
    location: str | None = None
    error: BaseException | None = None


def no_store() -> Headers:
    """Return the header fields of each response that backjob sends instead of the action's."""
    return (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    )


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


def left_by(error: BaseException) -> JobExit | None:
    """Return what `exit_of` returns, and note it for the end of the current job.

    For adapters whose framework passes a response, but no `JobExit`, through all of its middlewares.
    """
    job_exit, running = exit_of(error), current.get()
    if job_exit is not None and running is not None:
        running.left_by = job_exit
    return job_exit


class Worker:
    """The four steps of this module. ``settle`` takes over an end that could not be written to the store."""

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
        is_authentic: Callable[[Job, bytes], bool],
        inheritance: Inheritance,
        owner: object,
    ) -> None:
        self._store = store
        self._signer = signer
        self._mark_key = signer.derive(MARK_LABEL)[0]
        self._clock = clock
        self._warnings = RareWarnings(clock)
        self._max_body = max_body
        self._max_output = max_output
        self._write_later = write_later
        self._settle = settle
        self._announce = announce
        self._is_authentic = is_authentic
        self._faults = Outage(clock)
        self._running: set[Running] = set()
        self._inheritance = inheritance
        self.owner = owner

    @property
    def is_busy(self) -> bool:
        """Whether this process runs jobs."""
        return any(not running.is_inherited for running in self._running.copy())

    def open(
        self, request: Request, *others: Request, listener_of: Callable[[], Listener] | None = None
    ) -> WorkerRequest | None:
        """Return None for an ordinary request, and a worker request once its signature and length are checked.

        ``others`` are other forms that the same request may have had on the wire; the first that has a valid signature
        is used. ``listener_of()`` returns the server's socket, whose port is in the mark, or raises `AddressUnknown`. Raises
        `Reply` to a probe, and `Refusal`: 403, 400 or 413.
        """
        try:
            is_claimed = self._signer.claims(request)
        except Exception as error:  # an ordinary page must not fail because of it
            self._faults.warn("the signer can't tell whether a request is a worker request: %r", error)
            return None
        if not is_claimed:
            return None
        verified = self._verify(request, others)
        grant = verified.grant
        marked = mark(self._mark_key, grant.job_id, grant.attempt, _port(listener_of))
        if grant.attempt == PROBE_ATTEMPT:
            raise Reply(200, "OK", "", marked)
        return WorkerRequest(verified, self._body_length(request, marked), marked)

    def _verify(self, request: Request, others: tuple[Request, ...]) -> Verified:
        for spelling in others:
            with suppress(SignatureError):
                return self._signer.verify(spelling, self._clock.now())
        try:
            return self._signer.verify(request, self._clock.now())
        except SignatureError as error:
            raise self._forbidden(error) from error
        except Exception as error:
            _log.exception("a worker request could not be verified")
            raise Refusal(500, "Internal Server Error", "unverified", "it could not be verified") from error

    def _forbidden(self, error: SignatureError, mark: Headers = ()) -> Refusal:
        self._warnings.warn(error.kind, "a worker request was refused: %s", error)
        return Refusal(403, "Forbidden", error.kind, str(error), mark)

    def _body_length(self, request: Request, mark: Headers) -> int:
        """Return how many bytes to read; the monitor always sends a Content-Length with a body."""
        length = next((value for name, value in request.headers if name.lower() == "content-length"), "") or "0"
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "Bad Request", "length", "Content-Length is not a number", mark)
        size = int(length[:20])
        if size > self._max_body:
            text = f"the body has {size} bytes, and max_body here is {self._max_body}"
            raise Refusal(413, "Content Too Large", "too-large", text, mark)
        return size

    def claim(self, opened: WorkerRequest, body: bytes) -> Running:
        """Claim the job for this request. Raises `Refusal`: 403 for another body, 409 if it can't be claimed, or 503."""
        verified = opened.verified
        try:
            verified.check(body)
            logins = self._inheritance.logins(verified.grant.job_id, verified.request)
        except SignatureError as error:
            raise self._forbidden(error, opened.mark) from error
        token = secrets.token_urlsafe(16)
        expect, changes = claimed(token)
        try:
            job = self._store.change(verified.grant.job_id, expect, changes)
        except StoreUnavailable as error:
            job = self._claimed_after_all(verified.grant.job_id, token)
            if job is None:
                raise Refusal(503, "Service Unavailable", "unavailable", str(error), opened.mark) from error
        if job is None:
            text = "this job was claimed before, has ended, or is unknown"
            raise Refusal(409, "Conflict", CLAIM_REFUSED, text, opened.mark)
        if not self._is_authentic(job, body):
            self._refuse_row(job, token, opened)
        running = Running(
            job,
            token,
            store=self._store,
            clock=self._clock,
            max_output=self._max_output,
            dirty=self._write_later,
            owner=self.owner,
            fields={**self._inheritance.context(job), **logins},
        )
        self._running.add(running)
        return running

    def _refuse_row(self, job: Job, token: str, opened: WorkerRequest) -> NoReturn:
        """End a claimed job whose owner or caller was changed in the store: its action would act for another one."""
        _log.error("job %s: its stored row is not as this application wrote it, so it was not run", job.id)
        with suppress(StoreUnavailable):  # then it ends by its time-out
            changed = self._store.change(job.id, Expect(token=token), ended(failed(ROW_CHANGED)))
            if changed is not None:
                self._announce(changed)
        raise Refusal(409, "Conflict", "changed", ROW_CHANGED, opened.mark)

    def _claimed_after_all(self, job_id: str, token: str) -> Job | None:
        """Return the job if the store wrote the claim and only its answer was lost: then no other request can run it."""
        try:
            job = self._store.get(job_id)
        except StoreUnavailable:
            return None
        return job if job is not None and job.token == token and job.status is Status.IN_PROGRESS else None

    def end(self, running: Running, outcome: Outcome) -> None:
        """Decide how the job ends, and write it. Never raises: if the store is unavailable, the monitor retries.

        In a forked child it does nothing: the job is the parent's, which still runs it.
        """
        self._running.discard(running)
        if running.is_inherited:
            return
        end = verdict(
            error=_error_text(running, outcome),
            finish=running.finish,
            status=outcome.status,
            reason=outcome.reason,
            location=outcome.location,
        )
        job_id = running.job.id
        if not isinstance(outcome.error, Exception | None) and exit_of(outcome.error) is None:
            _log.error("job %s: its action raised %s", job_id, end.text, exc_info=outcome.error)
        try:
            job = running.end(end)
        except StoreError as failure:
            _log.info("job %s: its end will be written later: %s", job_id, failure)
            self._settle(running, end)
            return
        except Exception:
            _log.exception("job %s: its end could not be written", job_id)
            return
        if job is None:
            _log.info("job %s had already ended; its action's end (%s) is not recorded", job_id, end.status.name)
        else:
            call_contained(lambda: self._announce(job), "job %s: announcing its end", job_id)


def _port(listener_of: Callable[[], Listener] | None) -> int | None:
    try:
        return None if listener_of is None else listener_of().port
    except AddressUnknown:
        return None


def _error_text(running: Running, outcome: Outcome) -> str | None:
    error = outcome.error or running.left_by
    if error is None:
        if running.error is None and running.finish is None and not outcome.status:
            return "the action ended without a response"
        return running.error
    job_exit = exit_of(error)
    if isinstance(job_exit, JobFailed):
        return job_exit.text
    if isinstance(job_exit, JobEnded | BackgroundOnly):
        return str(job_exit)
    exits = (single for single in singles(error) if not isinstance(single, Exception | JobExit))
    return describe(next(exits, error))
