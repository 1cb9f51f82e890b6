"""Ends or requeues the jobs that have passed a time limit, whichever process had them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, timedelta
from typing import Final

from attrs import evolve

from backjob.delivery.clocks import Clocks
from backjob.delivery.keeping import LEASE
from backjob.delivery.parts import DeliveryParts
from backjob.delivery.set_back import bring_forward, release_far_leases, renew_far_leases
from backjob.endings import log_conclusion, write_conclusion
from backjob.errors import StoreError, StoreUnavailable
from backjob.lifecycle import End, Late, after_run, is_leased, late, past_end, reaped, timed_out
from backjob.model import Changes, Expect, Job, Query
from backjob.protocols import Store

_CLOCK_INTERVAL: Final = 60.0  # s
_BATCH: Final = 100

_log = logging.getLogger("backjob")


def reap(parts: DeliveryParts, job: Job, reason: str, steady: float) -> Job | None:
    """End or requeue a job, as read, if it has passed a time limit. Returns the job after that, or None if nothing was written.

    ``reason`` is why the last attempt to deliver it failed. For ``steady`` (s) the clocks have not jumped. A run that has
    timed out while its process lives is only fenced if another follows: that one begins once the lease is over or the action
    has returned. A job that no process delivers waits on.
    """
    limit = late(job)
    if limit is Late.UNDELIVERED and not _was_delivered(job):
        _wait_on(parts.store, job)
        return None
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


def taken_over(store: Store, jobs: Iterable[Job]) -> Iterator[Job]:
    """Yield these jobs, which this process has leased, without deadlines from before. A job that was changed is left out.

    After an error of the store, which is raised at the end, the jobs without such a deadline follow all the same.
    """
    failure: StoreError | None = None
    for job in jobs:
        current: Job | None = job
        if late(job) is Late.UNDELIVERED:
            try:
                current = _wait_on(store, job) if failure is None else None
            except StoreError as error:
                current, failure = None, error
        if current is not None:
            yield current
    if failure is not None:
        raise failure


def _was_delivered(job: Job) -> bool:
    """Return whether a process delivered this job when its deadline passed: it has the lease, and had it then."""
    if not is_leased(job) or job.lease_until is None or job.deliver_by is None:
        return False
    return job.deliver_by >= job.lease_until - timedelta(seconds=LEASE)


def _wait_on(store: Store, job: Job) -> Job | None:
    """Remove the deadline of a waiting job that no process delivered when it passed. Returns the job; None if it was changed.

    The process that sent it has ended, and the site was down, or no engine took the job. Such waiting ends no job.
    """
    expect = Expect(run=job.run, version=job.version, unclaimed=True)
    changed = store.change(job.id, expect, Changes(deliver_by=None))
    return None if changed is None else evolve(changed, request=job.request)


class Reaper:
    """Looks for the jobs that have passed a time limit. In the monitor's thread, except for `reap`.

    ``may_reap`` says whether this process may end or requeue the jobs of others, ``why_waiting`` why its own jobs wait for a
    proof. ``follow_up`` is called with each job that was ended or requeued.
    """

    def __init__(
        self,
        parts: DeliveryParts,
        clocks: Clocks,
        *,
        may_reap: Callable[[], bool],
        why_waiting: Callable[[], str],
        follow_up: Callable[[Job], None],
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._monotonic = parts.clock.monotonic
        self._clocks = clocks
        self._may_reap = may_reap
        self._why_waiting = why_waiting
        self._follow_up = follow_up
        self._next_clock_check = self._monotonic()
        self._reaped_before: str | None = None
        """With more late jobs than one query returns: the last one that was looked at."""
        self._release_far_at: float | None = None

    def reap(self, job: Job) -> Job | None:
        """End or requeue a job, as read, if it has passed a time limit. Returns it, or None if nothing was written."""
        return reap(self._parts, job, self._why_waiting(), self._clocks.steady)

    def reap_late(self) -> bool:
        """End or requeue the jobs that are late, at most 100. Returns whether there may be more."""
        self._check_stores_clock()
        if not self._may_reap():
            return False
        began = self._monotonic()
        late_jobs = self._store.find(Query(overdue=True, limit=_BATCH, before=self._reaped_before))
        if late_jobs:
            self._clocks.check_store(late_jobs[0].read_time, began)
        is_full = len(late_jobs) == _BATCH
        self._reaped_before = late_jobs[-1].id if is_full else None
        for job in late_jobs:
            if not self._may_reap():  # again: since the read or the last write this process may have been stopped
                self._reaped_before = None
                return False
            try:
                changed = self.reap(job)
            except StoreUnavailable:
                raise
            except Exception:  # one job must not keep the others from their end
                _log.exception("job %s: its time-out could not be written", job.id)
                continue
            if changed is not None:
                self._follow_up(changed)
        return is_full

    def _check_stores_clock(self) -> None:
        began = self._monotonic()
        if began >= self._next_clock_check:
            self._next_clock_check = began + _CLOCK_INTERVAL
            for job in self._store.find(Query(limit=1)):
                self._clocks.check_store(job.read_time, began)

    def follow_set_back(self, now: float) -> None:
        """After a clock was set back, let no dead process keep its jobs too long. Living ones get time to renew their leases."""
        if self._clocks.set_back is not None:
            renew_far_leases(self._parts)
            bring_forward(self._parts)
            self._release_far_at = self._clocks.set_back + LEASE
            self._clocks.set_back = None
        if self._release_far_at is not None and now >= self._release_far_at:
            release_far_leases(self._parts)
            self._release_far_at = None
