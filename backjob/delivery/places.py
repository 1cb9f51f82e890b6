"""The limits on what a process sends: how many requests it has in flight, and how many jobs of a queue run at once.

Everything here runs in the monitor's thread, except for `Places.reserve`, which `start()` calls in any thread.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from attrs import define

from backjob.delivery.parts import DeliveryParts
from backjob.model import Job, Query, Response, Status
from backjob.slots import take_slot

MOST_AHEAD: Final = 32
"""The most jobs that a process leases beyond its free places."""

_NO_LIMIT: Final = 1000
_RESERVED_FOR: Final = 15.0
"""Seconds after which a reserved place is free again, if no job came: it was joined, or its transaction rolled back."""
_AHEAD: Final = 0.1  # s
_RECENT: Final = 1.0  # s
_INSTANT: Final = 0.001  # s
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 2.0
_QUICK_TRIES: Final = 20
_MOST_READ: Final = 1000
_FIRST_REFUSAL: Final = 0.003
_LONGEST_REFUSAL: Final = 1.0


@define(eq=False, repr=False)
class _Full:
    """A queue that had no free slot: until when (monotonic, s) it is skipped, and for how long. Later, jobs are tried one by one."""

    until: float
    pause: float


class Places:
    """The places of one process for requests in flight."""

    def __init__(self, parts: DeliveryParts) -> None:
        self._parts = parts
        self._monotonic = parts.clock.monotonic
        self.in_flight: set[Future[Response]] = set()
        self.refused: set[str] = set()
        """The jobs that a busy process has refused. They are sent again in a moment, and keep their places until then."""
        self.is_freed = False
        """Whether a place has become free since the monitor looked last."""
        self.must_poll = False
        """Whether to look for due jobs now: a slot of a queue that was full is free."""
        self._reserved: deque[float] = deque()
        self._left = 0
        self._counted_since = 0.0

    def ahead(self) -> int:
        """Return how many jobs to lease beyond the free places: as many as will have a place within 0.1 s.

        That is if places become free as fast as since the last call, and at most twice as many as have since.
        """
        now = self._monotonic()
        elapsed, left = now - self._counted_since, self._left
        self._counted_since, self._left = now, 0
        if not left or elapsed >= _RECENT:
            return 0
        return min(MOST_AHEAD, 2 * left, int(_AHEAD * left / max(elapsed, _INSTANT)))

    def capacity(self) -> int:
        """Return how many requests may be in flight now; none while this process drains or has no address."""
        transport = self._parts.addresses().transport
        if transport is None or self._parts.is_draining():
            return 0
        limit = transport.capacity
        return min(_NO_LIMIT if limit is None else limit, self._parts.max_running())

    def free(self) -> int:
        """Return how many more requests could be sent now."""
        return max(0, self.capacity() - len(self.in_flight) - len(self.refused))

    def reserve(self, ready: int) -> bool:
        """Reserve a place for a new job, if one is free beside those of ``ready`` jobs. Callable from any thread."""
        now = self._monotonic()
        with suppress(IndexError):  # there is none any more: other threads take them too
            while self._reserved[0] <= now:
                self.occupy()
        if self.free() - ready - len(self._reserved) <= 0:
            return False
        self._reserved.append(now + _RESERVED_FOR)
        return True

    def occupy(self) -> None:
        """Give up the oldest reservation: its job has come, or never will."""
        try:
            self._reserved.popleft()
        except IndexError:  # another thread was faster
            return

    def leave(self, future: Future[Response]) -> None:
        """Give up the place of a request that has its outcome."""
        if future in self.in_flight:
            self.in_flight.discard(future)
            self.is_freed = True
            self._left += 1


def refusal_pause(refusals: int) -> float:
    """Return the seconds until a job is sent again that busy processes have refused this many times in a row.

    Short at first: with several processes at one address, chance decides which of them gets a request, and another may
    have a place. Random, because jobs that were refused together would collide again.
    """
    pause = _FIRST_REFUSAL * 1.5 ** min(max(0, refusals - _QUICK_TRIES), 20)
    return min(_LONGEST_REFUSAL, pause) * random.uniform(0.5, 1.5)  # noqa: S311 - not for secrets


class Slots:
    """The slots of queues with a limit. A slot is taken in the store, so that no two processes have the same."""

    def __init__(self, parts: DeliveryParts) -> None:
        self._limits = parts.queues
        self._store = parts.store
        self._monotonic = parts.clock.monotonic
        self._full: dict[str, _Full] = {}

    def is_needed(self, job: Job) -> bool:
        """Return whether the job needs a slot before it is sent."""
        return job.slot is None and job.queue in self._limits

    def is_limited(self, queue: str) -> bool:
        """Return whether the jobs of this queue need slots."""
        return queue in self._limits

    def full(self) -> frozenset[str]:
        """Return the queues that have had no free slot a moment ago."""
        now = self._monotonic()
        # Of a copy, which is made in one step: `Deliveries.reserve` is called in any thread.
        return frozenset([queue for queue, full in self._full.copy().items() if full.until > now])

    def batch(self) -> int:
        """Return how many jobs to lease at once: one if it may find no slot, since each such job must be given back."""
        now = self._monotonic()
        return 1 if any(full.until <= now for full in self._full.values()) else _NO_LIMIT

    def none_waits(self, but: Callable[[str], bool]) -> None:
        """Note that no job waits for a slot, except in queues that are full now, and in those for which ``but`` is true."""
        now = self._monotonic()
        for queue in [queue for queue, full in self._full.items() if full.until <= now and not but(queue)]:
            del self._full[queue]

    def next_try(self, queue: str) -> float:
        """Return when a queue is tried again, on the monotonic clock (s): now, unless it is full."""
        now, full = self._monotonic(), self._full.get(queue)
        return now if full is None else max(now, full.until)

    def take(self, queue: str, change: Callable[[str], Job | None]) -> tuple[Job | None, bool]:
        """Take a free slot with ``change(slot)``. Returns its job, and whether there was a free slot."""
        changed, is_free = take_slot(queue, self._limits[queue], change, lambda: self._taken(queue))
        if is_free:
            if queue in self._full:
                self._full[queue] = _Full(self._monotonic(), _FIRST_PAUSE / 2)
            return changed, True
        last = self._full.get(queue)
        pause = _FIRST_PAUSE if last is None else min(_LONGEST_PAUSE, 2 * last.pause)
        self._full[queue] = _Full(self._monotonic() + pause, pause)
        return None, False

    def _taken(self, queue: str) -> frozenset[str]:
        running = self._store.find(Query(queue=queue, status=Status.IN_PROGRESS, limit=_MOST_READ))
        return frozenset([job.slot for job in running if job.slot is not None])

    def clear(self) -> None:
        """Try all queues again: a slot is free, of an unknown queue."""
        for queue in [*self._full]:
            self.freed(queue)

    def freed(self, queue: str) -> bool:
        """Note that a slot of this queue may be free. Returns whether the queue was full."""
        if queue not in self._full:
            return False
        self._full[queue] = _Full(self._monotonic(), _FIRST_PAUSE / 2)
        return True
