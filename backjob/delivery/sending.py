"""Sends the jobs of one process: which are ready, and what is written before they leave.

Everything here runs under the lock ``turn``, as in `backjob.delivery.keeping`.
"""

from __future__ import annotations

import heapq
import logging
from concurrent.futures import Future
from functools import partial
from typing import Final

from attrs import evolve

from backjob.delivery.addresses import Destination
from backjob.delivery.attempts import Attempt, Undeliverable, credentials_of
from backjob.delivery.keeping import Keeping
from backjob.delivery.pending import LastSent, PendingDelivery
from backjob.delivery.proof import host_of
from backjob.endings import log_conclusion, write_end
from backjob.lifecycle import (
    ROW_CHANGED,
    End,
    Late,
    failed,
    late,
    local_deadline,
    past_end,
    waits_until_sent,
)
from backjob.model import UNSET, Changes, Credentials, Expect, Job, Response
from backjob.process import RETRY_PAUSE

_BATCH: Final = 100

_log = logging.getLogger("backjob")


class Sending(Keeping):
    """Sends the jobs of `Keeping` that are ready, as places, slots and the proof of an address allow."""

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

    def try_slots(self) -> None:
        """Have those jobs tried next that wait here for a slot of their queue, if it may have a free one."""
        if self.room():
            for delivery in self._slotless.next_ones(self.slots.full()):
                if delivery.send_at is not None:
                    delivery.send_at = self._monotonic()
                    self._plan(delivery.send_at, self._make_ready, delivery)

    def none_waits_in_store(self) -> None:
        """Note that a poll has left no job in the store, except of queues that are full now."""
        self.slots.none_waits(self._slotless.has)  # otherwise the pauses between two tries would not grow

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

    def _send_ready(self) -> bool:
        """Send the jobs that are ready, as far as places and the lack of a store allow. Returns False if it needs the monitor."""
        while self._ready and self.places.free():
            delivery = self._by_id.get(self._ready[0])
            is_current = delivery is not None and delivery.job is not None and delivery.send_at is None
            if delivery is not None and is_current and not self._send_without_store(delivery):
                return False
            self._ready.popleft()  # last: if sending has raised an error, the monitor retries it
        return True

    def _send(self, delivery: PendingDelivery) -> None:
        destination = self._proof.destination()
        job = delivery.job
        if job is None:
            return
        if destination is None:  # a request has shown a new address since `run` asked
            self._ready.appendleft(delivery.job_id)
            return
        if not delivery.is_whole or job.expires is not None:  # it may have expired since it was read
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
        if not getattr(destination.transport, "sends_at_once", False):  # it may wait, as only the monitor's thread may
            return False
        if delivery.failures or waits_until_sent(job.merge_key) or self.slots.is_needed(job):
            return False
        if job.expires is not None and not is_new:
            return False
        try:
            credentials = self._credentials(delivery, job, is_new=is_new)
        except Undeliverable:
            return False
        number = delivery.next_number(job)
        send = partial(self._transmit, delivery, job, number, credentials, destination)
        if self._outage.attempt(send, "the delivery of job %s", job.id) is not None:
            self._send_at(self._monotonic() + RETRY_PAUSE, delivery)
            self._wake()
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
        self._slotless.discard(job.id)
        job_id = job.id
        future.add_done_callback(lambda future: self._outcome_came(job_id, future))

    def _outcome_came(self, job_id: str, future: Future[Response]) -> None:
        """Take the outcome of an attempt, in the transport's thread."""
        raise NotImplementedError

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
        if limit is Late.UNDELIVERED and not (
            self._clocks.steady >= timeout and self._clocks.is_plausible(job.read_time)
        ):
            limit = None
        if limit is None and sent is not None and sent + timeout <= self._monotonic():
            return Late.UNDELIVERED
        return limit

    def _with_deadline(self, job: Job) -> Job:
        """Return the job, without its deadline if that is from before a jump of the clock: then it has its whole time."""
        if job.deliver_by is None:
            return job
        left = (job.deliver_by - job.read_time).total_seconds()
        return job if 0 < left <= self._parts.delivery_timeout else evolve(job, deliver_by=None)

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
        elif (earlier := self._slotless.before(job)) is not None:
            earlier.send_at = None
            self._ready.extendleft((job.id, earlier.job_id))
            return None
        else:
            changed, is_free = self.slots.take(
                job.queue, lambda slot: self._change(delivery, evolve(changes, slot=slot))
            )
            if not is_free:
                self._wait_for_slot(delivery, job)
            elif changed is not None:
                self._slotless.discard(job.id)
                if self._slotless.has(job.queue):  # there may be another free slot
                    self.places.must_poll = True
        return None if changed is None else evolve(changed, request=job.request)

    def _wait_for_slot(self, delivery: PendingDelivery, job: Job) -> None:
        at = self.slots.next_try(job.queue)
        changes = self._for_room(delivery)
        if not (job.held or self._parts.keeps_leases):
            self._leave_to_others(delivery, changes)
            self._set_alarm(at)
        elif self._waits_for_room(delivery, job, changes):  # only this process can deliver it, or has to
            if self._parts.keeps_leases:
                self._send_at(at, delivery)
            else:  # the poll comes first, so that it takes its turn
                delivery.send_at = at
                self._set_alarm(at)
            self._slotless.add(delivery, job)

    def _waits_for_room(self, delivery: PendingDelivery, job: Job, changes: Changes) -> bool:
        """Write the changes of `_for_room`, if there are any. Returns False if the job was changed: that is decided anew."""
        if job.deliver_by is None and job.waiting_for is None:
            return True
        changed = self._change(delivery, changes)
        if changed is not None:
            delivery.job = evolve(changed, request=job.request)
        return changed is not None

    def _note_waiting(self) -> None:
        """Write why jobs wait for a proof, once for each job and reason, in passes of bounded length."""
        reason = self._proof.waiting
        waiting = [delivery for job_id in self._ready if (delivery := self._by_id.get(job_id)) is not None]
        news = [one for one in waiting if reason is not None and one.job is not None and one.job.waiting_for != reason]
        for delivery in news[:_BATCH]:
            job = delivery.job
            changed = self._change(delivery, Changes(waiting_for=reason))
            delivery.waiting_for = reason
            if changed is not None and job is not None:
                delivery.job = evolve(changed, request=job.request)

    def _end(self, job: Job, end: End) -> None:
        changed = write_end(self._store, job, Expect(run=job.run, unclaimed=True), end)
        self._by_id.pop(job.id, None)
        self._slotless.discard(job.id)
        if changed is not None:
            log_conclusion(job, end)
            self._parts.announce(changed)
