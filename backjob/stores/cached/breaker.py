"""A cache that may fail: after a failure it is left alone for a while, so that a dead one does not slow every call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from backjob.errors import StoreUnavailable
from backjob.protocols import Clock
from backjob.stores.caches import Entries

__all__ = ["Breaker"]

T = TypeVar("T")

_PAUSE: Final = 5.0
"""Seconds for which a cache that failed is left alone."""
_SLOW: Final = 1.0
"""Seconds: a cache that needs longer for an answer is slower than any store, and counts as failed."""

_log = logging.getLogger("backjob")


class Breaker:
    """Entries of a cache behind a circuit breaker. Any method raises `StoreUnavailable`, at once during a pause.

    When a pause is over, one caller tries the cache, and the others wait for what comes of it elsewhere. The log has one
    line for each outage.
    """

    def __init__(self, entries: Entries, clock: Clock) -> None:
        self._entries = entries
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._is_away = False
        self._retry_at = 0.0

    def get(self, *parts: str) -> str | None:
        """The text under these parts of a key, or None."""
        return self._ask(lambda entries, key: entries.get(key), parts)

    def set(self, *parts: str, text: str, seconds: float) -> None:
        """Write an entry for so many seconds."""
        self._ask(lambda entries, key: entries.set(key, text, seconds), parts)

    def add(self, *parts: str, text: str, seconds: float) -> None:
        """Write an entry for so many seconds, unless there is one."""
        self._ask(lambda entries, key: entries.add(key, text, seconds), parts)

    def _ask(self, question: Callable[[Entries, str], T], parts: tuple[str, ...]) -> T:
        began = self._monotonic()
        if self._is_away:
            self._wait_for_turn(began)
        try:
            answer = question(self._entries, self._entries.key(*parts))
        except StoreUnavailable as error:
            self._failed(str(error))
            raise
        took = self._monotonic() - began
        if took > _SLOW:
            self._failed(f"the cache needed {took:.1f} s for an answer")
        elif self._is_away:
            self._is_away = False
            _log.info("the cache is back")
        return answer

    def _wait_for_turn(self, now: float) -> None:
        with self._lock:
            if now < self._retry_at:
                raise StoreUnavailable("the cache failed a moment ago, and is left alone")
            self._retry_at = now + _PAUSE

    def _failed(self, reason: str) -> None:
        with self._lock:
            self._retry_at = self._monotonic() + _PAUSE
            is_news, self._is_away = not self._is_away, True
        if is_news:
            _log.warning("jobs are read from their store, without the cache in front of it: %s", reason)
