"""For tests of retries and slices: a run that ends as if its process had been killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from backjob.errors import InvalidRequest
from backjob.jobs import tracking
from backjob.model import Job, Status
from backjob.worker.running import current

__all__ = ["dies_at"]

_killed: Final[set[str]] = set()
"""The tokens of runs that were killed in this block."""


class _Killed(BaseException):
    """The process of this run has died."""


@contextmanager
def dies_at(item: int) -> Iterator[None]:
    """Within `immediate`, have a run end at the n-th item that its loops (`track`, `atrack`) begin, like by SIGKILL.

    The items of all jobs and runs in the block count, from 1. The item is not done, nothing more is written, and the run's
    lease is over: the job runs again if it has a retry left, and otherwise fails with "the process that ran it ended". Only
    code in ``finally`` blocks still runs, as it would not in a killed process. Raises `AssertionError` at the end of the
    block if no run came so far.
    """
    if isinstance(item, bool) or not isinstance(item, int) or item < 1:
        raise InvalidRequest("item", f"must be 1 or more, not {item!r}")
    lock, count = threading.Lock(), 0

    def note_item() -> None:
        nonlocal count
        running = current.get()
        if running is None:
            return
        with lock:
            count += 1
            is_last = count == item
        if is_last:
            running.ended = True  # so nothing that it has reported since its last write is written
            _killed.add(running.token)
            raise _Killed

    before, tracking.before_each = tracking.before_each, note_item
    try:
        yield
        if count < item:
            raise AssertionError(f"dies_at({item}): only {count} items were begun")
    finally:
        tracking.before_each = before
        _killed.clear()


def is_killed(job: Job) -> bool:
    """Return whether the job still has the run that was killed."""
    return job.status is Status.IN_PROGRESS and job.token in _killed
