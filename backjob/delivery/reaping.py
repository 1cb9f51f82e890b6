"""Ends or requeues the jobs that have passed a time limit, whichever process had them."""

from __future__ import annotations

import random
from datetime import UTC

from attrs import evolve

from backjob.delivery.parts import DeliveryParts
from backjob.endings import log_conclusion, write_conclusion
from backjob.lifecycle import End, Late, after_run, late, past_end, reaped, timed_out
from backjob.model import Job


def reap(parts: DeliveryParts, job: Job, reason: str, steady: float) -> Job | None:
    """End or requeue a job, as read, if it has passed a time limit. Returns the job after that, or None if nothing was written.

    ``reason`` is why the last attempt to deliver it failed. For ``steady`` (s) the clocks have not jumped. A run that has
    timed out while its process lives is only fenced if another follows: that one begins once the lease is over or the action
    has returned.
    """
    limit = late(job)
    needed = {Late.SILENT: job.error_timeout, Late.UNDELIVERED: parts.delivery_timeout}
    if limit is None or steady < needed.get(limit, 0):
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
