"""Shared by the stores that use a cache: entries that every cache can keep, and facts about known caches.

This module imports no cache library: it uses cachelib's, Django's and home-made caches by their methods.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from math import ceil
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

from attrs import evolve, frozen

from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable

__all__ = ["FOREVER", "Cache", "Entries", "Known", "known", "plain"]

T = TypeVar("T")

FOREVER: Final = 10 * 365 * 86400
"""Seconds that mean "for ever": caches differ in what 0 and None mean."""

_MOST_AT_ONCE: Final = 500
_LATEST: Final = 2**31 - 1
"""The last Unix time that memcached accepts as an expiry."""
_SHORTEST_LATEST: Final = 30 * 86400
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PREFIX: Final = re.compile(r"[!-~]{0,64}")


@runtime_checkable
class Cache(Protocol):
    """The methods of a cache. Keys and values are ``str``, a timeout is a positive whole number of seconds.

    ``add`` must be one atomic step for all threads and processes that use this cache: of several callers with one key,
    exactly one gets True, and only if the cache has no unexpired entry.
    """

    def get(self, key: str, /) -> Any:
        """Return the value, or None."""
        ...

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        """Keep a value for ``timeout`` seconds, in place of any other."""
        ...

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        """Keep a value for ``timeout`` seconds unless there is one already. Return whether it was added."""
        ...

    def delete(self, key: str, /) -> Any:
        """Delete a value, if there is one."""
        ...


def plain(part: str) -> str:
    """Return a part of a key that every cache accepts: short plain ASCII as it is, anything else hashed."""
    if _PLAIN.fullmatch(part):
        return part
    return "~" + sha256(part.encode("utf-8", "surrogatepass")).hexdigest()


class Entries:
    """The entries under one prefix of a cache: text values, with keys and timeouts that every cache accepts.

    Any error of the cache becomes `StoreUnavailable`.

    Raises `InvalidRequest` for a prefix that is longer than 64 characters or not printable ASCII without spaces, and
    `StoreUnusable` for an object that is not a cache.
    """

    def __init__(self, cache: Cache, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise InvalidRequest("prefix", "must be at most 64 printable ASCII characters without spaces")
        missing = [name for name in ("get", "set", "add", "delete") if not callable(getattr(cache, name, None))]
        if missing:
            raise StoreUnusable(f"{type(cache).__qualname__} is not a cache: it lacks {', '.join(missing)}")
        self._cache = cache
        self._prefix = prefix
        self._get_many = _reader_of_many(cache)

    def key(self, *parts: str) -> str:
        """Return the key of these parts, in printable ASCII with at most 65 characters for each; unique to these parts.

        With two parts of any length and one or two short ones it stays below memcached's 250 bytes.
        """
        return self._prefix + ":".join(map(plain, parts))

    def get(self, key: str) -> str | None:
        """Return the text of an entry, or None; also None for a value that is not text, which another program wrote."""
        return _as_text(self._do(self._cache.get, key))

    def get_many(self, keys: Sequence[str]) -> Iterator[str | None]:
        """Yield the text of each of these entries, or None, as `get` does: in few calls to a cache that is known to have one for many."""
        for begin in range(0, len(keys), _MOST_AT_ONCE):
            yield from map(_as_text, self._do(self._get_many, keys[begin : begin + _MOST_AT_ONCE]))

    def set(self, key: str, text: str, seconds: float) -> None:
        """Write an entry for at least so many seconds, and at most `FOREVER`."""
        self._do(self._cache.set, key, text, _timeout(seconds))

    def add(self, key: str, text: str, seconds: float) -> bool:
        """Write an entry unless there is one. Return whether it was written; a full cache returns False too."""
        return bool(self._do(self._cache.add, key, text, _timeout(seconds)))

    def delete(self, key: str) -> None:
        self._do(self._cache.delete, key)

    def _do(self, call: Callable[..., T], *arguments: object) -> T:
        try:
            return call(*arguments)
        except Exception as error:  # a cache's driver may raise anything
            name = type(self._cache).__qualname__
            raise StoreUnavailable(f"the cache ({name}) failed: {type(error).__qualname__}") from error


def _as_text(value: object) -> str | None:
    if isinstance(value, bytes | bytearray):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _reader_of_many(cache: Any) -> Callable[[Sequence[str]], list[Any]]:
    """Return the function that reads several entries. Other caches than these may have another ``get_many``."""
    names = _names(cache)
    if _CACHELIB in names:
        return lambda keys: cast("list[Any]", cache.get_many(*keys))
    if _DJANGO in names or _DJANGO_PROXY in names:
        return lambda keys: list(map(cache.get_many(keys).get, keys))
    return lambda keys: list(map(cache.get, keys))


def _timeout(seconds: float) -> int:
    longest = max(_LATEST - int(time.time()), _SHORTEST_LATEST)
    return max(1, ceil(min(seconds, FOREVER, longest)))


# --- known caches ------------------------------------------------------------------------------------------


@frozen
class Known:
    """Facts about a kind of cache."""

    name: str
    fault: str | None = None
    """Why a claim can't rely on its ``add``; None if it can."""
    shared: bool = True
    """Whether all processes see the same entries."""
    room: str | None = None
    """The attribute with the most entries that it keeps."""
    lock: str | None = None
    """The attribute that only versions with a lock around ``add`` have."""


