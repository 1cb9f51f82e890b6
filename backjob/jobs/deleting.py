"""Deletes all jobs of an owner or scope."""

from __future__ import annotations

from typing import Final

from backjob.errors import InvalidRequest, JobNotFound
from backjob.http.arguments import check_label
from backjob.jobs.engine import Engine
from backjob.model import Query
from backjob.protocols import Capability, lacks
from backjob.status.source import CannotList

_BATCH: Final = 100


def checked_owner(owner: object) -> str:
    """Return the owner. Raises `InvalidRequest` for none: that must not mean the jobs of everyone."""
    checked = check_label("owner", owner)
    if not checked:
        raise InvalidRequest("owner", "must not be empty")
    return checked


def delete_all(engine: Engine, *, owner: str) -> int:
    """See `backjob.BackJob.delete_all`."""
    if Capability.LISTING in lacks(engine.store):
        raise CannotList("this store can't list its jobs; delete each by its id, or keep jobs in a database")
    count = 0
    while found := engine.store.find(Query(owner=owner, limit=_BATCH)):
        before = count
        for job in found:
            try:
                count += engine.delete(job.id)
            except JobNotFound:
                continue  # another process has deleted it
        if count == before and len(found) < _BATCH:
            break
    return count
