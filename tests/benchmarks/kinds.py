"""The kinds of store that are measured: for each a place that is gone afterwards, and the same work by hand."""

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
    """A store. ``place`` is the URL of a new place for jobs, where nothing stays; a directory is for those that are files.

    ``committed`` and ``selected`` say what the bare update with output and the bare look are.
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
    """Places on a server: tables or keys whose names begin with what this option of the URL says."""

    @contextmanager
    def place(_directory: Path) -> Iterator[str]:
        address = service.require()
        url = f"{address}{'&' if '?' in address else '?'}{option}={own_name()}"
        try:
            yield url
        finally:
            with closing(raw(url)) as by_hand:
                by_hand.drop()

    return place


STORES: Final = {
    "sqlite": StoreKind("SQLite", _file, RawSQLite),
    "postgresql": StoreKind("PostgreSQL", _on(POSTGRES, "table_name", RawPostgreSQL), RawPostgreSQL),
    "mariadb": StoreKind("MariaDB", _on(MARIADB, "table_name", RawMariaDB), RawMariaDB),
    "redis": StoreKind("Redis", _on(REDIS, "prefix", RawRedis), RawRedis, "HSET and APPEND in one MULTI", "HGETALL"),
}
"""By the first word of their URLs."""


def open_raw(url: str) -> Raw:
    """The place of a store's URL, by its plain driver."""
    return STORES[url.partition(":")[0].partition("+")[0]].raw(url)
