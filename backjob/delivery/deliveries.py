"""The jobs that this process delivers: their leases and credentials, what is in flight, and what follows an outcome.

Single-threaded: the monitor's thread calls everything here; a transport's callback only passes the future on.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from enum import IntEnum
from itertools import count
from typing import Final

from attrs import define, evolve, field

from backjob.errors import NotSent, StoreError
from backjob.lifecycle import (
    End,
    Next,
    after_answer,
    after_silence,
    backoff,
    ended,
    failed,
    local_deadline,
    overdue,
    status_line,
    waits_until_sent,
)
from backjob.model import UNSET, Changes, Credentials, Expect, Grant, Job, Request, Response, Status
from backjob.process import Outage
from backjob.protocols import Clock, Signer, Store, Transport
from backjob.signing.sealing import Sealer

__all__ = ["LEASE", "Deliveries"]

LEASE: Final = 30.0
"""Seconds for which a lease holds; it is renewed when half of them are over."""

_STORE_PAUSE: Final = 1.0
_LOOK_INTERVAL: Final = 60.0
_NO_LIMIT: Final = 1000

_CREDENTIALS_LOST: Final = (
    "the process that held the user's credentials for this job ended before it was delivered; "
    "start it again, or have credentials stored sealed: BackJob(seal=True)"
)
_SEAL_BROKEN: Final = "the sealed credentials of this job open with none of the signer's keys; start it again"

_log = logging.getLogger("backjob")


class _Due(IntEnum):
    SEND = 0
    RENEW = 1
    READ = 2
    LOOK = 3


@define(eq=False)
class _Held:
    """A job that this process delivers. ``job`` is let go of while in flight: it is read again afterwards.

    ``send_at`` is None in flight, and where it waits for room only. What the agenda says otherwise is out of date.
    """

    job: Job | None
    version: int
    credentials: Credentials | None = field(repr=False)
    failures: int = 0
    future: Future[Response] | None = None
    send_at: float | None = None
    renew_at: float | None = None


@define(eq=False)
class _Delivery:
    """One attempt, as the transport sees it."""

    job_id: str
    attempt: int
    deadline: datetime
    _request: Request | None = field(repr=False)
    _signer: Signer
    _clock: Clock

    def sign(self) -> Request:
        request, self._request = self._request, None
        created = int(self._clock.now().timestamp())
        expires = int(self.deadline.timestamp())
        if request is None or created >= expires:
            raise NotSent("the time for delivering this job is over")
        return self._signer.sign(request, Grant(self.job_id, self.attempt, created, expires))


class Deliveries:
    """What one monitor holds leases of, and has in flight."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clock: Clock,
        *,
        lessee: str,
        transport: Callable[[], Transport | None],
        sealer: Sealer | None,
        outage: Outage,
        answered: Callable[[str, Future[Response]], None],
        announce: Callable[[Job], None],
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._lessee = lessee
        self._transport = transport
        self._sealer = sealer
        self._outage = outage
        self._answered = answered
        self._announce = announce
        self._held: dict[str, _Held] = {}
        self._agenda: list[tuple[float, int, _Due, str]] = []
        self._order = count()
        self._ready: deque[str] = deque()
        self._in_flight: set[Future[Response]] = set()

    def hold(self, job: Job, credentials: Credentials | None, at: float, leased: float | None = None) -> None:
        """Deliver a job when the monotonic clock reads ``at``. It was leased to us at ``leased``; None: now."""
        held = self._held.get(job.id)
        if held is not None:
            held.credentials = held.credentials or credentials  # a look at the store can't find them
            return
        held = self._held[job.id] = _Held(job, job.version, credentials)
        now = self._clock.monotonic()
        renew_at = (now if leased is None else leased) + LEASE / 2
        # Within a long transaction of its caller the lease may have gone by before anybody could see the job.
        self._renew_at(renew_at, job.id, held)
        self._send_at(max(at, now), job.id, held)

    def move(self, job: Job, credentials: Credentials | None, at: float) -> None:
        """Deliver a job leased to us at another time; one that is not ours, or is in flight, stays as it is."""
        held = self._held.get(job.id)
        if held is None:
            if job.lessee == self._lessee:
                self.hold(job, credentials, at)
        elif held.future is None:
            held.job, held.version = job, job.version
            held.credentials = credentials or held.credentials
            self._send_at(at, job.id, held)

    def drop(self, job_id: str) -> None:
        """Stop delivering a job; its connection, if any, is closed."""
        held = self._held.pop(job_id, None)
        if held is not None and held.future is not None:
            held.future.cancel()

    def room(self) -> int:
        """How many more jobs could be sent now."""
        return max(0, self._capacity() - len(self._in_flight) - len(self._ready))

    def next_event(self) -> float | None:
        """When `run` has something to do, on the monotonic clock (s)."""
        return self._agenda[0][0] if self._agenda else None

    def run(self, now: float) -> None:
        """Send, renew and read again what is due."""
        while self._agenda and self._agenda[0][0] <= now:
            at, _, due, job_id = heapq.heappop(self._agenda)
            held = self._held.get(job_id)
            if held is None:
                continue
            if due == _Due.SEND:
                self._make_ready(now, job_id, held)
            elif due == _Due.READ:
                self._patiently(self._conclude, due, job_id, held)
            elif due == _Due.LOOK:
                self._patiently(self._look, due, job_id, held)
            elif held.renew_at == at:
                self._patiently(self._renew, due, job_id, held)
        while self._ready and len(self._in_flight) < self._capacity():
            job_id = self._ready.popleft()
            held = self._held.get(job_id)
            if held is not None and held.future is None and held.send_at is None:
                self._patiently(self._send, _Due.SEND, job_id, held)

    def outcome(self, job_id: str, future: Future[Response]) -> None:
        """What the transport has to say of a job in flight."""
        self._in_flight.discard(future)
        held = self._held.get(job_id)
        if held is not None and held.future is future:
            self._patiently(self._conclude, _Due.READ, job_id, held)

    def release(self) -> None:
        """Give up the leases of jobs that any other process can deliver as well; at the end of this one."""
        for job_id, held in self._held.items():
            if held.future is None and held.job is not None and not held.job.held:
                self._give_up_lease(job_id, held)

    # --- one step each ----------------------------------------------------------------------------------------------

    def _plan(self, at: float, due: _Due, job_id: str) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), due, job_id))

    def _send_at(self, at: float, job_id: str, held: _Held) -> None:
        planned, held.send_at = held.send_at, at
        if planned is None or at < planned:  # else what is planned finds that it is too early
            self._plan(at, _Due.SEND, job_id)

    def _make_ready(self, now: float, job_id: str, held: _Held) -> None:
        if held.send_at is None or held.future is not None:
            return
        if held.send_at > now:
            self._plan(held.send_at, _Due.SEND, job_id)
            return
        held.send_at = None
        self._ready.append(job_id)

    def _renew_later(self, job_id: str, held: _Held) -> None:
        self._renew_at(self._clock.monotonic() + LEASE / 2, job_id, held)

    def _renew_at(self, at: float, job_id: str, held: _Held) -> None:
        held.renew_at = at
        self._plan(at, _Due.RENEW, job_id)

    def _give_up_lease(self, job_id: str, held: _Held) -> None:
        expect = Expect(status=Status.STARTED, version=held.version)
        self._store.change(job_id, expect, Changes(lessee=None, lease=None))

    def _patiently(self, step: Callable[[str, _Held], None], due: _Due, job_id: str, held: _Held) -> None:
        try:
            step(job_id, held)
        except StoreError as error:
            self._outage.tell("job %s: its delivery waits for the store: %s", job_id, error)
        except Exception:  # one job's trouble is not the others'
            _log.exception("job %s: a step of its delivery failed; again in %g s", job_id, _STORE_PAUSE)
        else:
            return
        at = self._clock.monotonic() + _STORE_PAUSE
        if due == _Due.SEND:
            self._send_at(at, job_id, held)
            return
        if due == _Due.RENEW:
            self._renew_at(at, job_id, held)
            return
        self._plan(at, due, job_id)

    def _capacity(self) -> int:
        transport = self._transport()
        if transport is None:
            return 0
        return _NO_LIMIT if transport.capacity is None else transport.capacity

    def _send(self, job_id: str, held: _Held) -> None:
        transport = self._transport()
        job = held.job
        if transport is None or job is None:
            return
        credentials = held.credentials
        if job.sealed is not None and credentials is None:
            credentials = None if self._sealer is None else self._sealer.open(job.sealed)
            if credentials is None:
                self._end(job, failed(_SEAL_BROKEN))
                return
        if job.held and credentials is None:
            self._end(job, failed(_CREDENTIALS_LOST))
            return
        frees_key = waits_until_sent(job.merge_key)
        if held.failures or frees_key:
            attempt = job.attempt + 1 if held.failures else UNSET
            changed = self._store.change(
                job_id,
                Expect(status=Status.STARTED, version=held.version),
                Changes(attempt=attempt, lessee=self._lessee, lease=LEASE, free_merge_key=frees_key),
            )
            if changed is None:
                self._read_again(job_id, held)
                return
            job = held.job = changed
            held.version = job.version
        if job.request is None:
            self.drop(job_id)
            return
        request = job.request
        if credentials:
            request = evolve(request, headers=request.headers + credentials.headers)
        deadline = local_deadline(job, self._clock.now())
        future = transport.send(_Delivery(job_id, job.attempt, deadline, request, self._signer, self._clock))
        held.job, held.future = None, future
        self._in_flight.add(future)
        future.add_done_callback(lambda future: self._answered(job_id, future))

    def _renew(self, job_id: str, held: _Held) -> None:
        if held.future is None and held.send_at is None and held.job is not None and not held.job.held:
            # Not sent for want of room: whoever has room first may take it.
            self._give_up_lease(job_id, held)
            self.drop(job_id)
            return
        job = self._store.change(
            job_id,
            Expect(status=Status.STARTED, version=held.version),
            Changes(lessee=self._lessee, lease=LEASE),
        )
        if job is None:
            self._read_again(job_id, held)
            return
        held.version = job.version
        if held.job is not None:
            held.job = job
        self._renew_later(job_id, held)

    def _read_again(self, job_id: str, held: _Held) -> None:
        """Somebody else changed the job: it was claimed, ended, moved by a merge, or leased by another monitor."""
        job = self._store.get(job_id)
        if job is not None and job.status is Status.STARTED and job.lessee == self._lessee:
            held.version = job.version
            now = self._clock.monotonic()
            if held.future is None:
                held.job = job
                wait = (job.start_time - job.read_time).total_seconds()
                self._send_at(now + max(0.0, wait), job_id, held)
            self._renew_at(now + _STORE_PAUSE, job_id, held)  # at its next turn the lease might be over
        elif held.future is None or job is None or job.status.is_final:
            self.drop(job_id)
        else:
            held.credentials = None
            self._plan(self._clock.monotonic() + _LOOK_INTERVAL, _Due.LOOK, job_id)

    def _look(self, job_id: str, held: _Held) -> None:
        """A job in flight that is not ours to deliver any more: once it has ended, there is nothing to wait for."""
        if held.future is None:
            return
        job = self._store.get(job_id)
        if job is None or job.status.is_final:
            self.drop(job_id)
        else:
            self._plan(self._clock.monotonic() + _LOOK_INTERVAL, _Due.LOOK, job_id)

    def _conclude(self, job_id: str, held: _Held) -> None:
        future = held.future
        if future is None:
            return
        job = self._store.get(job_id)
        step = after_answer(job, future.result()) if _failure(future) is None else after_silence(job)
        if job is None or step.next in (Next.DONE, Next.WATCH):
            self._held.pop(job_id, None)
        elif step.end is not None:
            self._end(job, step.end)
        else:
            self._retry(job, held, _said(future))

    def _retry(self, job: Job, held: _Held, reason: str) -> None:
        too_late = overdue(job)
        if too_late is not None:
            self._end(job, failed(f"{too_late.text}; the last attempt: {reason}"))
            return
        held.failures += 1
        held.future, held.job, held.version, held.send_at = None, job, job.version, None
        wait = backoff(held.failures)
        level = logging.WARNING if held.failures % 10 == 3 else logging.INFO
        _log.log(level, "job %s: attempt %d failed (%s); again in %.1f s", job.id, job.attempt, reason, wait)
        self._send_at(self._clock.monotonic() + wait, job.id, held)

    def _end(self, job: Job, end: End) -> None:
        changed = self._store.change(job.id, Expect(status=Status.STARTED), ended(end))
        self._held.pop(job.id, None)
        if changed is not None:
            self._announce(changed)


def _failure(future: Future[Response]) -> BaseException | None:
    return NotSent("the transport gave it up") if future.cancelled() else future.exception()


def _said(future: Future[Response]) -> str:
    error = _failure(future)
    if error is not None:
        return str(error) or type(error).__name__
    response = future.result()
    return status_line(response.status, response.reason)
