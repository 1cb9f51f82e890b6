"""Every store that processes can share, by URL, for tests that run on each of them.

Parametrize over ``SHARED_STORES``. ``with store.place(directory) as url`` gives the URL of a new, empty store on the real
server and removes its data afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pymysql
import redis
from attrs import frozen
from cachelib import RedisCache

from backjob.protocols import Clock, Store
from backjob.stores import open_store
from tests.services import MARIADB, POSTGRES, REDIS, own_name

__all__ = [
    "BY_NAME",
    "LISTING_STORES",
    "SHARED_STORES",
    "SharedStore",
    "mariadb",
    "postgres",
    "redis_cache",
    "with_options",
]


@frozen
class SharedStore:
    """A store that processes share. ``lists``: whether it lists its ended jobs."""

    name: str
    make_place: Callable[[Path], AbstractContextManager[str]]
    lists: bool = True

    @contextmanager
    def place(self, directory: Path) -> Iterator[str]:
        """The URL of a new, empty store. Without its server the test is skipped with the reason, and fails in CI."""
        with self.make_place(directory) as url:
            yield url

    def open(self, url: str, clock: Clock | None = None) -> AbstractContextManager[Store]:
        """The store at this URL; closed at the end."""
        return closing(open_store(url, clock=clock))

    def __str__(self) -> str:
        return self.name


def with_options(url: str, **options: str) -> str:
    """The URL with these options, which must need no quoting."""
    mark = "&" if urlsplit(url).query else "?"
    return url + mark + "&".join(f"{name}={value}" for name, value in options.items())


# --- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _sqlite_place(directory: Path) -> Iterator[str]:
    # Four processes on two cores may wait long for the file.
    yield f"sqlite:///{directory / own_name()}.db?busy_timeout=60"


# --- database servers -----------------------------------------------------------------------------------------------


@contextmanager
def _postgres_place(_: Path) -> Iterator[str]:
    """A separate schema."""
    url, name = POSTGRES.require(), own_name()
    postgres(f"CREATE SCHEMA {name}")
    try:
        yield with_options(url, schema=name)
    finally:
        postgres(f"DROP SCHEMA {name} CASCADE")


@contextmanager
def _mariadb_place(_: Path) -> Iterator[str]:
    """Separate tables."""
    url, name = MARIADB.require(), own_name()
    try:
        yield with_options(url, table_name=name)
    finally:
        tables = mariadb(
            "SELECT table_name FROM information_schema.tables WHERE left(table_name, %s) = %s", len(name), name
        )
        for (table,) in sorted(tables, reverse=True):
            mariadb(f"DROP TABLE `{table}`")


def postgres(statement: str, *values: object) -> list[Any]:
    """Execute a statement in the database without a store; return its rows, if any."""
    address = POSTGRES.url.replace("+psycopg", "")
    with closing(psycopg.connect(address, autocommit=True, connect_timeout=10)) as connection:
        done = connection.execute(statement.encode(), values or None)
        return done.fetchall() if done.description else []


def mariadb(statement: str, *values: object) -> list[Any]:
    """Execute a statement in the database without a store; return its rows, if any."""
    parts = urlsplit(MARIADB.url)
    with (
        closing(
            pymysql.connect(
                host=parts.hostname or "127.0.0.1",
                port=parts.port or 3306,
                user=parts.username or "root",
                password=parts.password or "",
                database=parts.path[1:],
                autocommit=True,
                connect_timeout=10,
                ssl_disabled="ssl_disabled" in parts.query,
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())


# --- Redis ----------------------------------------------------------------------------------------------------------


@contextmanager
def _redis_place(_: Path) -> Iterator[str]:
    url, name = REDIS.require(), own_name()
    with _swept(name):
        yield with_options(url, prefix=name)


@contextmanager
def _cache_place(_: Path) -> Iterator[str]:
    REDIS.require()
    name = own_name()
    with _swept(name):
        yield f"cache:{__name__}:redis_cache?prefix={name}:"


@contextmanager
def _swept(name: str) -> Iterator[None]:
    """Remove every key that contains this name at the end."""
    try:
        yield
    finally:
        with closing(redis.Redis.from_url(REDIS.url)) as client:
            keys: list[bytes] = []
            for key in client.scan_iter(match=f"*{name}*", count=10_000):
                keys.append(key)
                if len(keys) == 1000:
                    client.unlink(*keys)
                    keys.clear()
            if keys:
                client.unlink(*keys)


redis_cache: Final = RedisCache(redis.Redis.from_url(REDIS.url))
"""The cache that the URL of a `CacheStore` names; it connects at its first use."""

SHARED_STORES: Final = (
    SharedStore("SQLiteStore", _sqlite_place),
    SharedStore("PostgreSQL", _postgres_place),
    SharedStore("MariaDB", _mariadb_place),
    SharedStore("Redis", _redis_place),
    SharedStore("cachelib on Redis", _cache_place, lists=False),
)
LISTING_STORES: Final = tuple([store for store in SHARED_STORES if store.lists])
BY_NAME: Final = {store.name: store for store in SHARED_STORES}
