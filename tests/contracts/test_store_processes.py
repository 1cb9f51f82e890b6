"""Races between processes on every shared store, on real servers: 8 threads in each of 4 processes. Nightly ones are longer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import ClassVar

import pytest

from backjob.testing import SharesJobs
from tests.shared_stores import BY_NAME, SHARED_STORES, SharedStore


class Processes(SharesJobs):
    shared: ClassVar[SharedStore]
    claims, creates, due, slot_takes, contested = 320, 320, 80, 320, 2

    def address(self) -> str:
        self._place = ExitStack()
        return self._place.enter_context(self.shared.place(self.directory))

    def remove(self, address: str) -> None:
        self._place.close()


class TestSQLiteStore(Processes):
    shared = BY_NAME["SQLiteStore"]


@pytest.mark.slow
class TestPostgreSQL(Processes):
    shared = BY_NAME["PostgreSQL"]


@pytest.mark.slow
class TestMariaDB(Processes):
    shared = BY_NAME["MariaDB"]


@pytest.mark.slow
class TestRedis(Processes):
    shared = BY_NAME["Redis"]


@pytest.mark.slow
class TestCachelibOnRedis(Processes):
    shared = BY_NAME["cachelib on Redis"]


class AtLength:
    claims, creates, due, slot_takes, contested = 1000, 1000, 200, 1000, 4


@pytest.mark.nightly
class TestSQLiteStoreAtLength(AtLength, TestSQLiteStore):
    pass


@pytest.mark.nightly
class TestPostgreSQLAtLength(AtLength, TestPostgreSQL):
    pass


@pytest.mark.nightly
class TestMariaDBAtLength(AtLength, TestMariaDB):
    pass


@pytest.mark.nightly
class TestRedisAtLength(AtLength, TestRedis):
    pass


@pytest.mark.nightly
class TestCachelibOnRedisAtLength(AtLength, TestCachelibOnRedis):
    pass


def test_every_shared_store_is_raced() -> None:
    raced = [suite.shared for suite in Processes.__subclasses__()]
    assert raced == list(SHARED_STORES)
