"""The jobs that this process delivers: their leases and credentials, what is in flight, and what follows an outcome.

Everything here runs under the lock ``turn``: one pass of the monitor's thread, or one short step of another thread that
needs no store, such as the one that starts a job or that has got the answer to its request.
"""

from __future__ import annotations

import heapq
import logging
from concurrent.futures import Future
from functools import partial
from typing import Final

from attrs import evolve

from backjob.delivery.addresses import Destination
from backjob.delivery.attempts import Attempt, Undeliverable, credentials_of, describe, failure
from backjob.delivery.keeping import LEASE, Keeping
from backjob.delivery.pending import LastSent, PendingDelivery
from backjob.delivery.places import refusal_pause
from backjob.delivery.proof import host_of
from backjob.endings import log_conclusion, write_end
from backjob.errors import UNTIMELY, NotSent, StoreError
from backjob.lifecycle import (
    BUSY,
    REFUSAL_HEADER,
    ROW_CHANGED,
    End,
    Late,
    Next,
    after_answer,
    after_silence,
    backoff,
    failed,
    late,
    local_deadline,
    past_end,
    waits_until_sent,
)
from backjob.model import UNSET, Changes, Credentials, Expect, Job, Response
from backjob.process import RETRY_PAUSE

_BATCH: Final = 100
_MOST_UNTIMELY: Final = 3
_AHEAD: Final = 0.25
"""Seconds after which a job that was taken ahead is left to the other processes, if it could not be sent yet."""

_log = logging.getLogger("backjob")


