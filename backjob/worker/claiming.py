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
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import NoReturn, Protocol

from backjob.endings import log_conclusion
from backjob.errors import AddressUnknown, SignatureError, StoreError, StoreUnavailable
from backjob.http.listening import Listener
from backjob.http.marks import MARK_LABEL, PROBE_ATTEMPT, mark
from backjob.lifecycle import (
    BUSY,
    CLAIM_REFUSED,
    ROW_CHANGED,
    claimed,
    ended,
    failed,
)
from backjob.model import Expect, Headers, Job, Request, Status
from backjob.observers import Observers
from backjob.process import Outage, PerProcess, RareWarnings
from backjob.protocols import Clock, Signer, Store, Verified
from backjob.worker.ending import Ending
from backjob.worker.files import Keeping
from backjob.worker.leases import Leases
from backjob.worker.probing import Holds
from backjob.worker.replies import Refusal, Reply, WorkerRequest
from backjob.worker.running import STDOUT_ALONE, CaptureOptions, Running
from backjob.worker.slots import give_back, with_slot

_log = logging.getLogger("backjob")


class Inheritance(Protocol):
    """Knows which header fields of the request that started a job its action gets."""

    def logins(self, job_id: str, request: Request) -> Mapping[str, str | None]:
        """Return the fields of logins that this worker request carries; None removes one. Raises `SignatureError`."""
        ...

    def context(self, job: Job) -> Mapping[str, str | None]:
        """Return the other fields, from the job."""
        ...


