"""Writes for running jobs what they have not written themselves: coalesced reports, signs of life, late ends.

`write_later` and `settle` may be called from any thread; everything else runs in the monitor's.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from backjob.delivery.parts import DeliveryParts, Reporting
from backjob.errors import StoreError
from backjob.lifecycle import End
from backjob.process import RETRY_PAUSE, Outage

_BEAT_INTERVAL: Final = 1.0

_log = logging.getLogger("backjob")


class Writeback:
    """The pending writes of one process's running jobs."""

    def __init__(self, parts: DeliveryParts, *, outage: Outage, wake: Callable[[], None]) -> None:
        self._store = parts.store
        self._monotonic = parts.clock.monotonic
        self._announce = parts.announce
        self._outage = outage
        self._wake = wake
        self._incoming: deque[Reporting] = deque()
        self._planned = math.inf
        """When the monitor's next pass is due at the latest; infinite while that is being computed."""
        self._dirty: set[Reporting] = set()
        self._beats: dict[str, Reporting] = {}
        self._next_beat = 0.0
        self._ends: deque[tuple[Reporting, End, float]] = deque()
        self._next_try = 0.0

    def write_later(self, running: Reporting) -> None:
        """Write the pending changes of a job as soon as its next write is due."""
        self._incoming.append(running)
        if running.next_write < self._planned:
            self._wake()

    def settle(self, running: Reporting, end: End) -> None:
        """Write an end that the store did not take, retrying until the job's timeout, which then ends it."""
        self._ends.append((running, end, self._monotonic() + running.job.error_timeout))
        self._wake()

    def next_event(self) -> float | None:
        """Return when `run` has something to do, on the monotonic clock (s)."""
        # In this order: a job that write_later() adds after _gather() still finds the infinite plan, and wakes.
        self._planned = math.inf
        self._gather()
        events = [running.next_write for running in self._dirty]
        if self._beats:
            events.append(self._next_beat)
        if self._ends:
            events.append(self._next_try)
        if not events:
            return None
        self._planned = min(events)
        return self._planned

    def run(self, now: float) -> None:
        """Write what is due."""
        self._gather()
        for running in [running for running in self._dirty if running.next_write <= now]:
            self._dirty.discard(running)
            if not self._flush(running):
                self._beats[running.job.id] = running
        if self._ends and now >= self._next_try:
            self._next_try = now + RETRY_PAUSE
            self._write_ends(now)
        if self._beats and now >= self._next_beat:
            self._next_beat = now + _BEAT_INTERVAL
            self._beat()

    def finish(self) -> None:
        """Write everything now, at the end of the process."""
        self._gather()
        while self._dirty:
            self._flush(self._dirty.pop())
        self._write_ends(self._monotonic())

    def _flush(self, running: Reporting) -> bool:
        try:
            return running.flush()
        except Exception:
            _log.exception("job %s: its progress could not be written", running.job.id)
            return True

    def _beat(self) -> None:
        """Write signs of life, and mark the jobs that have ended: their actions have no other way to find out."""
        self._store.beat({job_id: running.token for job_id, running in self._beats.items()})
        while self._beats:
            job_id, running = self._beats.popitem()
            job = self._store.get(job_id)
            if job is None or job.status.is_final:
                running.ended = True

    def _gather(self) -> None:
        while self._incoming:
            self._dirty.add(self._incoming.popleft())

    def _write_ends(self, now: float) -> None:
        for _ in range(len(self._ends)):
            running, end, until = self._ends.popleft()
            try:
                job = running.end(end)
            except StoreError as error:
                if now < until:
                    self._outage.warn("job %s: its end can't be written yet: %s", running.job.id, error)
                    self._ends.append((running, end, until))
                else:
                    _log.warning("job %s: giving up on writing its end; its timeout ends it: %s", running.job.id, error)
            except Exception:
                _log.exception("job %s: its end could not be written", running.job.id)
            else:
                if job is not None:
                    self._announce(job)
