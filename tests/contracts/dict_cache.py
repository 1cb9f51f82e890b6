"""A minimal, strict cache in this process, whose entries a test can read and remove."""

from __future__ import annotations

import re
import threading
from typing import Final, NamedTuple

__all__ = ["DictCache", "Entry"]

_KEY: Final = re.compile(r"[!-~]{1,200}")  # memcached takes 250, and the cache's own prefix needs some of them


class Entry(NamedTuple):
    value: str
    timeout: int


class DictCache:
    """``add`` is atomic, entries expire only when the test calls `expire`, and calls that memcached would refuse raise."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.calls = 0
        self._lock = threading.Lock()

    def get(self, key: str, /) -> str | None:
        self._check(key)
        with self._lock:
            entry = self.entries.get(key)
            return None if entry is None else entry.value

    def set(self, key: str, value: str, timeout: int, /) -> None:
        self._check(key, value, timeout)
        with self._lock:
            self.entries[key] = Entry(value, timeout)

    def add(self, key: str, value: str, timeout: int, /) -> bool:
        self._check(key, value, timeout)
        with self._lock:
            if key in self.entries:
                return False
            self.entries[key] = Entry(value, timeout)
            return True

    def delete(self, key: str, /) -> None:
        self._check(key)
        with self._lock:
            self.entries.pop(key, None)

    def drop(self, *parts: str) -> None:
        """Remove the entries whose key contains one of these parts."""
        with self._lock:
            for key in [key for key in self.entries if any(part in key for part in parts)]:
                del self.entries[key]

    def expire(self, longest: int) -> None:
        """Remove the entries with a timeout of at most so many seconds."""
        with self._lock:
            for key in [key for key, entry in self.entries.items() if entry.timeout <= longest]:
                del self.entries[key]

    def _check(self, key: object, value: object = "", timeout: object = 1) -> None:
        self.calls += 1
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"memcached would refuse the key {key!r}")
        if type(value) is not str or len(value.encode()) > 1_000_000:
            raise ValueError("memcached would refuse the value")
        if type(timeout) is not int or timeout < 1:
            raise ValueError(f"some caches would misread the timeout {timeout!r}")
