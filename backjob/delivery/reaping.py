"""Ends or requeues the jobs that have passed a time limit, whichever process had them."""

from __future__ import annotations

import random
from datetime import UTC
from typing import Final

from attrs import evolve

from backjob.delivery.parts import DeliveryParts
from backjob.endings import log_conclusion, write_conclusion
from backjob.lifecycle import End, Late, after_run, late, past_end, reaped, timed_out
from backjob.model import Job, Query, Status

_BATCH: Final = 100
_TOO_FAR: Final = 2
"""A run lease that ends later than this many leases from now was written before the store's clock was set back."""


def reap(parts: DeliveryParts, job: Job, reason: str, steady: float) -> Job | None:
    """End or requeue a job, as read, if it has passed a time limit. Returns the job after that, or None if nothing was written.

    ``reason`` is why the last attempt to deliver it failed. For ``steady`` (s) the clocks have not jumped. A run that has
    timed out while its process lives is only fenced if another follows: that one begins once the lease is over or the action
    has returned.
    """
    limit = late(job)
    if limit is None or (limit is Late.SILENT and steady < job.error_timeout):
        return None
    end = past_end(job, limit)
    if reason and limit in (Late.UNDELIVERED, Late.EXPIRED):
        end = evolve(end, text=f"{end.text}; the last attempt: {reason}")
    conclusion = after_run(job, end, random.uniform(-1, 1))  # noqa: S311 - not for secrets
    if limit is Late.SILENT and not isinstance(conclusion, End) and job.lease_until is not None:
        return parts.store.change(job.id, *timed_out(job))
    changed = write_conclusion(parts.store, job, reaped(job, limit), conclusion, job.read_time.astimezone(UTC))
    if changed is not None:
        log_conclusion(job, conclusion)
    return changed


def renew_far_leases(parts: DeliveryParts) -> None:
    """After the clock was set back, shorten run leases to count from now: otherwise a dead process would keep its jobs too long."""
    before: str | None = None
    while True:
        jobs = parts.store.find(Query(status=Status.IN_PROGRESS, limit=_BATCH, before=before))
        far = {
            job.id: job.token
            for job in jobs
            if job.token is not None
            and job.lease_until is not None
            and (job.lease_until - job.read_time).total_seconds() > _TOO_FAR * parts.run_lease
        }
        if far:
            parts.store.beat(far, parts.run_lease, frozenset())
        if len(jobs) < _BATCH:
            return
        before = jobs[-1].id
