"""The built-in stores raise `StoreError` while they can't reach their data, and their errors show no values.

The other tests of the suite run on these stores elsewhere, without a link that would slow them down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlsplit

import pytest
import redis
from cachelib import RedisCache
from redis.backoff import NoBackoff
from redis.retry import Retry

from backjob.protocols import Clock, Store
from backjob.stores import open_store
from backjob.stores.cache import CacheStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing._stores.outages import OutageCalls
from tests.faults.links import Link
from tests.services import REDIS, own_name
from tests.shared_stores import BY_NAME

PASSWORD: Final = "sw0rdfish"


class TestSQLiteStore(OutageCalls):
    def make_store(self, clock: Clock) -> Store:
        return SQLiteStore(self.directory / "jobs.db", clock=clock)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """There is a directory in place of the file."""
        path, elsewhere = self.directory / "jobs.db", self.directory / "elsewhere"
        self.store.close()
        path.rename(elsewhere)
        path.mkdir()
        yield
        path.rmdir()
        elsewhere.rename(path)


class ServerOutage(OutageCalls):
    """A store that reaches its server through a link."""

    shared: ClassVar[str]
    user: ClassVar[str]

    @contextmanager
    def opened(self, directory: Path) -> Iterator[None]:
        with ExitStack() as self.stack, super().opened(directory):
            yield

    def make_store(self, clock: Clock) -> Store:
        parts = urlsplit(self.stack.enter_context(BY_NAME[self.shared].place(self.directory)))
        self.link = self.stack.enter_context(Link((parts.hostname or "127.0.0.1", parts.port or 0)))
        address = parts._replace(netloc=f"{self.user}127.0.0.1:{self.link.port}")
        return open_store(address.geturl(), clock=clock)

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.link.cut()
        yield
        self.link.restore()


@pytest.mark.services
class TestPostgreSQL(ServerOutage):
    shared, user, secrets = "PostgreSQL", f"postgres:{PASSWORD}@", (PASSWORD,)


@pytest.mark.services
class TestMariaDB(ServerOutage):
    shared, user = "MariaDB", "root@"


@pytest.mark.services
class TestRedis(ServerOutage):
    shared, user = "Redis", ""


@pytest.mark.services
class TestCachelibOnRedis(ServerOutage):
    def make_store(self, clock: Clock) -> Store:
        parts = urlsplit(REDIS.require())
        self.link = self.stack.enter_context(Link((parts.hostname or "127.0.0.1", parts.port or 0)))
        client = self.stack.enter_context(redis.Redis(port=self.link.port, retry=Retry(NoBackoff(), 0)))
        return CacheStore(RedisCache(client, key_prefix=own_name()), clock=clock)
