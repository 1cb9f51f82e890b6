"""The memory and SQLite stores fulfil the published contract."""

from __future__ import annotations

from uuid import uuid4

import pytest

from backjob.protocols import Clock, Store
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return MemoryStore(clock=clock)


class TestSQLiteStore(StoreContract):
    examples = 15

    def make_store(self, clock: Clock) -> Store:
        return SQLiteStore(self.directory / f"{uuid4()}.db", clock=clock)


@pytest.mark.nightly
class TestMemoryStoreAtLength(TestMemoryStore):
    only_deeper = True
    examples, steps, race_examples = 250, 60, 300


@pytest.mark.nightly
class TestSQLiteStoreAtLength(TestSQLiteStore):
    only_deeper = True
    examples, steps, race_examples, racers = 250, 60, 200, 16


@pytest.mark.nightly
class TestSQLiteStoreThatSurvivesPowerLoss(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return SQLiteStore(self.directory / f"{uuid4()}.db", clock=clock, durability="power", table_name="order")
