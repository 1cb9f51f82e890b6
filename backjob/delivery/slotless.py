"""The jobs that wait for a slot of their queue in this process, because only it can deliver them."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from datetime import datetime

from backjob.delivery.pending import PendingDelivery
from backjob.model import Job


class Slotless:
    """These jobs, of which the one that has been due for longest is the next of its queue."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[PendingDelivery, str, datetime]] = {}

    def add(self, delivery: PendingDelivery, job: Job) -> None:
        """Note that a job waits for a slot."""
        self._by_id[job.id] = delivery, job.queue, job.start_time

    def discard(self, job_id: str) -> bool:
        """Note that a job was sent, has got another time, or is no longer delivered here. Returns whether it waited for a slot."""
        return self._by_id.pop(job_id, None) is not None

    def has(self, queue: str) -> bool:
        """Return whether a job of this queue waits for a slot."""
        return any(one == queue for _, one, _ in self._by_id.values())

    def before(self, job: Job) -> PendingDelivery | None:
        """Return the job of the same queue that has been due for longest, if it was due before this one."""
        found, earliest = None, job.start_time
        for delivery, queue, due in self._by_id.values():
            if queue == job.queue and due < earliest:
                found, earliest = delivery, due
        return found

    def next_ones(self, full: AbstractSet[str]) -> Iterator[PendingDelivery]:
        """Yield the next job of each queue that is not ``full``."""
        first: dict[str, tuple[PendingDelivery, datetime]] = {}
        for delivery, queue, due in self._by_id.values():
            if queue not in full and (queue not in first or due < first[queue][1]):
                first[queue] = delivery, due
        yield from (delivery for delivery, _ in first.values())
