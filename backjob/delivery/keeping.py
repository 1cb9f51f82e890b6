"""The jobs that this process delivers: the agenda of their next steps, their leases, and their next runs.

Everything here runs under the lock ``turn``: one pass of the monitor's thread, or one short step of another thread.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from attrs import evolve

from backjob.delivery.clocks import Clocks
from backjob.delivery.parts import DeliveryParts
from backjob.delivery.pending import PendingDelivery
from backjob.delivery.places import Places, Slots
from backjob.delivery.proof import Proof
from backjob.delivery.slotless import Slotless
from backjob.lifecycle import DELIVERY_LEASE
from backjob.model import UNSET, Changes, Expect, Job
from backjob.process import RETRY_PAUSE, Outage

LEASE: Final = DELIVERY_LEASE
"""Seconds that a lease lasts. It is renewed after half of them."""

_CHECK_INTERVAL: Final = 60.0
_CLAIMED_INTERVAL: Final = 5.0
"""Seconds between reads of a claimed job whose connection is lost and whose credentials only this process has."""
_TURN: Final = 0.1
"""Seconds that a next slice lets other jobs go first if some wait."""
_MOST_LEFT: Final = 1000
_NONE: Final = Changes()
_Action: TypeAlias = Callable[[PendingDelivery], None]


class Keeping:
    """The jobs that one process delivers. ``post`` has the monitor's thread call a function.

    Whoever calls a method holds the lock ``turn``, unless the method says that any thread may call it.

    ``set_alarm(at)`` has it look for due jobs at a time (monotonic, s). ``has_backlog`` says whether more jobs wait in the
    store than there was room for.
    """

    def __init__(
        self,
        parts: DeliveryParts,
        clocks: Clocks,
        *,
        lessee: str,
        outage: Outage,
        post: Callable[[Callable[[], None]], None],
        set_alarm: Callable[[float], None],
        has_backlog: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._clocks = clocks
        self._store = parts.store
        self._monotonic = parts.clock.monotonic
        self._lessee = lessee
        self._outage = outage
        self._post = post
        self._set_alarm = set_alarm
        self._has_backlog = has_backlog
        self._proof = Proof(parts, post)
        self.turn = threading.Lock()
        self.places = Places(parts)
        self.slots = Slots(parts)
        self._slotless = Slotless()
        self._by_id: dict[str, PendingDelivery] = {}
        self._left: dict[tuple[str, int], tuple[float, int]] = {}
        """The job and run that this process has left to others → for how long it had tried to deliver it, and its failures."""
        self._agenda: list[tuple[float, int, _Action, str]] = []
        self._order = count()
        self._ready: deque[str] = deque()

    def drop(self, job_id: str) -> None:
        """Stop delivering a job, and close its connection."""
        delivery = self._by_id.pop(job_id, None)
        self.places.refused.discard(job_id)
        self._slotless.discard(job_id)
        if delivery is not None and delivery.future is not None:
            delivery.future.cancel()

    def forget(self, job: Job) -> None:
        """Stop delivering a run that is over: ``job`` has ended or waits for a later one, which this process may have leased."""
        delivery = self._by_id.get(job.id)
        if delivery is not None and (job.status.is_final or delivery.run < job.run):
            self.drop(job.id)

    def _wake(self) -> None:
        """Have the monitor's thread make a pass. Callable from any thread."""
        self._post(_nothing)

    def _send(self, delivery: PendingDelivery) -> None:
        """Send the request of a job that is ready."""
        raise NotImplementedError

    # --- the agenda -------------------------------------------------------------------------------------------------

    def _plan(self, at: float, action: _Action, delivery: PendingDelivery) -> None:
        # By its id: an entry must not keep the credentials of a job that was dropped.
        heapq.heappush(self._agenda, (at, next(self._order), action, delivery.job_id))

    def _send_at(self, at: float, delivery: PendingDelivery) -> None:
        planned, delivery.send_at = delivery.send_at, at
        waited = self._slotless.discard(delivery.job_id)
        if waited or planned is None or at < planned:  # otherwise the earlier entry of the agenda plans the later one
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

    def _make_ready(self, delivery: PendingDelivery) -> None:
        if delivery.send_at is None or delivery.future is not None:
            return
        if delivery.send_at > self._monotonic():
            self._plan(delivery.send_at, self._make_ready, delivery)
            return
        now = self._monotonic()
        delivery.send_at, delivery.ready_at = None, now
        self.places.refused.discard(delivery.job_id)
        self._ready.append(delivery.job_id)
        # If it still waits for room when its deadline is near, `_renew` removes that.
        at = max(self._deadline(delivery) - RETRY_PAUSE, now + RETRY_PAUSE)
        if at < delivery.renew_at:
            self._renew_at(at, delivery)

    def _deadline(self, delivery: PendingDelivery) -> float:
        """Return when (monotonic, s) the delivery of a run that was sent before has taken too long."""
        if delivery.first_sent is not None:
            return delivery.first_sent + self._parts.delivery_timeout
        if delivery.job is None or delivery.job.deliver_by is None:
            return math.inf
        return self._monotonic() + (delivery.job.deliver_by - self._parts.clock.now()).total_seconds()

    # --- leases -----------------------------------------------------------------------------------------------------

    def _renewal(self, delivery: PendingDelivery, changes: Changes = _NONE) -> Changes:
        """Return the changes that renew the lease too, and write the deadline of the run if it was sent before."""
        changes = evolve(changes, lessee=self._lessee, lease=LEASE)
        if delivery.first_sent is None:
            return changes
        return evolve(changes, deliver_by=max(0.0, self._deadline(delivery) - self._monotonic()))

    def _renew(self, delivery: PendingDelivery) -> None:
        if delivery.renew_at > self._monotonic() or delivery.is_claimed:
            return  # this entry is out of date
        job = delivery.job
        is_ready = delivery.future is None and delivery.send_at is None
        has_waited = is_ready and delivery.ready_at + RETRY_PAUSE <= self._monotonic()  # else this pass may send it
        changes = self._unsent(delivery) if has_waited else _NONE
        is_for_others = not (self._parts.keeps_leases or job is None or job.held)
        if has_waited and is_for_others:
            # There was no room or proof to send it in time: any process that has them may take it.
            self._leave_to_others(delivery, changes)
            return
        changed = self._change(delivery, self._renewal(delivery, changes))
        if changed is None:
            return
        if job is not None:
            delivery.job = evolve(changed, request=job.request)
        self._renew_at(self._monotonic() + LEASE / 2, delivery)

    def _for_room(self, delivery: PendingDelivery) -> Changes:
        """Return the changes to a job that waits for nothing but room.

        That never ends a job, so its delivery timeout begins anew when it is sent; and no earlier reason says why it waits.
        """
        self._stop_time(delivery)
        delivery.waiting_for = None
        return Changes(deliver_by=None, waiting_for=None)

    def _unsent(self, delivery: PendingDelivery) -> Changes:
        """Return the changes to a job that waits for room, or for the proof of an address: that ends no job either."""
        if self._proof.waiting is None:
            return self._for_room(delivery)
        self._stop_time(delivery)
        return Changes(deliver_by=None)

    def _stop_time(self, delivery: PendingDelivery) -> None:
        """Stop the delivery timeout, and count what the requests that failed until then have taken, with the pauses after them."""
        if delivery.first_sent is not None:
            delivery.tried += max(0.0, delivery.ready_at - delivery.first_sent)
            delivery.first_sent = None

    def _leave_to_others(self, delivery: PendingDelivery, changes: Changes = _NONE) -> None:
        """Give up the lease of a job that was not sent, and forget it, unless it was changed: then decide anew."""
        if self._give_up_lease(delivery, changes):
            if delivery.failures:  # this process may deliver it again, and must not begin anew each time
                self._left[delivery.job_id, delivery.run] = delivery.tried, delivery.failures
                if len(self._left) > _MOST_LEFT:
                    del self._left[next(iter(self._left))]
            self.drop(delivery.job_id)
        else:
            self._read_again(delivery)

    def _give_up_lease(self, delivery: PendingDelivery, changes: Changes = _NONE) -> bool:
        """Return whether the job was as this process knows it, so that its lease is given up, and the changes are made."""
        expect = Expect(run=delivery.run, version=delivery.version, unclaimed=True)
        # A request that is on its way may still be claimed, and then the job needs its slot.
        slot = None if delivery.future is None else UNSET
        changes = evolve(changes, lessee=None, lease=None, slot=slot)
        return self._store.change(delivery.job_id, expect, changes) is not None

    def _change(self, delivery: PendingDelivery, changes: Changes) -> Job | None:
        """Change the job if it is as this process knows it. Otherwise return None, after `_read_again`."""
        expect = Expect(run=delivery.run, version=delivery.version, unclaimed=True)
        changed = self._store.change(delivery.job_id, expect, changes)
        if changed is None:
            self._read_again(delivery)
        else:
            delivery.version = changed.version
        return changed

    def _is_ours(self, job: Job) -> bool:
        """Return whether the job waits, leased to this process."""
        return job.is_waiting and job.lessee == self._lessee

    def _may_take_back(self, job: Job, delivery: PendingDelivery) -> bool:
        """Return whether this process has lost the lease of a waiting job that only it can deliver.

        It could not renew it in time. If the start time was moved, another process took the job over with its own credentials.
        """
        is_moved = delivery.job is not None and delivery.job.start_time != job.start_time
        is_waiting = job.is_waiting and job.run == delivery.run and job.lessee != self._lessee
        return is_waiting and job.held and delivery.credentials is not None and not is_moved

    def _read_again(self, delivery: PendingDelivery) -> None:
        """Another process changed the job: it claimed, ended, requeued or leased it, or moved its start time."""
        job = self._store.get(delivery.job_id)
        if job is not None and self._may_take_back(job, delivery):
            expect = Expect(run=job.run, version=job.version, unclaimed=True)
            job = self._store.change(job.id, expect, Changes(lessee=self._lessee, lease=LEASE)) or job
        if job is not None and self._is_ours(job) and job.run == delivery.run:
            delivery.version = job.version
            now = self._monotonic()
            if delivery.future is None:
                delivery.job, delivery.is_whole = job, False
                self._send_at(now + seconds_until_due(job), delivery)
            self._renew_at(now + RETRY_PAUSE, delivery)  # half a lease from now it might have expired
        elif job is None or job.status.is_final:
            self.drop(delivery.job_id)
        elif delivery.future is None or job.run != delivery.run:
            self._follow(job, delivery)
        else:
            # In flight for another process: once the job has ended, close the connection.
            delivery.is_claimed = True
            if not delivery.held:
                delivery.credentials = None
            self._plan(self._monotonic() + _CHECK_INTERVAL, self._check, delivery)

    def _check(self, delivery: PendingDelivery) -> None:
        if delivery.is_claimed:
            self._read_again(delivery)

    # --- the next run -----------------------------------------------------------------------------------------------

    def _follow(self, job: Job, delivery: PendingDelivery) -> None:
        """The run that this process has sent was claimed. Deliver the next one if it waits and this process may."""
        if job.is_waiting and job.run > delivery.run:
            self._follow_up(job, delivery)
        elif job.is_waiting or not (job.held and delivery.credentials and job.lessee == self._lessee):
            self.drop(job.id)
        else:
            if delivery.future is not None:
                delivery.future.cancel()
            self._slotless.discard(job.id)  # an earlier request for it was late, and came with a slot after all
            delivery.future, delivery.job, delivery.is_claimed = None, None, True
            self._plan(self._monotonic() + _CLAIMED_INTERVAL, self._check, delivery)

    def _follow_up(self, job: Job, delivery: PendingDelivery) -> None:
        wait = seconds_until_due(job)
        at = self._monotonic() + wait
        # The jobs that wait for a slot of its queue come first: a poll takes them in their order.
        has_backlog = self._has_backlog() or self.slots.is_limited(job.queue)
        is_for_others = (wait > 0 or has_backlog) and not self._parts.keeps_leases
        if self._is_ours(job) and (delivery.credentials or not job.held):
            self._again(job, delivery, at + (_TURN if has_backlog else 0))
        elif job.held or is_for_others or job.lessee is not None or self._parts.is_draining():
            self.drop(job.id)
            self._set_alarm(at)
        else:
            expect = Expect(run=job.run, version=job.version, unclaimed=True)
            leased = self._store.change(job.id, expect, Changes(lessee=self._lessee, lease=LEASE))
            if leased is None:
                self.drop(job.id)
            else:
                self._again(leased, delivery, at)

    def _again(self, job: Job, delivery: PendingDelivery, at: float) -> None:
        """Deliver the next run of a job that is leased to this process."""
        if delivery.future is not None:
            delivery.future.cancel()
        delivery.begin(job)
        delivery.due_at = at
        self._renew_at(self._monotonic() + LEASE / 2, delivery)
        self._send_at(at, delivery)

    def _slot_freed(self, job: Job) -> None:
        if self.slots.freed(job.queue) or self._slotless.has(job.queue):
            self.places.must_poll = True


def seconds_until_due(job: Job) -> float:
    """Return in how many seconds the job is due, counted from when it was read; 0 if it is."""
    return max(0.0, (job.start_time - job.read_time).total_seconds())


def _nothing() -> None:
    """Do nothing but wake the thread to which this is posted."""
