"""Delivers the jobs that are given to it, in a thread of its own that works in passes (`Carrier.step`).

The monitor is a carrier that also looks for jobs itself. `BackJob.deliver` uses plain ones, one for each transport.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from backjob.delivery.clocks import Clocks
from backjob.delivery.deliveries import Deliveries
from backjob.delivery.keeping import seconds_until_due
from backjob.delivery.leaving import leave_at_exit
from backjob.delivery.parts import DeliveryParts
from backjob.delivery.reaping import reap
from backjob.lifecycle import CARRIER
from backjob.model import Credentials, Job
from backjob.process import Outage, Passes

_CLOCK_INTERVAL: Final = 1.5  # s


class Carrier:
    """Delivers jobs in one process: keep it in a `PerProcess`. ``lessee`` is its name on leases.

    Other threads only post to it and wake it. No pass waits for the network: sockets belong to the transport. Tests call
    `step` themselves, under their own clock.
    """

    def __init__(self, parts: DeliveryParts, name: str = "backjob-carrier") -> None:
        self._parts = parts
        self._store = parts.store
        self._clock = parts.clock
        prefix = CARRIER if parts.keeps_leases else ""
        self.lessee = f"{prefix}{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._passes = Passes(name, self._pass, at_end=self._end_thread)
        leave_at_exit(self)
        self._entered: dict[str, object] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._outage = parts.outage or Outage(parts.clock)
        self._clocks = Clocks(parts.clock, parts.run_lease)
        self._deliveries = Deliveries(
            parts,
            self._clocks,
            lessee=self.lessee,
            outage=self._outage,
            post=self._post,
            set_alarm=self._set_alarm,
            has_backlog=self._may_more_wait,
        )

    # --- called from any thread -------------------------------------------------------------------------------------

    def ensure_running(self) -> None:
        """Start the thread unless it runs. Raises `RuntimeError` if the system starts no more threads."""
        self._passes.ensure_running()

    @property
    def is_closed(self) -> bool:
        """Whether it delivers nothing any more."""
        return self._passes.is_closed

    @property
    def is_running(self) -> bool:
        """Whether the thread was started and not closed."""
        return self._passes.is_running

    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        """Deliver a job that is leased to this process, when it is due.

        ``written`` is the monotonic time (s) at which its lease began; other processes may see it only later.
        """
        self.ensure_running()
        at = written + seconds_until_due(job)
        self._post(lambda: self._take_over(job, credentials, at, written))

    def forget(self, job: Job) -> None:
        """Stop delivering the run of a job that was ended or requeued."""
        self._post(lambda: self._deliveries.forget(job))

    def enter(self, job_id: str) -> bool:
        """Note that a call delivers this job, until `exit`. Returns False if another one does."""
        mark = object()
        return self._entered.setdefault(job_id, mark) is mark  # one step, without a lock

    def exit(self, job_id: str) -> None:
        """Note that the call has returned."""
        self._entered.pop(job_id, None)

    def leave(self, job_id: str) -> None:
        """Stop delivering a job, and let other processes deliver it, or its next run if it runs."""
        self._post(lambda: self._retrying(lambda: self._deliveries.leave(job_id)))

    def carries(self, job_id: str) -> bool:
        """Return whether it delivers this job."""
        return self._deliveries.carries(job_id)

    def reap(self, job: Job) -> Job | None:
        """End a job, as read, if it has passed a time limit before it was claimed. Returns it, or None if nothing was written.

        Only the jobs that this process delivers, since no other process may be left to end them.
        """
        is_ours = job.is_waiting and job.lessee == self.lessee and self._clocks.is_plausible(job.read_time)
        return reap(self._parts, job, self._deliveries.why_waiting(), self._clocks.steady) if is_ours else None

    def has_unclaimed(self, timeout: float) -> bool:  # noqa: ARG002 - for `leave_at_exit`
        """Return False: whoever has given it jobs waits for their ends."""
        return False

    def close(self, timeout: float = 5.0) -> None:
        """Give up leases that other processes can use, and end the thread (s to wait for it)."""
        if not self._passes.close(timeout):
            self._finish()

    def _post(self, action: Callable[[], None]) -> None:
        """Have the carrier's thread call ``action`` in its next pass."""
        self._posted.append(action)
        self._passes.wake()

    def _take_over(self, job: Job, credentials: Credentials | None, at: float, written: float) -> None:
        was_carried = self._deliveries.carries(job.id)
        self._deliveries.add(job, credentials, at, written)
        if was_carried:  # its lease was lost for a while, and perhaps its start time was moved
            self._deliveries.reschedule(job, credentials, at)

    def _set_alarm(self, at: float) -> None:
        """Look for due jobs at a time (monotonic, s). A carrier looks for none: whoever has given it a job reads it again."""

    def _may_more_wait(self) -> bool:
        """Return whether more due jobs may wait in the store, as far as it is known. A carrier takes none from there."""
        return False

    # --- the thread -------------------------------------------------------------------------------------------------

    def _pass(self) -> float:
        with self._deliveries.turn:
            return self.step()

    def step(self) -> float:
        """Do everything that is due. Returns the seconds until something else is. The caller has the turn."""
        self._run_posted()
        self._clocks.check_wall()
        self._deliveries.try_slots()
        self._deliveries.run(self._clock.monotonic())
        if self._posted:
            return 0.0
        event = self._deliveries.next_event()
        return _CLOCK_INTERVAL if event is None else min(_CLOCK_INTERVAL, max(0.0, event - self._clock.monotonic()))

    def _run_posted(self) -> None:
        while self._posted:
            self._posted.popleft()()

    def _retrying(self, part: Callable[[], object]) -> None:
        """Run a part of the pass. If it fails, it is logged, and the other parts run all the same."""
        self._outage.attempt(part, "a carrier")

    def _finish(self) -> None:
        with self._deliveries.turn:
            self._release()

    def _release(self) -> None:
        for part in (self._run_posted, self._deliveries.release):
            self._retrying(part)

    def _end_thread(self) -> None:
        self._finish()
        self._retrying(self._parts.leave)
