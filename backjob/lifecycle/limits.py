"""The time limits of a job, and how it ends once it has passed one."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from backjob.lifecycle.ends import End, failed
from backjob.model import Changes, Expect, Job, Status

TIMED_OUT: Final = "timed-out"
"""The token of a run that has timed out while its process lives: the job waits for its lease to end before it is retried."""


class Late(Enum):
    """Which time limit a job has passed, by the store's clock. It passes one exactly at the limit."""

    DEAD = "dead"
    """Its run lease is over: the process that ran it has ended, or can't reach the store."""
    SILENT = "silent"
    """Its process lives, but its action has reported nothing for ``error_timeout``."""
    UNDELIVERED = "undelivered"
    """It was sent, but not claimed by ``deliver_by``."""
    EXPIRED = "expired"
    """It was not claimed before it expired."""


def late(job: Job) -> Late | None:
    """Which time limit a job has passed, or None."""
    now = job.read_time
    for limit, moment in _limits(job):
        if moment is not None and moment <= now:
            return limit
    return None


def overdue_from(job: Job) -> datetime | None:
    """The moment from which a job is overdue if nothing changes it until then, or None if it has no time limit now.

    A store that keeps this moment beside each job finds overdue jobs by an index.
    """
    return min([moment for _, moment in _limits(job) if moment is not None], default=None)


def _limits(job: Job) -> tuple[tuple[Late, datetime | None], ...]:
    """The time limits of a job; the first one that it has passed decides."""
    if job.status.is_final:
        return ()
    if job.is_waiting:
        return (Late.EXPIRED, job.expires), (Late.UNDELIVERED, job.deliver_by)
    silent = None
    if job.token != TIMED_OUT and job.error_timeout:
        silent = job.updated_time + timedelta(seconds=job.error_timeout)
    return (Late.DEAD, job.lease_until), (Late.SILENT, silent)


def overdue(job: Job) -> End | None:
    """The end of a job that has passed a time limit, if it is not retried; otherwise None."""
    limit = late(job)
    return None if limit is None else past_end(job, limit)


def past_end(job: Job, limit: Late) -> End:
    """The end of a job that has passed this limit, if it is not retried."""
    if limit is Late.EXPIRED:
        return failed("expired: not started in time")
    if limit is Late.UNDELIVERED:
        return failed("job timeout: sent, but not claimed by the application in time")
    if limit is Late.DEAD and job.token != TIMED_OUT:
        return failed("the process that ran it ended", may_retry=True)
    return failed(f"job timeout: no sign of life for {job.error_timeout:g} s", may_retry=True)


def timed_out(job: Job) -> tuple[Expect, Changes]:
    """Fence a run that has timed out while its process lives. It is retried once its lease is over, or its action returned."""
    return Expect(status=Status.IN_PROGRESS, run=job.run, token=job.token, version=job.version), Changes(
        token=TIMED_OUT
    )


def reaped(job: Job, limit: Late) -> Expect:
    """The condition under which a job may be ended or requeued because it has passed this limit."""
    if limit is Late.DEAD:
        return Expect(run=job.run, token=job.token, lease_over=True)
    return Expect(run=job.run, token=job.token, version=job.version, unclaimed=job.is_waiting)
