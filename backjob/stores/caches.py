"""What the stores on a cache share: entries that any cache can keep, and what is known of the caches that exist.

Nothing is imported of a cache's library: cachelib's caches, Django's and home-made ones are taken by their shape.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from math import ceil
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from attrs import evolve, frozen

from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable

__all__ = ["FOREVER", "Cache", "Entries", "Known", "known", "plain"]

T = TypeVar("T")

FOREVER: Final = 10 * 365 * 86400
"""Seconds that stand for "for ever": 0 and None mean one thing to one cache, and something else to the next."""

_LATEST: Final = 2**31 - 1
"""Unix time past which memcached understands no expiry."""
_SHORTEST_LATEST: Final = 30 * 86400
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PREFIX: Final = re.compile(r"[!-~]{0,64}")


@runtime_checkable
class Cache(Protocol):
    """What a cache must be able to do. Keys and values are ``str``, a timeout is a positive whole number of seconds.

    ``add`` must be one atomic step, for all threads and processes that see this cache: of several callers with one
    key, exactly one gets a true answer, and only if there is no entry that has not expired.
    """

    def get(self, key: str, /) -> Any:
        """The value, or None."""
        ...

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        """Keep a value for so long, in the place of any other."""
        ...

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        """Keep a value for so long, unless there is one already; whether it was done."""
        ...

    def delete(self, key: str, /) -> Any:
        """Forget a value, if there is one."""
        ...


def plain(part: str) -> str:
    """A part of a key that any cache takes: short plain ASCII as it stands, anything else hashed."""
    if _PLAIN.fullmatch(part):
        return part
    return "~" + sha256(part.encode("utf-8", "surrogatepass")).hexdigest()


class Entries:
    """The entries under one prefix of a cache: ``str`` values, keys and timeouts that every cache understands.

    A value is handed to the cache as ``str`` and comes back as ``str``; what the cache itself makes of a ``str`` on its
    way is the cache's business. Any error of the cache becomes `StoreUnavailable`.

    Raises `InvalidRequest` for a prefix that is longer than 64 characters or not printable ASCII without spaces, and
    `StoreUnusable` for what is no cache.
    """

    def __init__(self, cache: Cache, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise InvalidRequest("prefix", "at most 64 printable ASCII characters without spaces are needed")
        missing = [name for name in ("get", "set", "add", "delete") if not callable(getattr(cache, name, None))]
        if missing:
            raise StoreUnusable(f"{type(cache).__qualname__} is no cache: it has no {', '.join(missing)}")
        self._cache = cache
        self._prefix = prefix

    def key(self, *parts: str) -> str:
        """The key of these parts, each at most 65 characters of it, in printable ASCII; no two lists of parts share one.

        With two parts of any length and a short one or two it stays below memcached's 250 bytes.
        """
        return self._prefix + ":".join(map(plain, parts))

    def get(self, key: str) -> str | None:
        """The text of an entry, or None. What is no text, and so not ours, is None too."""
        value = self._do(self._cache.get, key)
        if isinstance(value, bytes | bytearray):
            value = value.decode("utf-8", "replace")
        return value if isinstance(value, str) else None

    def set(self, key: str, text: str, seconds: float) -> None:
        """Write an entry, to be kept for so many seconds at least; `FOREVER` at most."""
        self._do(self._cache.set, key, text, _timeout(seconds))

    def add(self, key: str, text: str, seconds: float) -> bool:
        """Write an entry unless there is one; whether it was written. A cache that has no room says False as well."""
        return bool(self._do(self._cache.add, key, text, _timeout(seconds)))

    def delete(self, key: str) -> None:
        """Forget an entry, if there is one."""
        self._do(self._cache.delete, key)

    def _do(self, call: Callable[..., T], *arguments: object) -> T:
        try:
            return call(*arguments)
        except Exception as error:  # whatever a cache's driver raises
            name = type(self._cache).__qualname__
            raise StoreUnavailable(f"the cache ({name}) failed: {type(error).__qualname__}") from error


def _timeout(seconds: float) -> int:
    longest = max(_LATEST - int(time.time()), _SHORTEST_LATEST)
    return max(1, ceil(min(seconds, FOREVER, longest)))


# --- caches that are known ------------------------------------------------------------------------------------------


@frozen
class Known:
    """What is known of a kind of cache."""

    name: str
    fault: str | None = None
    """Why its ``add`` decides nothing, so that no claim can rest on it; None if it does."""
    shared: bool = True
    """Whether every process sees the same entries."""
    room: str | None = None
    """The attribute with the number of entries that it keeps, and drops others beyond."""
    lock: str | None = None
    """The attribute that versions with a lock around ``add`` have, and those before had not."""


_CHECKS_FIRST: Final = "its add() looks first and writes then, so that two can win"
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
"""Full name of a class → what its source says."""


def known(cache: object) -> tuple[Known, object] | None:
    """What is known of a cache, and the cache itself if this is Django's proxy for it; None for a stranger.

    A class that derives from a known one counts as that one.
    """
    names = _names(cache)
    if "django.utils.connection.ConnectionProxy" in names:
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
