"""Entries that every cache accepts, and the facts about known caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from cachelib import FileSystemCache, MemcachedCache, MongoDbCache, NullCache, RedisCache, SimpleCache
from cachelib.dynamodb import DynamoDbCache
from cachelib.uwsgi import UWSGICache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.utils.connection import ConnectionProxy

from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.model import Changes, Draft, Expect, Query, Request
from backjob.protocols import Capability, lacks
from backjob.stores import open_store
from backjob.stores.cache import CacheStore
from backjob.stores.caches import FOREVER, Entries, known
from tests.contracts.dict_cache import DictCache

ROOM: Final = {"OPTIONS": {"MAX_ENTRIES": 10**6}}


def bare(kind: Any) -> Any:
    """A cache that is not connected to a server."""
    return kind.__new__(kind)


def proxy(cache: Any) -> Any:
    """Django's own proxy for one of its caches."""
    caches: Any = {"default": cache}
    return ConnectionProxy(caches, "default")


# --- entries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "plain", "a b", "a\nb", "ß", "\ud800", "\0", "x" * 300, "~", ":", "a:b", "../x"])
def test_any_part_makes_a_key_that_memcached_accepts(part: str) -> None:
    cache = DictCache()
    entries = Entries(cache, "p" * 64)
    entries.set(entries.key("j", part, "1"), "text", 1)
    assert entries.get(entries.key("j", part, "1")) == "text"


MANY: Final[tuple[Callable[[], Any], ...]] = (
    DictCache,
    lambda: SimpleCache(threshold=10**6),
    lambda: LocMemCache("many", ROOM),
    lambda: proxy(LocMemCache("many, by the proxy", ROOM)),
)


@pytest.mark.parametrize("make", MANY, ids=["home-made", "cachelib", "Django", "Django's proxy"])
def test_many_entries_are_read_in_the_order_of_their_keys(make: Callable[[], Any]) -> None:
    cache = make()
    entries = Entries(cache, "p:")
    keys = [entries.key(str(number)) for number in range(1201)]
    for number, key in enumerate(keys):
        if number % 3 == 0:
            entries.set(key, f"text {number}", 60)
    if not isinstance(cache, DictCache):
        cache.set(keys[1], b"bytes", 60)
        cache.set(keys[2], 5, 60)
    found = list(entries.get_many(keys))
    assert found == [entries.get(key) for key in keys]
    assert found[:1] + found[3:4] == ["text 0", "text 3"]
    assert list(entries.get_many([])) == []


def test_a_failure_to_read_many_entries_is_the_stores() -> None:
    class Failing(SimpleCache):
        def get_many(self, *keys: str) -> Any:
            raise ConnectionError(f"{len(keys)} keys with secrets")

    with pytest.raises(StoreUnavailable, match=r"Failing\) failed: ConnectionError$"):
        list(Entries(Failing(), "").get_many(["a"]))


def counted(cache: Any) -> tuple[Any, list[str]]:
    """Return a cache, and a list to which it adds each read."""
    get, get_many = cache.get, cache.get_many
    calls: list[str] = []

    def get_one(*given: Any, **options: Any) -> Any:
        calls.append("get")
        return get(*given, **options)

    def get_several(*given: Any) -> Any:
        before = len(calls)
        found = get_many(*given)
        calls[before:] = ["get_many"]  # those caches that are no server's read one after the other
        return found

    cache.get, cache.get_many = get_one, get_several
    return cache, calls


@pytest.mark.parametrize(
    "make",
    [lambda: SimpleCache(threshold=10**6), lambda: LocMemCache("counted", ROOM)],
    ids=["cachelib", "Django"],
)
def test_a_poll_reads_the_jobs_that_wait_in_few_calls(make: Callable[[], Any]) -> None:
    cache, calls = counted(make())
    store = CacheStore(cache)
    for number in range(120):
        store.create(Draft(id=f"{number}", request=Request("GET", "/work")))
    store.find(Query(overdue=True))
    calls.clear()
    assert store.find(Query(overdue=True)) == []
    assert [job.id for job in store.take_due("me", 60, 2)] == ["0", "1"]
    assert (calls.count("get_many"), len(calls) < 30) == (2, True)
    assert store.change("2", Expect(), Changes(lessee="you", lease=60)) is not None
    assert [job.id for job in CacheStore(cache).take_due("her", 60, 1)] == ["3"]
    assert [job.id for job in store.take_due("me", 60, 1)] == ["4"]


def test_no_two_lists_of_parts_share_a_key() -> None:
    entries = Entries(DictCache(), "")
    lists = [
        ("a", "b"),
        ("a:b",),
        ("ab",),
        ("a", "", "b"),
        ("", "ab"),
        ("A", "b"),
        ("a ", "b"),
        ("x" * 64,),
        ("x" * 65,),
    ]
    assert len({entries.key(*parts) for parts in lists}) == len(lists)


@pytest.mark.parametrize(
    ("seconds", "timeout"),
    [(0, 1), (-5, 1), (0.2, 1), (1, 1), (1.2, 2), (31 * 86400, 31 * 86400), (1e300, FOREVER), (float("inf"), FOREVER)],
)
def test_a_timeout_is_a_positive_whole_number(seconds: float, timeout: int) -> None:
    cache = DictCache()
    Entries(cache, "").set("a", "text", seconds)
    Entries(cache, "").add("b", "text", seconds)
    assert {entry.timeout for entry in cache.entries.values()} == {timeout}


