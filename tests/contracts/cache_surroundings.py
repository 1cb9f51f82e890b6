"""A cache, and the stores of several processes on it."""

from __future__ import annotations

from typing import Any

from backjob.lifecycle import claimed
from backjob.model import Draft, Request
from backjob.stores.cache import CacheStore
from backjob.testing import FakeClock
from tests.contracts.dict_cache import DictCache

__all__ = ["Surroundings", "draft"]


def draft(job_id: str = "job", **fields: Any) -> Draft:
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


class Surroundings:
    """A cache, and the store of one process on it."""

    def __init__(self, cache: DictCache | None = None) -> None:
        self.clock = FakeClock()
        self.cache = DictCache() if cache is None else cache
        self.store = self.another()

    def another(self) -> CacheStore:
        """The store of a new process."""
        return CacheStore(self.cache, clock=self.clock)

    def running(self, job_id: str = "job", **fields: Any) -> None:
        self.store.create(draft(job_id, **fields))
        assert self.store.change(job_id, *claimed("token", 1, 60)) is not None

    def calls(self) -> int:
        """Calls to the cache since the last call of this method."""
        calls, self.cache.calls = self.cache.calls, 0
        return calls
