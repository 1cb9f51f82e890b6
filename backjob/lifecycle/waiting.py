"""Why a job waits, and until when its signature is valid."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from backjob.model import Job, Status

_PLACE_AFTER: Final = 1.0  # s: sending takes a moment even if there is room

DISPATCHED: Final = "dispatch"
"""The lessee of a job that was handed to the engine of its queue. Whoever is to deliver it may take the lease over."""

CARRIER: Final = "carrier:"
"""The beginning of the name of a lessee that delivers a job to its end, through all its runs."""

WAITING_TEXTS: Final = {
    "place": "no free place yet",
    "connection": "no connection to the application yet",
    "proof": "no answer from this application at its address yet",
    "store": "the application can't reach its job store yet",
    "engine": "waiting for the process that runs this queue",
}
"""The reasons why a job waits, as the status text of a job that has none."""


def is_leased(job: Job) -> bool:
    """Whether a waiting job has a lease, so that its lessee delivers it."""
    return job.lease_until is not None and job.lease_until > job.read_time


def waiting_for(job: Job, *, is_left: bool = False) -> str | None:
    """Why a job is not running yet, in one word; None if it waits for nothing, runs, is between slices or has ended.

    ``is_left``: this process leaves the jobs of its queue to other processes, so it does not know whether they have room.
    """
    if not job.is_waiting or job.status is not Status.STARTED:
        return None
    if job.start_time > job.read_time:
        return "due"
    if job.waiting_for is not None:
        return job.waiting_for
    if job.lessee == DISPATCHED:
        return "engine"
    is_unsent = job.deliver_by is None and job.read_time - job.start_time > timedelta(seconds=_PLACE_AFTER)
    if not is_unsent:
        return None
    return "engine" if is_left and not is_leased(job) else "place"


def local_deadline(job: Job, now: datetime, delivery_timeout: float) -> datetime:
    """``deliver_by`` by the caller's clock, which showed ``now`` when the store read the job; at first a timeout from now.

    Clocks that differ by less than a second count as equal, so that reading does not shorten a signature's validity.
    """
    if job.deliver_by is None:
        return now + timedelta(seconds=delivery_timeout)
    if abs(now - job.read_time) < timedelta(seconds=1):
        return job.deliver_by
    return now + (job.deliver_by - job.read_time)
