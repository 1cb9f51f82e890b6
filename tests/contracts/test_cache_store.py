"""`CacheStore` keeps the contract on every kind of cache that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Final
from uuid import uuid4

import pytest
import redis
from cachelib import RedisCache, SimpleCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.utils.connection import ConnectionProxy

from backjob.lifecycle import claimed
from backjob.model import Draft, Report, Request
from backjob.protocols import Capability, Clock, Store
from backjob.stores.cache import CacheStore
from backjob.testing import DelaysJobs, FakeClock, FindsSilentJobs, MergesJobs, SharesJobs, StoreBasics
from tests.contracts.dict_cache import DictCache
from tests.services import REDIS, own_name

NAME: Final = own_name()
_numbers = count()


class CacheContract(StoreBasics, MergesJobs, DelaysJobs, FindsSilentJobs):
    """The contract without listing and purging jobs."""


class TestHomeMadeCache(CacheContract):
    examples = 15

    def make_store(self, clock: Clock) -> Store:
        store = CacheStore(DictCache(), clock=clock)
        store.lacks |= {Capability.SHARED}  # an unknown cache counts as shared
        return store


def test_a_deleted_job_leaves_no_output_body_or_tail() -> None:
    cache, clock = DictCache(), FakeClock()
    store = CacheStore(cache, clock=clock)
    request = Request("PUT", "/work", body=b"body" * 10_000)
    store.create(Draft(id="job", request=request, keep_request=True), "key")
    store.change("job", *claimed("token", 1, 60))
    for number in range(100):  # the list of chunks fills pages
        assert store.report("job", "token", Report(output="line\n" * 5_000, truncated=True, tail=f"{number}" * 20_000))
    assert len([key for key in cache.entries if ":o:" in key]) > 200
    assert store.output("job", 2_500_000).tail == "99" * 20_000
    assert store.delete("job")
    assert [key for key in cache.entries if key.startswith(("backjob:o:", "backjob:p:"))] == []
    assert len(cache.entries["backjob:j:job:103"].value) < 40, "the end of the chain names no job"
    assert CacheStore(cache, clock=clock).get("job") is None
    assert store.create(Draft(id="next", request=request), "key").id == "next"


def test_a_replaced_tail_leaves_no_entry() -> None:
    cache = DictCache()
    store = CacheStore(cache, clock=FakeClock())
    store.create(Draft(id="job", request=Request("GET", "/work")))
    store.change("job", *claimed("token", 1, 60))
    for _ in range(5):
        assert store.report("job", "token", Report(truncated=True, tail="x" * 40_000))
    assert not store.report("job", "other", Report(truncated=True, tail="x" * 40_000))
    assert len([key for key in cache.entries if key.startswith("backjob:o:")]) == 3


@pytest.mark.nightly
class TestCachelibSimpleCache(CacheContract):
    examples, race_examples = 10, 5

    def make_store(self, clock: Clock) -> Store:
        return CacheStore(SimpleCache(threshold=10**6), clock=clock)


@pytest.mark.nightly
class TestDjangoLocMemCache(CacheContract):
    examples, race_examples = 20, 10

    def make_store(self, clock: Clock) -> Store:
        cache = LocMemCache(f"{uuid4()}", {"OPTIONS": {"MAX_ENTRIES": 10**6}})
        return CacheStore(cache, clock=clock)


# --- on Redis -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    """A client of the server. Removes the entries of this module's tests at the end."""
    client = redis.Redis.from_url(REDIS.require())
    yield client
    for key in client.scan_iter(match=f"*{NAME}*", count=1000):
        client.unlink(key)
    client.close()


def cachelib_store(prefix: str, clock: Clock | None = None) -> Store:
    """The store that each process opens."""
    return CacheStore(RedisCache(redis.Redis.from_url(REDIS.url), key_prefix=prefix), clock=clock)


@pytest.mark.slow
@pytest.mark.usefixtures("server")
class TestCachelibRedisCache(CacheContract):
    examples, steps, race_examples, racers = 5, 25, 5, 4

    def make_store(self, clock: Clock) -> Store:
        return cachelib_store(f"{NAME}_{next(_numbers)}", clock)


@pytest.mark.usefixtures("server")
@pytest.mark.nightly
class TestDjangoRedisCache(CacheContract):
    examples, steps, race_examples, racers = 5, 25, 5, 4

    def make_store(self, clock: Clock) -> Store:
        caches: Any = {"default": DjangoRedisCache(REDIS.url, {"KEY_PREFIX": f"{NAME}_{next(_numbers)}"})}
        proxy: Any = ConnectionProxy(caches, "default")
        return CacheStore(proxy, clock=clock)


@pytest.mark.usefixtures("server")
@pytest.mark.nightly  # test_store_processes has the same races on it
class TestCachelibRedisCacheShared(SharesJobs):
    opener = "tests.contracts.test_cache_store:cachelib_store"
    due, creates = 60, 400

    def address(self) -> str:
        return f"{NAME}_{next(_numbers)}"


@pytest.mark.nightly
class TestHomeMadeCacheAtLength(TestHomeMadeCache):
    only_deeper = True
    examples, steps, race_examples = 250, 60, 300