class Worker(Ending):
    """The four steps of this module.

    ``run_lease`` is in seconds; ``leases`` returns what renews it. ``settle`` takes over the function that writes the end of
    a run if the store is unavailable. ``run_ended`` is called with the job after the end of a run is written. ``max_running`` returns how
    many jobs this process may run at once, and ``is_draining`` whether it runs no more of them. ``queues`` has the limits of
    the queues that have one.
    ``keeping`` says what is kept of an action's response. The ``observers`` learn when runs begin and end.
    """

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clock: Clock,
        *,
        max_body: int,
        max_output: int,
        capture: CaptureOptions = STDOUT_ALONE,
        run_lease: float,
        leases: Callable[[], Leases],
        write_later: Callable[[Running], None],
        settle: Callable[[str, Callable[[], None]], None],
        announce: Callable[[Job], None],
        run_ended: Callable[[Job], None] = lambda _job: None,
        max_running: Callable[[], float] = lambda: float("inf"),
        queues: Mapping[str, int] | None = None,
        is_draining: Callable[[], bool] = lambda: False,
        is_authentic: Callable[[Job, bytes], bool],
        inheritance: Inheritance,
        owner: object,
        keeping: Keeping | None = None,
        observers: Observers | None = None,
    ) -> None:
        super().__init__(
            store,
            clock,
            signer.derive(MARK_LABEL)[0],
            leases=leases,
            settle=settle,
            announce=announce,
            run_ended=run_ended,
            observers=observers,
        )
        self._signer = signer
        self._warnings = RareWarnings(clock)
        self._max_body = max_body
        self._max_output = max_output
        self._capture = capture
        self._run_lease = run_lease
        self._write_later = write_later
        self._is_authentic = is_authentic
        self._max_running = max_running
        self.queues = queues or {}
        self._is_draining = is_draining
        self._faults = Outage(clock)
        self._holds = PerProcess(lambda: Holds(clock.monotonic, max_running))
        self._inheritance = inheritance
        self._keeping = keeping or Keeping()
        self.owner = owner

    @property
    def count(self) -> int:
        """How many jobs this process runs."""
        return self._places.get().taken

    @property
    def is_busy(self) -> bool:
        """Whether this process runs jobs."""
        return self.count > 0

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
        marked = mark(self._mark_key, grant.job_id, grant.run, grant.delivery, _port(listener_of))
        if grant.delivery == PROBE_ATTEMPT:
            holds = self._holds.get()
            hold = holds.of(verified.request)
            raise Reply(200, "OK", "", (*marked, *holds.headers()) if hold else marked, hold)
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
        """Claim the job's run for this request. Raises `Refusal`: 403 for another body, 409 if it can't be claimed, or 503."""
        verified = opened.verified
        try:
            verified.check(body)
            logins = self._inheritance.logins(verified.grant.job_id, verified.request)
        except SignatureError as error:
            raise self._forbidden(error, opened.mark) from error
        places = self._places.get()
        if self._is_draining():
            raise Refusal(503, "Service Unavailable", BUSY, "this process is shutting down", opened.mark)
        if not places.take(self._max_running()):
            text = "this process runs as many jobs as it may (max_running)"
            raise Refusal(503, "Service Unavailable", BUSY, text, opened.mark)
        try:
            return self._claim(opened, body, logins)
        except BaseException:
            places.release()
            raise

    def _claim(self, opened: WorkerRequest, body: bytes, logins: Mapping[str, str | None]) -> Running:
        grant = opened.verified.grant
        token = secrets.token_urlsafe(16)
        expect, changes = claimed(token, grant.run, self._run_lease)
        leases, began = self._leases(), self._clock.monotonic()
        try:
            job = self._store.change(grant.job_id, expect, changes)
        except StoreUnavailable as error:
            job = self._claimed_after_all(grant.job_id, token)
            if job is None:
                self._settle(grant.job_id, partial(self._undo_claim, grant.job_id, token))
                raise Refusal(503, "Service Unavailable", "unavailable", str(error), opened.mark) from error
        if job is None:
            self._observers.refused()
            text = "this run of the job was claimed before, the job has ended, or it is unknown"
            raise Refusal(409, "Conflict", CLAIM_REFUSED, text, opened.mark)
        if not self._is_authentic(job, body):
            self._refuse_row(job, token, opened)
        if job.slot is None and job.queue in self.queues:
            job = self._with_slot(job, token, opened)
        if self._clock.monotonic() - began > leases.interval:
            self._renew_first(job, token, opened)
        running = Running(
            job,
            token,
            opened,
            store=self._store,
            clock=self._clock,
            max_output=self._max_output,
            capture=self._capture,
            dirty=self._write_later,
            owner=self.owner,
            fields={**self._inheritance.context(job), **logins},
            renewal=leases.interval,
            keeping=self._keeping,
        )
        leases.add(running)
        running.at_end = self._observers.run_began(running)
        return running

    def _renew_first(self, job: Job, token: str, opened: WorkerRequest) -> None:
        """Renew the lease of a claim that took long, or refuse the request if the run is over already.

        The store may have counted the lease from when the write began to wait for a lock. Or this process was stopped, and
        another one has ended the job.
        """
        stale: Collection[str] = ()
        with suppress(StoreError):
            stale = self._store.beat({job.id: token}, self._run_lease, frozenset())
        if stale:
            text = "this run lost its lease before its action could begin"
            raise Refusal(409, "Conflict", CLAIM_REFUSED, text, opened.mark)

    def _with_slot(self, job: Job, token: str, opened: WorkerRequest) -> Job:
        """Take a slot for a claimed job that has none, or refuse the request and leave the job to its next run."""
        slotted: Job | None = None
        with suppress(StoreUnavailable):
            slotted = with_slot(self._store, job, token, self.queues[job.queue])
        if slotted is not None:
            return slotted

        def back() -> None:
            give_back(self._store, job, token)

        try:
            back()
        except StoreUnavailable:
            self._settle(job.id, back)
        text = "this run has lost its slot of the queue to another job, so the job waits for the next run"
        raise Refusal(409, "Conflict", CLAIM_REFUSED, text, opened.mark)

    def _undo_claim(self, job_id: str, token: str) -> None:
        """Have the job wait again if the store wrote a claim whose answer was lost: its action did not run. Raises `StoreError`."""
        job = self._store.get(job_id)
        if job is not None and job.token == token and job.status is Status.IN_PROGRESS:
            changed = give_back(self._store, job, token)
            if changed is not None:
                self._run_ended(changed)

    def _refuse_row(self, job: Job, token: str, opened: WorkerRequest) -> NoReturn:
        """End a claimed job whose owner or caller was changed in the store: its action would act for another one."""
        end = failed(ROW_CHANGED)
        log_conclusion(job, end)
        with suppress(StoreUnavailable):  # then the next run finds the same
            changed = self._store.change(job.id, Expect(status=Status.IN_PROGRESS, token=token), ended(end, job))
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


def _port(listener_of: Callable[[], Listener] | None) -> int | None:
    try:
        return None if listener_of is None else listener_of().port
    except AddressUnknown:
        return None
