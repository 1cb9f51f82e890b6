"""What running jobs have not written yet, and the monitor writes for them: coalesced reports, signs of life, late ends.

`later` and `settle` may be called from any thread; the rest is the monitor's.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from backjob.errors import StoreUnavailable
from backjob.lifecycle import End
from backjob.model import Job
from backjob.process import Outage
from backjob.protocols import Clock, Store
from backjob.worker.running import Running

__all__ = ["Writeback"]

_BEAT_INTERVAL: Final = 1.0
_RETRY_INTERVAL: Final = 1.0

_log = logging.getLogger("backjob")


class Writeback:
    """The pending writes of one process's running jobs."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        outage: Outage,
        wake: Callable[[], None],
        announce: Callable[[Job], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._outage = outage
        self._wake = wake
        self._announce = announce
        self._news: deque[Running] = deque()
        self._planned = math.inf
        """When the monitor looks again by itself, at the latest; infinite while it works that out."""
        self._dirty: set[Running] = set()
        self._beats: dict[str, Running] = {}
        self._next_beat = 0.0
        self._ends: deque[tuple[Running, End, float]] = deque()
        self._next_try = 0.0

    def later(self, running: Running) -> None:
        """Write what a job has pending as soon as its next write is due."""
        self._news.append(running)
        if running.next_write < self._planned:
            self._wake()

    def settle(self, running: Running, end: End) -> None:
        """Write an end that the store could not take; tried until the job's time-out, which then ends it."""
        self._ends.append((running, end, self._clock.monotonic() + running.job.error_timeout))
        self._wake()

    def next_event(self) -> float | None:
        """When `run` has something to do, on the monotonic clock (s)."""
        # In this order: what `later` adds after the gathering still finds the infinite plan, and wakes.
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
            self._next_try = now + _RETRY_INTERVAL
            self._write_ends(now)
        if self._beats and now >= self._next_beat:
            self._next_beat = now + _BEAT_INTERVAL
            self._beat()

    def finish(self) -> None:
        """Write everything now: the process ends."""
        self._gather()
        while self._dirty:
            self._flush(self._dirty.pop())
        self._write_ends(self._clock.monotonic())

    def _flush(self, running: Running) -> bool:
        try:
            return running.flush()
        except Exception:
            _log.exception("job %s: its progress could not be written", running.job.id)
            return True

    def _beat(self) -> None:
        """Give signs of life, and take note of jobs that have ended: nothing else would tell their actions."""
        self._store.beat({job_id: running.token for job_id, running in self._beats.items()})
        while self._beats:
            job_id, running = self._beats.popitem()
            job = self._store.get(job_id)
            if job is None or job.status.is_final:
                running.ended = True

    def _gather(self) -> None:
        while self._news:
            self._dirty.add(self._news.popleft())

    def _write_ends(self, now: float) -> None:
        for _ in range(len(self._ends)):
            running, end, until = self._ends.popleft()
            try:
                job = running.end(end)
            except StoreUnavailable as error:
                if now < until:
                    self._outage.tell("job %s: its end can't be written yet: %s", running.job.id, error)
                    self._ends.append((running, end, until))
                else:
                    _log.warning("job %s: its end is given up, its time-out ends it: %s", running.job.id, error)
            except Exception:
                _log.exception("job %s: its end could not be written", running.job.id)
            else:
                if job is not None:
                    self._announce(job)
