"""Writes for running jobs what they have not written themselves: coalesced reports, and ends that the store did not take.

`write_later` and `settle` may be called from any thread; everything else runs in the monitor's.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable
from itertools import count

from backjob.delivery.parts import DeliveryParts, Reporting
from backjob.errors import StoreError
from backjob.process import RETRY_PAUSE, Outage

_log = logging.getLogger("backjob")


class Writeback:
    """The pending writes of one process's running jobs."""

    def __init__(self, parts: DeliveryParts, *, outage: Outage, wake: Callable[[], None]) -> None:
        self._tend_leases = parts.tend_leases
        self._write_together = parts.write_together
        self._outage = outage
        self._wake = wake
        self._incoming: deque[Reporting] = deque()
        self._planned = math.inf
        """When the monitor's next pass is due at the latest; infinite while that is being computed."""
        self._due: dict[Reporting, float] = {}
        """When each run with something to write is due (monotonic, s)."""
        self._schedule: list[tuple[float, int, Reporting]] = []
        """A heap of the same, in which entries that are no longer true stay until their time."""
        self._numbers = count()
        self._ends: deque[tuple[str, Callable[[], None]]] = deque()
        self._next_try = 0.0
        self._next_tending: float | None = None

    def write_later(self, running: Reporting) -> None:
        """Write the pending changes of a job as soon as its next write is due."""
        self._incoming.append(running)
        if running.next_write < self._planned:
            self._wake()

    def settle(self, job_id: str, conclude: Callable[[], None]) -> None:
        """Call ``conclude`` again and again, for as long as the process lives, until it raises no `StoreError`."""
        self._ends.append((job_id, conclude))
        self._wake()

    def next_event(self) -> float | None:
        """Return when `run` has something to do, on the monotonic clock (s)."""
        # In this order: a job that write_later() adds after _gather() still finds the infinite plan, and wakes.
        self._planned = math.inf
        self._gather()
        events = [self._schedule[0][0]] if self._schedule else []
        if self._next_tending is not None:
            events.append(self._next_tending)
        if self._ends:
            events.append(self._next_try)
        if not events:
            return None
        self._planned = min(events)
        return self._planned

    def run(self, now: float) -> None:
        """Write what is due."""
        self._next_tending = self._tend_leases()
        self._gather()
        due = self._take_due(now)
        if due:
            try:
                self._write_together(due)
            except BaseException:  # such as SystemExit in a hook, which ends this pass and not the thread
                self._incoming.extend(due)
                raise
        if self._ends and now >= self._next_try:
            self._next_try = now + RETRY_PAUSE
            self._write_ends()

    def finish(self) -> None:
        """Write everything now, at the end of the process."""
        self._gather()
        for running in self._due:
            if running.unlist():
                self._write_together([running])  # alone, so as to wait for a thread that is writing just now
        self._due.clear()
        self._schedule.clear()
        self._write_ends()

    def _gather(self) -> None:
        while self._incoming:
            running = self._incoming.popleft()
            at = running.next_write
            if at < self._due.get(running, math.inf):
                self._set_due(running, at)

    def _set_due(self, running: Reporting, at: float) -> None:
        self._due[running] = at
        heapq.heappush(self._schedule, (at, next(self._numbers), running))

    def _take_due(self, now: float) -> list[Reporting]:
        due = []
        while self._schedule and self._schedule[0][0] <= now:
            at, _, running = heapq.heappop(self._schedule)
            if self._due.get(running) != at:
                continue  # it was due earlier
            if running.next_write > now:  # a thread of its action has written meanwhile
                self._set_due(running, running.next_write)
                continue
            del self._due[running]
            if running.unlist():
                due.append(running)
        return due

    def _write_ends(self) -> None:
        for _ in range(len(self._ends)):
            job_id, conclude = self._ends.popleft()
            try:
                conclude()
            except StoreError as error:
                self._outage.warn("job %s: the end of its run can't be written yet: %s", job_id, error)
                self._ends.append((job_id, conclude))
            except Exception:
                _log.exception("job %s: the end of its run could not be written", job_id)
