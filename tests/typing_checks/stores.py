"""Checked by mypy and pyright, never run."""

from __future__ import annotations

from backjob.clock import SystemClock
from backjob.protocols import Clock, Store
from backjob.stores import open_store
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock, StoreContract

memory: Store = MemoryStore(clock=FakeClock())
sqlite: Store = SQLiteStore("jobs.db", clock=SystemClock(), durability="power", table_name="work", create_table=False)
opened: Store = open_store("sqlite:///jobs.db", clock=FakeClock())
fake: Clock = FakeClock()


class ThirdParty(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return MemoryStore(clock=clock)
