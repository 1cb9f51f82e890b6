"""The jobs that this process delivers: their leases and credentials, what is in flight, and what follows an outcome.

Everything here runs under the lock ``turn``: one pass of the monitor's thread, or one short step of another thread that
needs no store, such as the one that starts a job or that has got the answer to its request.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Final

from attrs import evolve

from backjob.delivery.attempts import describe, failure
from backjob.delivery.keeping import LEASE
from backjob.delivery.pending import PendingDelivery
from backjob.delivery.places import refusal_pause
from backjob.delivery.sending import Sending
from backjob.errors import UNTIMELY, NotSent, StoreError
from backjob.lifecycle import (
    BUSY,
    REFUSAL_HEADER,
    Late,
    Next,
    after_answer,
    after_silence,
    backoff,
    failed,
    past_end,
)
from backjob.model import UNSET, Changes, Credentials, Expect, Job, Response

_MOST_UNTIMELY: Final = 3
_AHEAD: Final = 0.25
"""Seconds after which a job that was taken ahead is left to the other processes, if it could not be sent yet."""

_log = logging.getLogger("backjob")


class Deliveries(Sending):
    """All deliveries of one process: which jobs it has, and what follows from each outcome."""

    def add(self, job: Job, credentials: Credentials | None, at: float, leased: float | None = None) -> None:
        """Deliver a job when the monotonic clock reads ``at``. Its lease began at ``leased``; None: now."""
        now = self._monotonic()
        delivery = self._by_id.get(job.id)
        if delivery is not None and delivery.run >= job.run:
            if credentials and not delivery.credentials:  # a poll of the store has found none
                delivery.credentials = credentials
                if delivery.future is None and not delivery.is_claimed:
                    self._send_at(max(at, now), delivery)
            return
        if delivery is not None:  # an earlier run, whose outcome means nothing any more
            self._again(job, delivery, at)
            return
        delivery = self._keep(job, credentials, at)
        # Inside the caller's long transaction the lease may expire before the row is visible: count the renewal from
        # when it was taken.
        self._renew_at((now if leased is None else leased) + LEASE / 2, delivery)
        self._send_at(max(at, now), delivery)

    def add_ahead(self, job: Job, now: float) -> None:
        """Deliver a job for which there is no place yet, but soon; otherwise leave it to the other processes again."""
        is_new = job.id not in self._by_id
        self.add(job, None, now)
        if is_new and not job.held:
            self._plan(now + _AHEAD, self._leave_unsent, self._by_id[job.id])

    def _leave_unsent(self, delivery: PendingDelivery) -> None:
        if delivery.future is None and delivery.send_at is None and delivery.job is not None:
            self._leave_to_others(delivery)
            self.places.must_poll = True

    def _keep(self, job: Job, credentials: Credentials | None, at: float) -> PendingDelivery:
        delivery = PendingDelivery(job.id, job, job.version, credentials, job.held, at, job.run)
        delivery.is_whole = bool(credentials) or not job.held  # else read it again before it ends for want of them
        delivery.tried, delivery.failures = self._left.pop((job.id, job.run), (0.0, 0))
        self._by_id[job.id] = delivery
        return delivery

    def accept(
        self, job: Job, credentials: Credentials | None, at: float, leased: float, *, may_send_now: bool
    ) -> None:
        """Deliver a new job: now, if it is due and needs nothing but a proven address and a place; otherwise in the next pass.

        Callable from any thread. ``may_send_now``: the monitor's thread runs. The other arguments are those of `add`.
        """
        is_sent = False

        def send() -> None:
            nonlocal is_sent
            is_sent = may_send_now and at <= self._monotonic() and self._send_at_once(job, credentials, leased)

        try:
            self._outage.attempt(send, "the delivery of job %s", job.id)
        finally:  # also if this thread was interrupted: the job is in the store
            if not is_sent:
                self._post(lambda: self._add_reserved(job, credentials, at, leased))

    def _add_reserved(self, job: Job, credentials: Credentials | None, at: float, leased: float) -> None:
        self.places.occupy()
        self.add(job, credentials, at, leased)

    def _send_at_once(self, job: Job, credentials: Credentials | None, leased: float) -> bool:
        if not self.turn.acquire(blocking=False):
            return False
        try:
            if job.id in self._by_id or self._ready or not self.places.free():
                return False
            is_sent = False
            try:
                delivery = self._keep(job, credentials, self._monotonic())
                is_sent = self._send_without_store(delivery, is_new=True)
            finally:
                if not is_sent:
                    self._undo(job.id)
            if is_sent:
                self.places.occupy()
                self._renew_at(leased + LEASE / 2, delivery)
            return is_sent
        finally:
            self.turn.release()

    def _undo(self, job_id: str) -> None:
        """Forget a job that could not be sent at once; if this thread was interrupted, a request may be in flight."""
        delivery = self._by_id.get(job_id)
        if delivery is not None and delivery.future is not None:
            self.places.leave(delivery.future)
        self.drop(job_id)

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

    def conclude(self, job_id: str, future: Future[Response]) -> None:
        """Decide what follows the outcome of an attempt."""
        self.places.leave(future)
        delivery = self._by_id.get(job_id)
        if delivery is not None and delivery.future is future:
            self._retrying(self._conclude, delivery)

    def has_unclaimed(self) -> bool:
        """Return whether a job that is due, and leased to this process, is not claimed yet, as far as the store says."""
        now = self._monotonic()
        due = [one for one in self._by_id.values() if one.due_at <= now and not one.is_claimed]
        try:
            jobs = [(self._store.get(one.job_id), one.run) for one in due]
        except StoreError:
            return True
        return any(job is not None and self._is_ours(job) and job.run == run for job, run in jobs)

    def release(self, *, unsent: bool = False) -> None:
        """At the end of this process, give up the leases of jobs that any other process can deliver; or only of unsent ones.

        A request that is on its way may still arrive: the claim makes the next one harmless.
        """
        for delivery in [*self._by_id.values()]:
            if not delivery.held and not (unsent and delivery.future is not None):
                self._give_up_lease(delivery)
                if delivery.future is None:  # or another thread would send it when a place becomes free
                    self.drop(delivery.job_id)

    def carries(self, job_id: str) -> bool:
        """Return whether this process delivers a job. Callable from any thread."""
        return job_id in self._by_id

    def leave(self, job_id: str) -> None:
        """Stop delivering a job, and let others do so: now if it waits, or its next run if it runs.

        A request that is on its way may still be claimed.
        """
        delivery = self._by_id.get(job_id)
        is_sent = delivery is not None and delivery.future is not None
        self.drop(job_id)
        while (job := self._store.get(job_id)) is not None and job.lessee == self._lessee and not job.status.is_final:
            expect, changes = Expect(run=job.run, token=job.token), Changes(lessee=None)
            if job.is_waiting:
                expect = Expect(run=job.run, version=job.version, unclaimed=True)
                changes = evolve(changes, lease=None, slot=UNSET if is_sent else None)
            if self._store.change(job_id, expect, changes) is not None:
                return

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def _outcome_came(self, job_id: str, future: Future[Response]) -> None:
        """Take the outcome of an attempt, in the transport's thread."""
        if not self._conclude_at_once(job_id, future):
            self._post(lambda: self.conclude(job_id, future))

    def _conclude_at_once(self, job_id: str, future: Future[Response]) -> bool:
        """Forget a job whose answer says that it has ended. Returns False if the outcome is left to the monitor."""
        if failure(future) is not None or not self.turn.acquire(blocking=False):
            return False
        needs_monitor = False
        try:
            delivery = self._by_id.get(job_id)
            if delivery is None or delivery.future is not future or not self._has_ended(delivery, future.result()):
                return False
            self.places.leave(future)
            del self._by_id[job_id]
            needs_monitor = True  # also if the next job can't be sent because of an error
            needs_monitor = not self._send_ready() or (self._has_backlog() and not self._ready)
        finally:
            self.turn.release()
            if needs_monitor:
                self._wake()
        return True

    def _has_ended(self, delivery: PendingDelivery, response: Response) -> bool:
        """Return whether the answer says that the job has ended, and nothing else follows from it."""
        sent = delivery.sent
        return (
            sent is not None
            and not self._parts.queues
            and self._proof.says_end(sent, delivery.job_id, response)
            and self._proof.judge(sent, delivery.job_id, response)
        )

    def _conclude(self, delivery: PendingDelivery) -> None:
        future = delivery.future
        if future is None:
            return
        response = None if failure(future) is not None else future.result()
        # A request that was cancelled says nothing about its address.
        is_ours = (
            delivery.sent is None or future.cancelled() or self._proof.judge(delivery.sent, delivery.job_id, response)
        )
        refusal = None if response is None or not is_ours else response.header(REFUSAL_HEADER)
        # A refused job is sent again in a moment: one read is enough.
        job = self._store.get(delivery.job_id, body=refusal == BUSY)
        run = delivery.run
        step = after_silence(job, run) if response is None else after_answer(job, run, response)
        if job is None or step.next is Next.DONE:
            self._by_id.pop(delivery.job_id, None)
            if job is not None:
                self._slot_freed(job)
        elif step.next is Next.WATCH:
            self._slot_freed(job)
            self._follow(job, delivery)
        elif step.end is not None and (is_ours or delivery.is_doubted) and not self._is_untimely(refusal, delivery):
            self._end(job, step.end)
        elif refusal == BUSY and self._limit(job, delivery) is None:
            self._refused(job, delivery)
        else:
            # Perhaps another site answers at this address by now. If the next proof succeeds and the next answer is not
            # ours either, something else serves this path.
            delivery.is_doubted = delivery.is_doubted or (step.end is not None and not is_ours)
            delivery.waiting_for = "store" if refusal == "unavailable" else "connection" if response is None else None
            if (
                isinstance(failure(future), NotSent)
                and delivery.sent is not None
                and delivery.sent.at == delivery.first_sent
            ):
                delivery.first_sent = None  # no process has got it
            self._retry(job, delivery, describe(future))

    def _is_untimely(self, refusal: str | None, delivery: PendingDelivery) -> bool:
        """Return whether a new signature may help, because a clock was set while the old one was on its way."""
        return refusal == UNTIMELY and delivery.failures < _MOST_UNTIMELY

    def _refused(self, job: Job, delivery: PendingDelivery) -> None:
        """A process that had no place refused the job: send it again in a moment. This counts as no failure."""
        delivery.refusals += 1
        self._wait(job, delivery)
        delivery.is_whole = True
        self.places.refused.add(job.id)
        self._send_at(self._monotonic() + refusal_pause(delivery.refusals), delivery)
        self._waits_for_room(delivery, job, self._for_room(delivery))

    def _is_tried(self, delivery: PendingDelivery) -> bool:
        """Return whether requests have failed for as long as the delivery timeout, without the time spent waiting for room."""
        sent = delivery.first_sent
        return sent is not None and delivery.tried + self._monotonic() - sent >= self._parts.delivery_timeout

    def _wait(self, job: Job, delivery: PendingDelivery) -> None:
        delivery.future, delivery.job, delivery.version, delivery.send_at = None, job, job.version, None
        delivery.is_whole = False

    def _retry(self, job: Job, delivery: PendingDelivery, reason: str) -> None:
        limit = self._limit(job, delivery) or (Late.UNDELIVERED if self._is_tried(delivery) else None)
        if limit is not None:
            self._end(job, failed(f"{past_end(job, limit).text}; the last attempt: {reason}"))
            return
        delivery.failures += 1
        delivery.refusals = 0
        self._wait(job, delivery)
        wait = backoff(delivery.failures)
        level = logging.WARNING if delivery.failures % 10 == 3 else logging.INFO
        _log.log(level, "job %s: delivery %d of run %d failed (%s); the next one is in %.1f s",
                 job.id, delivery.failures, job.run, reason, wait)  # fmt: skip
        self._send_at(self._monotonic() + wait, delivery)
        if job.slot is not None:  # another job of its queue may run in the meantime
            changed = self._change(delivery, Changes(slot=None))
            if changed is not None:
                delivery.job = changed
                self._slot_freed(job)
