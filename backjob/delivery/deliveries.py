"""The jobs that this process delivers: their leases and credentials, what is in flight, and what follows an outcome.

Single-threaded: everything here runs in the monitor's thread. A transport's callback only passes the future on.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Final, TypeAlias

from attrs import evolve

from backjob.delivery.attempts import Attempt, CredentialsLost, credentials_of, describe, failure
from backjob.delivery.parts import DeliveryParts
from backjob.delivery.pending import LastSent, PendingDelivery
from backjob.delivery.proof import Proof, host_of
from backjob.endings import write_end
from backjob.errors import StoreError
from backjob.lifecycle import (
    ROW_CHANGED,
    End,
    Next,
    after_answer,
    after_silence,
    backoff,
    failed,
    local_deadline,
    overdue,
    waits_until_sent,
)
from backjob.model import UNSET, Changes, Credentials, Expect, Job, Response, Status
from backjob.process import RETRY_PAUSE, Outage

LEASE: Final = 30.0
"""Seconds that a lease lasts. It is renewed after half of them."""

_CHECK_INTERVAL: Final = 60.0
_NO_LIMIT: Final = 1000
_BATCH: Final = 100

_log = logging.getLogger("backjob")


_Action: TypeAlias = Callable[[PendingDelivery], None]


class Deliveries:
    """All deliveries of one process. ``post`` has the monitor's thread call a function."""

    def __init__(
        self, parts: DeliveryParts, *, lessee: str, outage: Outage, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._monotonic = parts.clock.monotonic
        self._lessee = lessee
        self._outage = outage
        self._post = post
        self._proof = Proof(parts, post)
        self._by_id: dict[str, PendingDelivery] = {}
        self._agenda: list[tuple[float, int, _Action, str]] = []
        self._order = count()
        self._ready: deque[str] = deque()
        self._in_flight: set[Future[Response]] = set()

    def add(self, job: Job, credentials: Credentials | None, at: float, leased: float | None = None) -> None:
        """Deliver a job when the monotonic clock reads ``at``. Its lease began at ``leased``; None: now."""
        delivery = self._by_id.get(job.id)
        if delivery is not None:
            delivery.credentials = delivery.credentials or credentials  # a poll of the store finds none
            return
        delivery = self._by_id[job.id] = PendingDelivery(job.id, job, job.version, credentials, job.held, at)
        now = self._monotonic()
        # Inside the caller's long transaction the lease may expire before the row is visible: count the renewal from
        # when it was taken.
        self._renew_at((now if leased is None else leased) + LEASE / 2, delivery)
        self._send_at(max(at, now), delivery)

    def reschedule(self, job: Job, credentials: Credentials | None, at: float) -> None:
        """Deliver a job that is leased to this process at another time. A job in flight stays as it is."""
        delivery = self._by_id.get(job.id)
        if delivery is None:
            if job.lessee == self._lessee:
                self.add(job, credentials, at)
                self._by_id[job.id].is_whole = False
        elif delivery.future is None:
            delivery.job, delivery.version, delivery.due_at = job, job.version, at
            delivery.is_whole = False
            delivery.credentials = credentials or delivery.credentials
            self._send_at(at, delivery)

    def drop(self, job_id: str) -> None:
        """Stop delivering a job, and close its connection."""
        delivery = self._by_id.pop(job_id, None)
        if delivery is not None and delivery.future is not None:
            delivery.future.cancel()

    def room(self) -> int:
        """Return how many more jobs could be sent now. While probes fail, take one, as the reason for the next probe."""
        room = max(0, self._capacity() - len(self._in_flight) - len(self._ready))
        return room if self._proof.waiting is None else min(room, 0 if self._ready else 1)

    def why_waiting(self) -> str:
        """Return why probes have failed, or an empty text. Callable from any thread."""
        return self._proof.reason

    def next_event(self) -> float | None:
        """Return when `run` has something to do, on the monotonic clock (s)."""
        events = [self._agenda[0][0]] if self._agenda else []
        if self._ready and len(self._in_flight) < self._capacity():
            events.append(self._proof.next_event())
        return min(events, default=None)

    def run(self, now: float) -> None:
        """Do what is due: send, renew leases, read jobs again."""
        while self._agenda and self._agenda[0][0] <= now:
            _, _, action, job_id = heapq.heappop(self._agenda)
            delivery = self._by_id.get(job_id)
            if delivery is not None:
                self._retrying(action, delivery)
        while self._ready and len(self._in_flight) < self._capacity():
            delivery = self._by_id.get(self._ready[0])
            if delivery is None or delivery.job is None or delivery.send_at is not None:
                self._ready.popleft()
            elif self._proof.destination() is None:
                self._outage.attempt(partial(self._seek, delivery.job), "the probe for job %s", delivery.job_id)
                self._outage.attempt(self._note_waiting, "the monitor")
                break
            else:
                self._ready.popleft()
                self._retrying(self._send, delivery)

    def _seek(self, job: Job) -> None:
        if self._proof.seek(job):
            self._ready.rotate(-1)  # perhaps the next job's request goes below another mount, where ours answers

    def conclude(self, job_id: str, future: Future[Response]) -> None:
        """Decide what follows the outcome of an attempt."""
        self._in_flight.discard(future)
        delivery = self._by_id.get(job_id)
        if delivery is not None and delivery.future is future:
            self._retrying(self._conclude, delivery)

    def has_unclaimed(self) -> bool:
        """Return whether a job that is due, and leased to this process, is not claimed yet, as far as the store says."""
        now = self._monotonic()
        try:
            jobs = [self._store.get(one.job_id) for one in self._by_id.values() if one.due_at <= now]
        except StoreError:
            return True
        return any(job is not None and job.status is Status.STARTED and job.lessee == self._lessee for job in jobs)

    def release(self) -> None:
        """At the end of this process, give up the leases of jobs that any other process can deliver.

        A request that is on its way may still arrive: the claim makes the next one harmless.
        """
        for delivery in self._by_id.values():
            if not delivery.held:
                self._give_up_lease(delivery)

    # --- the agenda -------------------------------------------------------------------------------------------------

    def _plan(self, at: float, action: _Action, delivery: PendingDelivery) -> None:
        # By its id: an entry must not keep the credentials of a job that was dropped.
        heapq.heappush(self._agenda, (at, next(self._order), action, delivery.job_id))

    def _send_at(self, at: float, delivery: PendingDelivery) -> None:
        planned, delivery.send_at = delivery.send_at, at
        if planned is None or at < planned:  # otherwise the earlier entry of the agenda plans the later one
            self._plan(at, self._make_ready, delivery)

    def _renew_at(self, at: float, delivery: PendingDelivery) -> None:
        delivery.renew_at = at
        self._plan(at, self._renew, delivery)

    def _retrying(self, action: _Action, delivery: PendingDelivery) -> None:
        if self._outage.attempt(lambda: action(delivery), "the delivery of job %s", delivery.job_id) is None:
            return
        at = self._monotonic() + RETRY_PAUSE
        if action == self._send:
            self._send_at(at, delivery)
        elif action == self._renew:
            self._renew_at(at, delivery)
        else:
            self._plan(at, action, delivery)

    # --- one action each --------------------------------------------------------------------------------------------

    def _make_ready(self, delivery: PendingDelivery) -> None:
        if delivery.send_at is None or delivery.future is not None:
            return
        if delivery.send_at > self._monotonic():
            self._plan(delivery.send_at, self._make_ready, delivery)
            return
        delivery.send_at = None
        self._ready.append(delivery.job_id)

    def _capacity(self) -> int:
        transport = self._parts.addresses().transport
        if transport is None:
            return 0
        return _NO_LIMIT if transport.capacity is None else transport.capacity

    def _send(self, delivery: PendingDelivery) -> None:
        destination = self._proof.destination()
        job = delivery.job
        if job is None:
            return
        if destination is None:  # a request has shown a new address since `run` asked
            self._ready.appendleft(delivery.job_id)
            return
        if not delivery.is_whole:
            job = self._store.get(job.id, body=True)
            if job is None or job.version != delivery.version:
                self._read_again(delivery)
                return
            delivery.job, delivery.is_whole = job, True
        if not self._parts.is_authentic(job):
            _log.error("job %s: its stored row is not as this application wrote it, so nothing was sent", job.id)
            self._end(job, failed(ROW_CHANGED))
            return
        try:
            credentials = credentials_of(job, delivery.credentials, self._parts.unseal)
        except CredentialsLost as error:
            self._end(job, failed(str(error)))
            return
        frees_key = waits_until_sent(job.merge_key)
        if delivery.failures or frees_key:
            number = job.attempt + 1 if delivery.failures else UNSET
            changes = Changes(attempt=number, lessee=self._lessee, lease=LEASE, free_merge_key=frees_key)
            changed = self._change(delivery, changes)
            if changed is None:
                return
            job = delivery.job = evolve(changed, request=job.request)
        if job.request is None:
            self.drop(job.id)
            return
        more = host_of(destination, job) + (credentials.headers if credentials else ())
        request = evolve(job.request, headers=job.request.headers + more)
        clock = self._parts.clock
        deadline = local_deadline(job, clock.now())
        reached = self._proof.reached if destination.needs_proof else None
        attempt = Attempt(job.id, job.attempt, deadline, request, self._parts.signer, clock, reached)
        future = destination.transport.send(attempt)
        sent = LastSent(destination, job.attempt, self._monotonic())
        delivery.job, delivery.future, delivery.sent = None, future, sent
        self._in_flight.add(future)
        job_id = job.id
        future.add_done_callback(lambda future: self._post(lambda: self.conclude(job_id, future)))

    def _note_waiting(self) -> None:
        """Write why jobs wait for a proof, once for each job and reason, in passes of bounded length."""
        reason = self._proof.waiting
        waiting = [delivery for job_id in self._ready if (delivery := self._by_id.get(job_id)) is not None]
        news = [one for one in waiting if reason is not None and one.job is not None and one.waiting_for != reason]
        for delivery in news[:_BATCH]:
            job = delivery.job
            changed = self._change(delivery, Changes(waiting_for=reason))
            delivery.waiting_for = reason
            if changed is not None and job is not None:
                delivery.job = evolve(changed, request=job.request)

    def _renew(self, delivery: PendingDelivery) -> None:
        if delivery.renew_at > self._monotonic():
            return  # this entry is out of date
        job = delivery.job
        if delivery.future is None and delivery.send_at is None and job is not None and not job.held:
            # There was no room to send it in time: any process that has room may take it.
            self._give_up_lease(delivery)
            self.drop(delivery.job_id)
            return
        changed = self._change(delivery, Changes(lessee=self._lessee, lease=LEASE))
        if changed is None:
            return
        if job is not None:
            delivery.job = evolve(changed, request=job.request)
        self._renew_at(self._monotonic() + LEASE / 2, delivery)

    def _give_up_lease(self, delivery: PendingDelivery) -> None:
        expect = Expect(status=Status.STARTED, version=delivery.version)
        self._store.change(delivery.job_id, expect, Changes(lessee=None, lease=None))

    def _change(self, delivery: PendingDelivery, changes: Changes) -> Job | None:
        """Change the job if it is as this process knows it. Otherwise return None, after `_read_again`."""
        expect = Expect(status=Status.STARTED, version=delivery.version)
        changed = self._store.change(delivery.job_id, expect, changes)
        if changed is None:
            self._read_again(delivery)
        else:
            delivery.version = changed.version
        return changed

    def _read_again(self, delivery: PendingDelivery) -> None:
        """Another process changed the job: it claimed, ended or leased it, or moved its start time."""
        job = self._store.get(delivery.job_id)
        if job is not None and job.status is Status.STARTED and job.lessee == self._lessee:
            delivery.version = job.version
            now = self._monotonic()
            if delivery.future is None:
                delivery.job, delivery.is_whole = job, False
                self._send_at(now + max(0.0, (job.start_time - job.read_time).total_seconds()), delivery)
            self._renew_at(now + RETRY_PAUSE, delivery)  # half a lease from now it might have expired
        elif delivery.future is None or job is None or job.status.is_final:
            self.drop(delivery.job_id)
        else:
            # In flight for another process: once the job has ended, close the connection.
            delivery.credentials = None
            self._plan(self._monotonic() + _CHECK_INTERVAL, self._check, delivery)

    def _check(self, delivery: PendingDelivery) -> None:
        if delivery.future is not None:
            self._read_again(delivery)

    def _conclude(self, delivery: PendingDelivery) -> None:
        future = delivery.future
        if future is None:
            return
        is_ours = delivery.sent is None or self._proof.judge(delivery.sent, delivery.job_id, future)
        job = self._store.get(delivery.job_id)
        step = after_answer(job, future.result()) if failure(future) is None else after_silence(job)
        if job is None or step.next in (Next.DONE, Next.WATCH):
            self._by_id.pop(delivery.job_id, None)
        elif step.end is not None and (is_ours or delivery.is_doubted):
            self._end(job, step.end)
        else:
            # Perhaps another site answers at this address by now. If the next proof succeeds and the next answer is not
            # ours either, something else serves this path.
            delivery.is_doubted = delivery.is_doubted or step.end is not None
            self._retry(job, delivery, describe(future))

    def _retry(self, job: Job, delivery: PendingDelivery, reason: str) -> None:
        too_late = overdue(job)
        if too_late is not None:
            self._end(job, failed(f"{too_late.text}; the last attempt: {reason}"))
            return
        delivery.failures += 1
        delivery.future, delivery.job, delivery.version, delivery.send_at = None, job, job.version, None
        delivery.is_whole = False
        wait = backoff(delivery.failures)
        level = logging.WARNING if delivery.failures % 10 == 3 else logging.INFO
        _log.log(level, "job %s: attempt %d failed (%s); the next one is in %.1f s", job.id, job.attempt, reason, wait)
        self._send_at(self._monotonic() + wait, delivery)

    def _end(self, job: Job, end: End) -> None:
        changed = write_end(self._store, job.id, Expect(status=Status.STARTED), end)
        self._by_id.pop(job.id, None)
        if changed is not None:
            self._parts.announce(changed)