def test_no_timeout_ends_after_the_last_moment_that_memcached_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DictCache()
    monkeypatch.setattr("time.time", lambda: 2**31 - 10**8)  # in 2034
    Entries(cache, "").set("a", "text", FOREVER)
    assert cache.entries["a"].timeout == 10**8 - 1
    monkeypatch.setattr("time.time", lambda: 2**31 + 10**8)
    Entries(cache, "").set("a", "text", FOREVER)
    assert cache.entries["a"].timeout == 30 * 86400


@pytest.mark.parametrize("prefix", ["a b", "a\n", "ß", "x" * 65])
def test_a_prefix_that_some_caches_refuse_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="prefix"):
        Entries(DictCache(), prefix)


def test_an_object_that_is_not_a_cache_is_refused() -> None:
    no_cache: Any = {}
    with pytest.raises(StoreUnusable, match=r"dict is not a cache: it lacks set, add, delete"):
        Entries(no_cache, "")


@pytest.mark.parametrize(
    ("found", "text"), [(b"caf\xc3\xa9", "café"), (b"\xff", "\ufffd"), (7, None), ([], None), (None, None)]
)
def test_a_value_that_is_not_text_reads_as_missing(found: object, text: str | None) -> None:
    class Strange(DictCache):
        def get(self, key: str, /) -> Any:
            return found

    assert Entries(Strange(), "").get("a") == text


def test_an_error_of_the_cache_becomes_store_unavailable() -> None:
    class Failing(DictCache):
        def delete(self, key: str, /) -> None:
            raise KeyError(key)

    with pytest.raises(StoreUnavailable, match="KeyError") as raised:
        Entries(Failing(), "").delete("a")
    assert isinstance(raised.value.__cause__, KeyError)


# --- known caches -------------------------------------------------------------------------------------------


Derived: Any = type("Derived", (FileBasedCache,), {})
"""An application's subclass."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: FileSystemCache(str(path)), "FileSystemCache.*two callers can win"),
        (lambda _: NullCache(), "NullCache.*keeps nothing"),
        (lambda _: bare(MongoDbCache), "MongoDbCache.*two callers can win"),
        (lambda _: bare(DynamoDbCache), "DynamoDbCache.*older than the last write"),
        (lambda path: FileBasedCache(str(path), {}), "FileBasedCache.*two callers can win"),
        (lambda path: Derived(str(path), {}), "FileBasedCache.*two callers can win"),
        (lambda _: DummyCache("", {}), "DummyCache.*keeps nothing"),
        (lambda _: proxy(DummyCache("", {})), "DummyCache.*keeps nothing"),
        (lambda _: SimpleCache(), "SimpleCache.*drops entries.*more than 500.*threshold"),
        (lambda _: LocMemCache("small", {}), "LocMemCache.*more than 300.*max_entries"),
        (lambda _: DatabaseCache("table", {}), "DatabaseCache.*more than 300.*max_entries"),
    ],
)
def test_a_cache_that_can_not_keep_jobs_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], Any], reason: str
) -> None:
    with pytest.raises(StoreUnusable, match=reason) as raised:
        CacheStore(make(tmp_path))
    assert "Redis" in str(raised.value) or "raise its" in str(raised.value)


def test_a_simple_cache_of_a_version_without_a_lock_is_refused() -> None:
    cache = SimpleCache(threshold=10**6)
    del cache._lock
    with pytest.raises(StoreUnusable, match=r"SimpleCache.*two callers can win"):
        CacheStore(cache)


@pytest.mark.parametrize(
    ("cache", "shared"),
    [
        (SimpleCache(threshold=10**6), False),
        (LocMemCache("roomy", ROOM), False),
        (proxy(LocMemCache("roomy", ROOM)), False),
        (bare(RedisCache), True),
        (bare(MemcachedCache), True),
        (bare(UWSGICache), True),
        (bare(DjangoRedisCache), True),
        (bare(PyMemcacheCache), True),
        (DatabaseCache("table", ROOM), True),
        (DictCache(), True),
    ],
)
def test_a_cache_that_can_keep_jobs_is_accepted_and_declares_what_it_lacks(cache: Any, shared: bool) -> None:
    expected = {Capability.RETENTION, Capability.LISTING, Capability.SLOTS} | (set() if shared else {Capability.SHARED})
    assert lacks(CacheStore(cache)) == expected
    assert (known(cache) is None) == isinstance(cache, DictCache)


# --- by URL ---------------------------------------------------------------------------------------------------------

roomy: Final = DictCache()


class Extensions:
    cache: Final = roomy


def test_a_url_names_a_cache_by_its_module() -> None:
    assert isinstance(open_store(f"cache:{__name__}:roomy"), CacheStore)
    store = open_store(f"cache:{__name__}:Extensions.cache?prefix=mine-")
    store.purge(1, 1)
    assert list(roomy.entries) == ["mine-ages"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("cache:", "can't be imported"),
        ("cache:no.such.module:cache", "no.such.module:cache can't be imported.*No module"),
        (f"cache:{__name__}", "can't be imported"),
        (f"cache:{__name__}:nothing", "nothing.*can't be imported"),
        (f"cache:{__name__}:roomy?threshold=7", "no option 'threshold'"),
        (f"cache:{__name__}:roomy?prefix=a%20b", "prefix"),
    ],
)
def test_a_url_that_does_not_lead_to_a_cache_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        open_store(url)
