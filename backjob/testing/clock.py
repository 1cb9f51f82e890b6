"""A clock that moves only when a test says so."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

__all__ = ["FakeClock"]

# Not a whole second: a store that loses microseconds shows it at once.
_START = datetime(2031, 5, 17, 11, 22, 33, 456789, tzinfo=UTC)


class FakeClock:
    """A `Clock` that stands still until it is moved. Safe to use from several threads.

    It begins at ``start``, an aware datetime; by default a fixed one, so that a test runs the same every day.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._lock = threading.Lock()
        self._now = start.astimezone(UTC)
        self._monotonic = timedelta()

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic.total_seconds()

    def advance(self, seconds: float) -> None:
        """Let time pass: both the wall clock and the monotonic one move on."""
        if seconds < 0:
            raise ValueError("time does not run backwards; jump() sets the wall clock back")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, either way: somebody set it, or the machine slept."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
