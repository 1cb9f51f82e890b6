"""Stores that lack capabilities, and say so."""

from __future__ import annotations

from attrs import evolve

from backjob.model import Changes, Expect, Job, Query
from backjob.protocols import Capability
from backjob.stores.memory import MemoryStore


class ListsTheLiving(MemoryStore):
    """Like a cache: ``find`` returns only jobs that have not ended, ``purge`` removes nothing, and there are no slots."""

    lacks = frozenset({Capability.SHARED, Capability.LISTING, Capability.SLOTS})  # type: ignore[misc]  # an override of a Final

    def find(self, query: Query) -> list[Job]:
        return [job for job in super().find(evolve(query, limit=10**6)) if not job.status.is_final][: query.limit]

    def count(self, query: Query) -> int:
        return len(self.find(query))

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return 0


class KeepsNoList(ListsTheLiving):
    """Can't find or purge jobs at all, and has no slots."""

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        assert not isinstance(changes.slot, str), "backjob sets no slot in a store that lacks them"
        return super().change(job_id, expect, changes)

    def find(self, query: Query) -> list[Job]:
        raise NotImplementedError

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        raise NotImplementedError