_CACHELIB: Final = "cachelib.base.BaseCache"
_DJANGO: Final = "django.core.cache.backends.base.BaseCache"
_DJANGO_PROXY: Final = "django.utils.connection.ConnectionProxy"
_CHECKS_FIRST: Final = "its add() first reads and then writes, so that two callers can win"
_KEEPS_NOTHING: Final = "it keeps nothing"

_KNOWN: Final[Mapping[str, Known]] = {
    "cachelib.base.NullCache": Known("cachelib's NullCache", _KEEPS_NOTHING),
    "cachelib.simple.SimpleCache": Known("cachelib's SimpleCache", shared=False, room="_threshold", lock="_lock"),
    "cachelib.file.FileSystemCache": Known("cachelib's FileSystemCache", _CHECKS_FIRST),
    "cachelib.mongodb.MongoDbCache": Known("cachelib's MongoDbCache", _CHECKS_FIRST),
    "cachelib.dynamodb.DynamoDbCache": Known("cachelib's DynamoDbCache", "its get() may be older than the last write"),
    "cachelib.memcached.MemcachedCache": Known("cachelib's MemcachedCache"),
    "cachelib.redis_base.BaseRedisCache": Known("cachelib's RedisCache or ValkeyCache"),
    "cachelib.redis.RedisCache": Known("cachelib's RedisCache"),
    "cachelib.uwsgi.UWSGICache": Known("cachelib's UWSGICache"),
    "flask_caching.backends.nullcache.NullCache": Known("Flask-Caching's NullCache", _KEEPS_NOTHING),
    "django.core.cache.backends.dummy.DummyCache": Known("Django's DummyCache", _KEEPS_NOTHING),
    "django.core.cache.backends.filebased.FileBasedCache": Known("Django's FileBasedCache", _CHECKS_FIRST),
    "django.core.cache.backends.locmem.LocMemCache": Known("Django's LocMemCache", shared=False, room="_max_entries"),
    "django.core.cache.backends.db.DatabaseCache": Known("Django's DatabaseCache", room="_max_entries"),
    "django.core.cache.backends.redis.RedisCache": Known("Django's RedisCache"),
    "django.core.cache.backends.memcached.BaseMemcachedCache": Known("Django's cache on memcached"),
}
"""Full name of a class → facts from its source."""


def known(cache: object) -> tuple[Known, object] | None:
    """Return the facts about a cache, and the cache behind Django's proxy; None for an unknown cache.

    A subclass of a known class counts as that class.
    """
    names = _names(cache)
    if _DJANGO_PROXY in names:
        inner = vars(cache)
        cache = inner["_connections"][inner["_alias"]]
        names = _names(cache)
    for name in names:
        if name in _KNOWN:
            found = _KNOWN[name]
            locked = found.lock is None or hasattr(cache, found.lock)
            return (found if locked else evolve(found, fault=_CHECKS_FIRST)), cache
    return None


def _names(cache: object) -> list[str]:
    return [f"{each.__module__}.{each.__qualname__}" for each in type(cache).__mro__]
