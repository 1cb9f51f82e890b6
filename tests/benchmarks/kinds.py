"""The kinds of store to measure: for each a temporary location, and the same work with the plain driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from attrs import field, frozen

from tests.benchmarks.raw import Raw
from tests.benchmarks.raw_redis import RawRedis
from tests.benchmarks.raw_sql import RawMariaDB, RawPostgreSQL
from tests.benchmarks.raw_sqlite import RawSQLite
from tests.services import MARIADB, POSTGRES, REDIS, Service, own_name

__all__ = ["STORES", "StoreKind", "open_raw"]


@frozen
class StoreKind:
    """A kind of store. ``place`` yields the URL of a new location and removes it afterwards; files go to the directory.

    ``committed`` and ``selected`` describe the plain driver's update with output and its read of a row.
    """

    name: str
    place: Callable[[Path], AbstractContextManager[str]] = field(repr=False)
    raw: Callable[[str], Raw] = field(repr=False)
    committed: str = "UPDATE and INSERT committed together"
    selected: str = "SELECT of the row"


@contextmanager
def _file(directory: Path) -> Iterator[str]:
    yield f"sqlite:///{quote(str(directory / 'jobs.db'))}"


def _on(
    service: Service, option: str, raw: Callable[[str], RawPostgreSQL | RawMariaDB | RawRedis]
) -> Callable[[Path], AbstractContextManager[str]]:
    """Return a ``place`` on a server: tables or keys with a new prefix, given by this option of the URL."""

    @contextmanager
    def place(_directory: Path) -> Iterator[str]:
        address = service.require()
        url = f"{address}{'&' if '?' in address else '?'}{option}={own_name()}"
        try:
            yield url
        finally:
            with closing(raw(url)) as opened:
                opened.drop()

    return place


STORES: Final = {
    "sqlite": StoreKind("SQLite", _file, RawSQLite),
    "postgresql": StoreKind("PostgreSQL", _on(POSTGRES, "table_name", RawPostgreSQL), RawPostgreSQL),
    "mariadb": StoreKind("MariaDB", _on(MARIADB, "table_name", RawMariaDB), RawMariaDB),
    "redis": StoreKind("Redis", _on(REDIS, "prefix", RawRedis), RawRedis, "HSET and APPEND in one MULTI", "HGETALL"),
}
"""The kinds by the scheme of their URLs, without the driver."""


def open_raw(url: str) -> Raw:
    """Open the location of a store's URL with the plain driver."""
    return STORES[url.partition(":")[0].partition("+")[0]].raw(url)
