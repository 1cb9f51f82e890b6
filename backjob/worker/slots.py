"""The slot of a job that was claimed without one.

The monitor takes the slot before it sends a job, and gives it back when the delivery fails. But that request may only have
been late: it waited in the server while a proxy gave up, or while the process that sent it ended.
"""

from __future__ import annotations

import random

from attrs import evolve

from backjob.errors import SlotTaken
from backjob.lifecycle import given_back
from backjob.model import Changes, Expect, Job, Status
from backjob.protocols import Store


def with_slot(store: Store, job: Job, token: str, limit: int) -> Job | None:
    """Take a free slot of its queue for a claimed job, and return the job; None if all are taken. Raises `StoreError`."""
    first = random.randrange(limit)  # noqa: S311 - so that processes do not all try the same one first
    for number in range(limit):
        changes = Changes(slot=f"{job.queue}/{(first + number) % limit}")
        try:
            changed = store.change(job.id, _claimed(job, token), changes)
        except SlotTaken:
            continue
        return None if changed is None else evolve(changed, request=job.request)
    return None


def give_back(store: Store, job: Job, token: str) -> None:
    """Have a claimed job wait for its next run: its action has not begun. Raises `StoreError`."""
    store.change(job.id, _claimed(job, token), given_back(job))


def _claimed(job: Job, token: str) -> Expect:
    return Expect(status=Status.IN_PROGRESS, run=job.run, token=token)