class Deliveries(Keeping):
    """All deliveries of one process: sends the jobs of `Keeping`, and decides what follows from each outcome."""

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
        self.add(job, None, now)
        delivery = self._by_id.get(job.id)
        if delivery is not None and not job.held:
            self._plan(now + _AHEAD, self._leave_unsent, delivery)

    def _leave_unsent(self, delivery: PendingDelivery) -> None:
        if delivery.future is None and delivery.send_at is None and delivery.job is not None:
            self._give_up_lease(delivery)
            self.drop(delivery.job_id)
            self.places.must_poll = True

    def _keep(self, job: Job, credentials: Credentials | None, at: float) -> PendingDelivery:
        delivery = PendingDelivery(job.id, job, job.version, credentials, job.held, at, job.run)
        delivery.is_whole = bool(credentials) or not job.held  # else read it again before it ends for want of them
        self._by_id[job.id] = delivery
        return delivery

    def send_at_once(self, job: Job, credentials: Credentials | None, leased: float) -> bool:
        """Send a new job that is due, if that needs nothing but a proven address and a place. Callable from any thread.

        Returns False if it is left to the monitor. Its lease began at ``leased`` (monotonic, s).
        """
        if not self.turn.acquire(blocking=False):
            return False
        try:
            if job.id in self._by_id or self._ready or not self.places.free():
                return False
            delivery = self._keep(job, credentials, self._monotonic())
            if not self._send_without_store(delivery, is_new=True):
                del self._by_id[job.id]
                return False
            self.places.occupy()
            self._renew_at(leased + LEASE / 2, delivery)
        finally:
            self.turn.release()
        return True

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

    def room(self) -> int:
        """Return how many more jobs could be sent now. While probes fail, take one, as the reason for the next probe."""
        room = max(0, self.places.free() - len(self._ready))
        return room if self._proof.waiting is None else min(room, 0 if self._ready else 1)

    def reserve(self, queue: str) -> bool:
        """Reserve room for a new job of this queue, if there is any. Callable from any thread."""
        return queue not in self.slots.full() and self.places.reserve(len(self._ready))

    def why_waiting(self) -> str:
        """Return why probes have failed, or an empty text. Callable from any thread."""
        return self._proof.reason

    def next_event(self) -> float | None:
        """Return when `run` has something to do, on the monotonic clock (s)."""
        events = [self._agenda[0][0]] if self._agenda else []
        if self._ready and self.places.free():
            events.append(self._proof.next_event())
        return min(events, default=None)

    def run(self, now: float) -> None:
        """Do what is due: send, renew leases, read jobs again."""
        while self._agenda and self._agenda[0][0] <= now:
            _, _, action, job_id = heapq.heappop(self._agenda)
            delivery = self._by_id.get(job_id)
            if delivery is not None:
                self._retrying(action, delivery)
        while self._ready and self.places.free():
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
                if unsent:
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

    # --- sending ----------------------------------------------------------------------------------------------------

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
        try:
            credentials = self._credentials(delivery, job)
        except Undeliverable as error:
            self._end(job, failed(str(error)))
            return
        number = delivery.next_number(job)
        prepared = self._prepared(delivery, job, number)
        if prepared is None:
            return
        if prepared.request is None:
            self.drop(job.id)
            return
        self._transmit(delivery, prepared, number, credentials, destination)

    def _send_without_store(self, delivery: PendingDelivery, *, is_new: bool = False) -> bool:
        """Send a job for which nothing has to be read or written. Returns False if it needs the monitor.

        ``is_new``: the job is as this process has written it.
        """
        job, destination = delivery.job, self._proof.destination()
        if job is None or job.request is None or destination is None or not delivery.is_whole:
            return False
        if delivery.failures or waits_until_sent(job.merge_key) or self.slots.is_needed(job):
            return False
        try:
            credentials = self._credentials(delivery, job, is_new=is_new)
        except Undeliverable:
            return False
        number = delivery.next_number(job)
        send = partial(self._transmit, delivery, job, number, credentials, destination)
        if self._outage.attempt(send, "the delivery of job %s", job.id) is not None:
            self._send_at(self._monotonic() + RETRY_PAUSE, delivery)
            self._post(_nothing)
        return True

    def _transmit(
        self,
        delivery: PendingDelivery,
        job: Job,
        number: int,
        credentials: Credentials | None,
        destination: Destination,
    ) -> None:
        if job.request is None:
            return
        delivery.job = job
        more = host_of(destination, job) + (credentials.headers if credentials else ())
        request = evolve(job.request, headers=job.request.headers + more) if more else job.request
        clock, now = self._parts.clock, self._monotonic()
        deadline = local_deadline(self._with_deadline(job), clock.now(), self._parts.delivery_timeout)
        if job.expires is not None:
            deadline = min(deadline, clock.now() + (job.expires - job.read_time))
        reached = self._proof.reached if destination.needs_proof else None
        attempt = Attempt(job.id, job.run, number, deadline, request, self._parts.signer, clock, reached)
        future = destination.transport.send(attempt)
        delivery.job, delivery.future, delivery.sent = None, future, LastSent(destination, job.run, number, now)
        if delivery.first_sent is None:
            delivery.first_sent = now
        self.places.in_flight.add(future)
        job_id = job.id
        future.add_done_callback(lambda future: self._outcome_came(job_id, future))

    def _outcome_came(self, job_id: str, future: Future[Response]) -> None:
        """Take the outcome of an attempt, in the transport's thread."""
        if not self._conclude_at_once(job_id, future):
            self._post(lambda: self.conclude(job_id, future))

    def _conclude_at_once(self, job_id: str, future: Future[Response]) -> bool:
        """Forget a job whose answer says that it has ended. Returns False if the outcome is left to the monitor."""
        if future.cancelled() or future.exception() is not None or not self.turn.acquire(blocking=False):
            return False
        try:
            delivery = self._by_id.get(job_id)
            if delivery is None or delivery.future is not future or not self._has_ended(delivery, future):
                return False
            self.places.leave(future)
            del self._by_id[job_id]
            needs_monitor = not self._send_ready() or (self._has_backlog() and not self._ready)
        finally:
            self.turn.release()
        if needs_monitor:
            self._post(_nothing)
        return True

    def _send_ready(self) -> bool:
        """Send the jobs that are ready, as far as places and the lack of a store allow. Returns False if it needs the monitor."""
        while self._ready and self.places.free():
            delivery = self._by_id.get(self._ready[0])
            if delivery is None or delivery.job is None or delivery.send_at is not None:
                pass  # it was dropped or postponed meanwhile
            elif not self._send_without_store(delivery):
                return False
            self._ready.popleft()
        return True

    def _has_ended(self, delivery: PendingDelivery, future: Future[Response]) -> bool:
        """Return whether the answer says that the job has ended, and nothing else follows from it."""
        sent = delivery.sent
        return (
            sent is not None
            and not self._parts.queues
            and self._proof.says_end(sent, delivery.job_id, future.result())
            and self._proof.judge(sent, delivery.job_id, future)
        )

    def _credentials(self, delivery: PendingDelivery, job: Job, *, is_new: bool = False) -> Credentials | None:
        """Return the credentials to send with a job. Raises `Undeliverable`, also for a job that must not be sent at all."""
        if (limit := self._limit(job, delivery)) is not None:
            raise Undeliverable(past_end(job, limit).text)
        if not is_new and not self._parts.is_authentic(job):
            _log.error("job %s: its stored row is not as this application wrote it, so nothing was sent", job.id)
            raise Undeliverable(ROW_CHANGED)
        return credentials_of(job, delivery.credentials, self._parts.unseal)

    def _limit(self, job: Job, delivery: PendingDelivery) -> Late | None:
        """Return which time limit the job has passed. Its delivery counts by the monotonic clock while a clock has just jumped."""
        limit, sent = late(job), delivery.first_sent
        timeout = self._parts.delivery_timeout
        is_steady = self._clocks.steady >= timeout and self._clocks.is_plausible(job.read_time)
        if limit is Late.UNDELIVERED and not is_steady:
            limit = None
        if limit is None and sent is not None and sent + timeout <= self._monotonic():
            return Late.UNDELIVERED
        return limit

    def _with_deadline(self, job: Job) -> Job:
        """Return the job, without its deadline if that is from before a jump of the clock: then it has its whole time."""
        left = None if job.deliver_by is None else (job.deliver_by - job.read_time).total_seconds()
        is_possible = left is not None and 0 < left <= self._parts.delivery_timeout
        return job if is_possible else evolve(job, deliver_by=None)

    def _prepared(self, delivery: PendingDelivery, job: Job, number: int) -> Job | None:
        """Write what must be written before sending: after a failure, for a slot, or to free a merge key; usually nothing."""
        frees_key = waits_until_sent(job.merge_key)
        needs_slot = self.slots.is_needed(job)
        if not (delivery.failures or frees_key or needs_slot):
            return job
        changes = evolve(
            self._renewal(delivery),
            delivery=number if delivery.failures else UNSET,
            free_merge_key=frees_key,
            waiting_for=delivery.waiting_for if delivery.waiting_for != job.waiting_for else UNSET,
        )
        changed: Job | None
        if not needs_slot:
            changed = self._change(delivery, changes)
        elif job.queue in self.slots.full():
            self._wait_for_slot(delivery, job)
            return None
        else:
            changed, is_free = self.slots.take(
                job.queue, lambda slot: self._change(delivery, evolve(changes, slot=slot))
            )
            if not is_free:
                self._wait_for_slot(delivery, job)
        return None if changed is None else evolve(changed, request=job.request)

    def _wait_for_slot(self, delivery: PendingDelivery, job: Job) -> None:
        at = self.slots.next_event() or self._monotonic()
        if job.held or self._parts.keeps_leases:  # only this process can deliver it, or has to
            self._send_at(at, delivery)
        else:
            self._give_up_lease(delivery)
            self.drop(delivery.job_id)
            self._set_alarm(at)

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

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def _conclude(self, delivery: PendingDelivery) -> None:
        future = delivery.future
        if future is None:
            return
        is_ours = delivery.sent is None or self._proof.judge(delivery.sent, delivery.job_id, future)
        has_answer = failure(future) is None
        refusal = future.result().header(REFUSAL_HEADER) if has_answer and is_ours else None
        # A refused job is sent again in a moment: one read is enough.
        job = self._store.get(delivery.job_id, body=refusal == BUSY)
        run = delivery.run
        step = after_answer(job, run, future.result()) if has_answer else after_silence(job, run)
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
            delivery.waiting_for = "store" if refusal == "unavailable" else None if has_answer else "connection"
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
        delivery.first_sent = None
        self._wait(job, delivery)
        delivery.is_whole = True
        self.places.refused.add(job.id)
        self._send_at(self._monotonic() + refusal_pause(delivery.refusals), delivery)
        if job.deliver_by is not None:
            changed = self._change(delivery, Changes(deliver_by=None))
            if changed is not None:
                delivery.job = evolve(changed, request=job.request)

    def _wait(self, job: Job, delivery: PendingDelivery) -> None:
        delivery.future, delivery.job, delivery.version, delivery.send_at = None, job, job.version, None
        delivery.is_whole = False

    def _retry(self, job: Job, delivery: PendingDelivery, reason: str) -> None:
        limit = self._limit(job, delivery)
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

    def _end(self, job: Job, end: End) -> None:
        changed = write_end(self._store, job, Expect(run=job.run, unclaimed=True), end)
        self._by_id.pop(job.id, None)
        if changed is not None:
            log_conclusion(job, end)
            self._parts.announce(changed)


def _nothing() -> None:
    """Do nothing but wake the monitor."""
