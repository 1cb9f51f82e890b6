"""Delivers jobs, waits for the delayed ones, and ends or requeues those that have passed a time limit.

One thread works in passes (`Monitor.step`). Other threads only post to it and wake it. No pass waits for the network:
sockets belong to the transport. Tests call `step` themselves, under their own clock.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from typing_extensions import override

from backjob.delivery.carrier import Carrier
from backjob.delivery.keeping import LEASE, seconds_until_due
from backjob.delivery.parts import DeliveryParts, Reporting
from backjob.delivery.places import MOST_AHEAD
from backjob.delivery.reaping import Reaper, taken_over
from backjob.delivery.relabelling import Relabelling
from backjob.delivery.resting import Rest
from backjob.delivery.writeback import Writeback
from backjob.errors import StoreError
from backjob.lifecycle import DISPATCHED
from backjob.model import Changes, Credentials, Expect, Job
from backjob.process import RETRY_PAUSE, Outage

_POLL_INTERVAL: Final = 2.0
_REAP_INTERVAL: Final = 1.5
"""Seconds; with a run lease of less than 18 s, a twelfth of that. So a death ends its job within 20 s."""
_CLEANUP_INTERVAL: Final = 3600.0
_REST: Final = 1.0  # s: before a longer pause, the thread gives back its connection
_GRACE: Final = LEASE / 2
"""Seconds that a process waits for the credentials of a job that it has read without them."""
_BATCH: Final = 100
_MAX_ALARMS: Final = 10_000

_log = logging.getLogger("backjob")


class Monitor(Carrier):
    """The monitor of one `BackJob` in one process: keep it in a `PerProcess`. ``lessee`` is its name on leases.

    ``serves_requests``: this process is a web server's, and not a shell's or a command's.
    """

    def __init__(self, parts: DeliveryParts) -> None:
        super().__init__(parts, "backjob-monitor")
        self._alarms: list[float] = []
        self._is_active = False
        self._has_backlog = False
        self._rest = Rest(parts)
        self.serves_requests = False
        self._is_leaving = False
        self._is_job_noted = False
        self._no_thread = Outage(parts.clock)
        self._reaper = Reaper(
            parts,
            self._clocks,
            may_reap=self.may_reap,
            why_waiting=self._deliveries.why_waiting,
            follow_up=self._reaped,
        )
        self._writeback = Writeback(parts, outage=self._outage, wake=self._passes.wake)
        now = self._clock.monotonic()
        self._next_poll = self._next_reap = self._next_cleanup = self._next_relabel = now
        self._relabelling = Relabelling(parts.relabel)

    # --- called from any thread -------------------------------------------------------------------------------------

    @override
    def ensure_running(self) -> None:
        """Start the thread unless it runs. Cheap enough for every request.

        If the system starts no more threads, a later call starts it, and jobs wait until then.
        """
        try:
            self._passes.ensure_running()
        except RuntimeError as error:
            self._no_thread.warn("the monitor's thread can't be started yet, so no job is delivered: %s", error)

    def note_request(self) -> None:
        """Start the thread unless it runs, and end its rest: a request arrived. Cheap enough for every request."""
        self.ensure_running()
        self._note_activity()

    def _note_activity(self) -> None:
        if not self._is_active:
            self._is_active = True
            if self._rest.pace > 1:
                self._passes.wake()

    @override
    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        """Deliver a new job when it is due, or hand it to the engine of its queue. Without a lease it is polled for then.

        ``written`` is the monotonic time (s) at which the job was written and its lease began; other processes may see
        it only later.
        """
        self.ensure_running()
        at = written + seconds_until_due(job)
        if job.lessee == self.lessee:
            self._deliveries.accept(job, credentials, at, written, may_send_now=self.is_running)
            self._note_activity()
        elif job.lessee == DISPATCHED:
            self._parts.dispatcher.hand_over(job)
        elif at > self._clock.monotonic():
            self._post(lambda: self._set_alarm(at))
        else:
            self._note_waiting_job()

    def lessee_of(self, queue: str, *, is_held: bool, is_due: bool) -> str | None:
        """Return who gets the first lease of a new job: this process, if it must deliver it or has room; or its engine.

        With None any process takes it when it is due. If it is this process, the next job that is accepted has a place.
        """
        if is_held:
            return self.lessee
        if not is_due or self._is_leaving:
            return None
        if queue in self._parts.dispatcher.queues:
            return DISPATCHED if self._parts.dispatcher.room(queue) else None
        return self.lessee if self.delivers(queue) and self._deliveries.reserve(queue) else None

    def delivers(self, queue: str) -> bool:
        """Return whether this process delivers the jobs of a queue itself."""
        delivers = self._parts.delivers()
        return queue not in self._parts.dispatcher.queues if delivers is None else queue in delivers

    def reschedule(self, job: Job, credentials: Credentials | None) -> None:
        """Deliver a waiting job at its new start time, after a merge moved it and perhaps took over its lease."""
        self.ensure_running()
        at = self._clock.monotonic() + seconds_until_due(job)
        if job.lessee == DISPATCHED and job.start_time <= job.read_time:
            self._parts.dispatcher.hand_over(job)
            return
        self._post(lambda: self._deliveries.reschedule(job, credentials, at))
        if job.lessee is None:
            self._post(lambda: self._set_alarm(at))

    def run_ended(self, job: Job) -> None:
        """Look for the next job of the queue now: a run of this job has ended, and it may have had the queue's last slot."""
        if job.queue in self._parts.queues:
            self._post(self._slot_freed)
        if job.is_waiting:
            at = self._clock.monotonic() + seconds_until_due(job)
            self._post(lambda: self._set_alarm(at))

    def write_later(self, running: Reporting) -> None:
        """Write the pending changes of a running job when its next write is due."""
        self._writeback.write_later(running)

    def settle(self, job_id: str, conclude: Callable[[], None]) -> None:
        """Write the end of a job's run, retrying: the store was unavailable when its action ended."""
        self._writeback.settle(job_id, conclude)

    def address_shown(self) -> None:
        """Deliver waiting jobs now: a request has shown a new address."""
        self.poll_now()  # without an address there was no room for any

    def poll_now(self) -> None:
        """Look for due jobs now, for a process whose jobs other processes start."""
        self._deliveries.places.must_poll = True
        self._passes.wake()

    @override
    def reap(self, job: Job) -> Job | None:
        """End or requeue a job, as read, if it has passed a time limit and this process may reap.

        Returns the job after that, or None if nothing was written. If it waited for a proof, its text has the last reason.
        """
        return self._reaper.reap(job) if self.may_reap() and self._clocks.is_plausible(job.read_time) else None

    def may_reap(self) -> bool:
        """Return whether this process may end or requeue jobs that have passed a time limit.

        It may not for one run lease after an outage of the store or a jump of a clock, nor while it is itself too slow to tell
        whether other processes live.
        """
        self._clocks.check_wall()
        return not self._clocks.is_paused and self._parts.may_reap()

    @override
    def has_unclaimed(self, timeout: float) -> bool:
        """Return whether jobs that this process sends now are still unclaimed; from now on it takes no others.

        Called at the end of the process. False if it serves requests, which its end interrupts, or after ``timeout`` (s).
        """
        self._is_leaving = True
        if self.serves_requests:
            return False
        answer: Future[bool] = Future()
        self._post(lambda: answer.set_result(self._deliveries.has_unclaimed()))
        try:
            return answer.result(timeout)
        except TimeoutError:
            return False

    def give_leases_back(self, timeout: float = 5.0) -> None:
        """Let other processes deliver the jobs that this one could not deliver yet. Waits until they can, at most ``timeout`` s.

        Called when the server shuts down, for servers that then end without running Python's exit handlers.
        """
        if not self._passes.is_running:
            return
        done = threading.Event()
        self._post(lambda: self._give_leases_back(done))
        done.wait(timeout)

    @override
    def _post(self, action: Callable[[], None]) -> None:
        self._is_active = True
        super()._post(action)

    @override
    def _may_more_wait(self) -> bool:
        return self._has_backlog or self._is_job_noted

    @override
    def _set_alarm(self, at: float) -> None:
        if len(self._alarms) < _MAX_ALARMS:  # the regular polls find the others
            heapq.heappush(self._alarms, at)

    def _note_waiting_job(self) -> None:
        """Look for due jobs once there is room: one is in the store. In any thread, so that a full process is not woken."""
        self._is_job_noted = True
        if self._deliveries.room():
            self.poll_now()

    def _slot_freed(self) -> None:
        self._deliveries.slots.clear()
        self._next_poll = self._clock.monotonic()

    # --- the thread -------------------------------------------------------------------------------------------------

    @override
    def _pass(self) -> float:
        pause = super()._pass()
        if pause >= _REST:
            self._retrying(self._parts.leave)
            if self._rest.pace > 1:
                self._retrying(self._parts.close_idle)
        return pause

    @override
    def step(self) -> float:
        self._run_posted()
        now = self._clock.monotonic()
        if self._parts.is_draining():
            self._retrying(self._leave_unsent)
        self._deliveries.run(now)
        self._set_pace(now)
        if self._is_time_to_poll(now):
            self._next_poll = now + self._rest.interval(_POLL_INTERVAL)
            self._retrying(self._poll)
            self._deliveries.try_slots()  # after the poll, which may have found a job that has been due for longer
            self._deliveries.run(now)
            if not self._rest.is_quiet:
                self._retrying(self._dispatch)
        if now >= self._next_reap:
            self._next_reap = now + min(_REAP_INTERVAL, self._parts.run_lease / 12)
            self._clocks.check_wall()
            self._retrying(lambda: self._reaper.follow_set_back(now))
            if self._rest.is_idle:
                self._next_reap = now + self._rest.glance_interval
                self._retrying(self._glance)
            else:
                self._retrying(self._reap)
        self._retrying(lambda: self._writeback.run(now))
        if now >= self._next_relabel:
            self._next_relabel = now + self._relabelling.interval
            self._retrying(self._relabel)
        if now >= self._next_cleanup:
            self._next_cleanup = now + _CLEANUP_INTERVAL
            self._retrying(lambda: self._parts.retention.purge(self._store))
        return 0.0 if self._posted else max(0.0, self._next_event() - self._clock.monotonic())

    def _set_pace(self, now: float) -> None:
        """Double the intervals at each poll of an idle site. At a request or a job, return to the normal ones at once."""
        is_active, self._is_active = self._is_active, False
        if is_active or self._parts.is_busy() or self._deliveries.next_event() is not None:
            if self._rest.end():
                self._next_poll, self._next_reap = now, now
        elif now >= self._next_poll:
            self._rest.lengthen()

    def _glance(self) -> None:
        if self._rest.glance():
            self._is_active = True
            self._next_reap = self._clock.monotonic()

    def _leave_unsent(self) -> None:
        """Leave the jobs that this draining process has not sent, or that a busy process has refused, to the others."""
        self._deliveries.release(unsent=True)

    @override
    def _retrying(self, part: Callable[[], object]) -> None:
        """Run a part of the pass. If it fails, the next pass repeats it, and the other parts run all the same."""
        if isinstance(self._outage.attempt(part, "the monitor"), StoreError):
            now = self._clock.monotonic()
            self._next_poll = max(self._next_poll, now + RETRY_PAUSE)
            self._clocks.pause()

    def _is_time_to_poll(self, now: float) -> bool:
        is_due = now >= self._next_poll
        while self._alarms and self._alarms[0] <= now:
            heapq.heappop(self._alarms)
            is_due = True
        places = self._deliveries.places
        if places.is_freed:
            places.is_freed = False
            is_due = is_due or self._may_more_wait()
        if places.must_poll:  # cleared only if it was seen: another thread may set it at any moment
            places.must_poll = False
            is_due = True
        return is_due

    def _next_event(self) -> float:
        events = [self._next_poll, self._next_reap, self._next_relabel, self._next_cleanup, *self._alarms[:1]]
        parts = (self._deliveries.next_event(), self._writeback.next_event())
        places = self._deliveries.places
        if places.must_poll or (places.is_freed and self._may_more_wait()):
            return self._clock.monotonic()
        return min(*events, *(event for event in parts if event is not None))

    def _poll(self) -> None:
        delivers = self._parts.delivers()
        if delivers is not None and not delivers:
            return
        room = min(self._deliveries.room(), _BATCH, self._deliveries.slots.batch())
        if room == 0 or self._is_leaving:
            self._next_poll = self._clock.monotonic() + _POLL_INTERVAL  # without a read, so it costs nothing
            self._has_backlog = True  # perhaps: the next place that becomes free tells
            return
        if self._rest.is_quiet and not self._may_more_wait():
            return
        full = self._deliveries.slots.full()
        if delivers is None:
            full |= self._parts.dispatcher.queues
        self._is_job_noted = False  # before the read, which may miss a later one
        ahead = self._deliveries.places.ahead() if room <= _BATCH - MOST_AHEAD and not self._parts.queues else 0
        jobs = self._store.take_due(self.lessee, LEASE, room + ahead, full=full, queues=delivers)
        now = self._clock.monotonic()
        for place, job in enumerate(taken_over(self._store, jobs)):
            if job.queue in self._parts.dispatcher.queues:
                # It has the slot of a process that died, so `full` did not leave it out. Its engine needs the slot itself.
                expect = Expect(version=job.version, unclaimed=True)
                self._store.change(job.id, expect, Changes(lessee=None, lease=None, slot=None))
                continue
            # A poll can find a job of this process before `accept` posts its credentials, or that of a process that was
            # stopped for a while and takes it back.
            if place < room:
                self._deliveries.add(job, None, now + _GRACE if job.held else now)
            else:
                self._deliveries.add_ahead(job, now)
        self._has_backlog = len(jobs) == room + ahead
        if self._has_backlog:
            self._next_poll = now
        else:
            self._deliveries.none_waits_in_store()

    def _dispatch(self) -> None:
        if self._parts.dispatcher.take_due():
            self._next_poll = self._clock.monotonic()

    def _reap(self) -> None:
        if self._reaper.reap_late():
            self._next_reap = self._clock.monotonic()  # the deaths of many jobs must not be found one batch at a time

    def _reaped(self, job: Job) -> None:
        self._is_active = True
        self.reaped(job)

    def reaped(self, job: Job) -> None:
        """Follow up on a job that was ended or requeued because it was late. In the monitor's thread."""
        self._deliveries.forget(job)
        self.run_ended(job)
        if job.status.is_final:
            self._parts.announce(job)

    def _relabel(self) -> None:
        if self._relabelling.run():
            self._next_relabel = self._clock.monotonic()

    def _give_leases_back(self, done: threading.Event) -> None:
        self._next_poll = self._clock.monotonic() + _POLL_INTERVAL  # not to take them again at once
        self._retrying(self._deliveries.release)
        done.set()

    @override
    def _release(self) -> None:
        self._retrying(self._run_posted)
        self._retrying(self._writeback.finish)
        super()._release()
