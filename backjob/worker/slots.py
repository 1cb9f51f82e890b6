"""The slot of a job that was claimed without one.

The monitor takes the slot before it sends a job, and gives it back when the delivery fails. But that request may only have
been late: it waited in the server while a proxy gave up, or while the process that sent it ended.
"""

from __future__ import annotations

from attrs import evolve

from backjob.lifecycle import given_back
from backjob.model import Changes, Expect, Job, Status
from backjob.protocols import Store
from backjob.slots import take_slot


def with_slot(store: Store, job: Job, token: str, limit: int) -> Job | None:
    """Take a free slot of its queue for a claimed job, and return the job; None if all are taken. Raises `StoreError`."""
    changed, _ = take_slot(
        job.queue, limit, lambda slot: store.change(job.id, _claimed(job, token), Changes(slot=slot))
    )
    return None if changed is None else evolve(changed, request=job.request)


def give_back(store: Store, job: Job, token: str) -> Job | None:
    """Have a claimed job wait for its next run: its action has not begun. Returns the job, or None if it has ended or left this run.

    Raises `StoreError`.
    """
    return store.change(job.id, _claimed(job, token), given_back(job))


def _claimed(job: Job, token: str) -> Expect:
    # The status too: an end keeps the token.
    return Expect(status=Status.IN_PROGRESS, run=job.run, token=token)
