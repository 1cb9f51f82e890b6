"""A cache that may fail, behind a circuit breaker: a dead cache must not slow every call."""

from __future__ import annotations

import logging
import threading
from typing import Final

from backjob.errors import StoreUnavailable
from backjob.protocols import Clock
from backjob.stores.caches import Entries

_PAUSE: Final = 5.0  # s without a call to the cache after it failed
_SLOW: Final = 1.0  # s: a cache that takes longer to answer is slower than any store, and counts as failed

_log = logging.getLogger("backjob")


class Breaker:
    """The entries of a cache; an error of the cache reads as a miss, and opens the breaker for five seconds.

    After the pause one caller tries the cache, while the others skip it. Each outage logs one line.
    """

    def __init__(self, entries: Entries, clock: Clock) -> None:
        self._entries = entries
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._is_open = False
        self._retry_at = 0.0

    def get(self, *parts: str) -> str | None:
        """Return the text under these parts of a key, or None; also None if the cache is not available."""
        began = self._monotonic()
        if not self._may_try(began):
            return None
        try:
            found = self._entries.get(self._entries.key(*parts))
        except StoreUnavailable as error:
            self._open(str(error))
            return None
        self._succeeded(began)
        return found

    def set(self, *parts: str, text: str, seconds: float, only_new: bool = False) -> bool:
        """Write an entry, or with ``only_new`` add it. Return False only if the cache is not available."""
        began = self._monotonic()
        if not self._may_try(began):
            return False
        write = self._entries.add if only_new else self._entries.set
        try:
            write(self._entries.key(*parts), text, seconds)
        except StoreUnavailable as error:
            self._open(str(error))
            return False
        self._succeeded(began)
        return True

    def _may_try(self, now: float) -> bool:
        if not self._is_open:
            return True
        with self._lock:
            if now < self._retry_at:
                return False
            self._retry_at = now + _PAUSE
            return True

    def _succeeded(self, began: float) -> None:
        took = self._monotonic() - began
        if took > _SLOW:
            self._open(f"the cache took {took:.1f} s to answer")
        elif self._is_open:
            self._is_open = False
            _log.info("the cache is available again")

    def _open(self, reason: str) -> None:
        with self._lock:
            self._retry_at = self._monotonic() + _PAUSE
            is_news, self._is_open = not self._is_open, True
        if is_news:
            _log.warning("jobs are read from their store, without the cache in front of it: %s", reason)
