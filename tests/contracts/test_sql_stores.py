"""SQLStore passes the store contract on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from sqlalchemy import Delete, Engine, create_engine

from backjob.protocols import Clock, Store
from backjob.stores.sql import SQLStore, metadata
from backjob.stores.sql.prepared import Block
from backjob.testing import StoreContract
from tests.services import MARIADB, POSTGRES, Service, own_name

pytestmark = pytest.mark.services


class ServerContract(StoreContract):
    """One pair of tables for each class, emptied for each store."""

    service: ClassVar[Service]
    table_name: ClassVar[str]
    engine: ClassVar[Engine]
    emptying: ClassVar[list[Delete]]
    examples, steps, race_examples = 5, 25, 4

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _tables_for_each_class(cls) -> Iterator[None]:
        cls.table_name = own_name()
        cls.engine = create_engine(cls.service.require())
        tables = metadata(table_name=cls.table_name)
        cls.emptying = [table.delete() for table in reversed(tables.sorted_tables)]
        yield
        tables.drop_all(cls.engine)
        cls.engine.dispose()

    def make_store(self, clock: Clock) -> Store:
        store = SQLStore(self.place(), clock=clock, table_name=self.table_name)
        with self.engine.begin() as connection:
            for statement in self.emptying:
                connection.execute(statement)
        return store

    def place(self) -> str | Engine:
        """The store's database: an application's engine, so that statements are compiled once for all tests."""
        return self.engine


class TestPostgreSQL(ServerContract):
    service = POSTGRES


@pytest.mark.slow
class TestMariaDB(ServerContract):
    service = MARIADB

    def place(self) -> str:
        """A URL, so that the store makes its own engine."""
        return self.service.url


@pytest.mark.nightly
@pytest.mark.timeout(300)
class TestWithoutBlocks(TestMariaDB):
    """As MySQL, which has no statements of several steps outside of stored programs."""

    @pytest.fixture(autouse=True)
    def _without_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Block, "is_taken_by", lambda _: False)


@pytest.mark.nightly
@pytest.mark.timeout(300)
class TestPostgreSQLAtLength(TestPostgreSQL):
    only_deeper = True
    examples, steps, race_examples, racers = 100, 50, 60, 16


@pytest.mark.nightly
@pytest.mark.timeout(300)
class TestMariaDBAtLength(TestMariaDB):
    only_deeper = True
    examples, steps, race_examples, racers = 100, 50, 60, 16
