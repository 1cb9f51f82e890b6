"""What a monitor repairs after a clock was set back: times in the store that are now far in the future."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backjob.delivery.parts import DeliveryParts
from backjob.lifecycle import DELIVERY_LEASE
from backjob.model import Changes, Expect, Job, Query, Status

_BATCH: Final = 100
_TOO_FAR: Final = 2
"""A lease of more than this many times its length was written before the store's clock was set back."""


def renew_far_leases(parts: DeliveryParts) -> None:
    """After the clock was set back, give running jobs a lease that counts from now: otherwise a dead process would keep them too long.

    The silence of their actions counts from now, too.
    """
    for jobs in _pages(parts, Status.IN_PROGRESS):
        running = {job.id: job.token for job in jobs if job.token is not None and job.lease_until is not None}
        silent = frozenset(job.id for job in jobs if job.id in running and job.updated_time > job.read_time)
        far = {job.id for job in jobs if job.id in running and _lease_left(job) > _TOO_FAR * parts.run_lease}
        tokens = {job_id: running[job_id] for job_id in far | silent}
        if tokens:
            parts.store.beat(tokens, parts.run_lease, silent)


def bring_forward(parts: DeliveryParts) -> None:
    """After the clock was set back, make those jobs due again that were due before. Delayed ones wait for their time of day."""
    for job in _waiting(parts):
        is_ahead = job.read_time < min(job.updated_time, job.start_time)
        if is_ahead and (job.run > 1 or job.start_time <= job.updated_time):
            due = max(0.0, (job.start_time - job.updated_time).total_seconds())
            _change(parts, job, Changes(due=due))


def release_far_leases(parts: DeliveryParts) -> None:
    """Some time after the clock was set back, release waiting jobs whose process has not renewed its lease since."""
    for job in _waiting(parts):
        if _lease_left(job) > _TOO_FAR * DELIVERY_LEASE:
            _change(parts, job, Changes(lessee=None, lease=None, slot=None))


def _change(parts: DeliveryParts, job: Job, changes: Changes) -> None:
    parts.store.change(job.id, Expect(run=job.run, version=job.version, unclaimed=True), changes)


def _waiting(parts: DeliveryParts) -> Iterator[Job]:
    """Yield the waiting jobs, also those between two slices."""
    for status in (Status.STARTED, Status.IN_PROGRESS):
        for jobs in _pages(parts, status):
            yield from (job for job in jobs if job.is_waiting)


def _lease_left(job: Job) -> float:
    """Return how long (s) the lease lasts; that of a job which is not due yet, from when it is due."""
    from_time = max(job.read_time, job.start_time) if job.is_waiting else job.read_time
    return 0.0 if job.lease_until is None else (job.lease_until - from_time).total_seconds()


def _pages(parts: DeliveryParts, status: Status) -> Iterator[list[Job]]:
    before: str | None = None
    while True:
        jobs = parts.store.find(Query(status=status, limit=_BATCH, before=before))
        yield jobs
        if len(jobs) < _BATCH:
            return
        before = jobs[-1].id
