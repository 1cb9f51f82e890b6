"""A clock that moves only when a test moves it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Final

from backjob.errors import InvalidRequest
from backjob.model.durations import LONGEST, Seconds, check_duration

__all__ = ["FakeClock"]

# Not a whole second, so that a store that loses microseconds fails at once.
_START: Final = datetime(2031, 5, 17, 11, 22, 33, 456789, tzinfo=UTC)


class FakeClock:
    """A `Clock` that stands still until a test moves it. Thread-safe.

    It starts at ``start``, an aware datetime; the default is fixed, so that a test runs the same every day.
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

    def advance(self, seconds: Seconds) -> None:
        """Move both the wall clock and the monotonic clock forward. Raises `InvalidRequest`."""
        moved = check_duration("seconds", seconds, -LONGEST)
        if moved < 0:
            raise InvalidRequest("seconds", "advance() moves forward only; jump() can set the wall clock back")
        with self._lock:
            self._now += timedelta(seconds=moved)
            self._monotonic += timedelta(seconds=moved)

    def jump(self, seconds: Seconds) -> None:
        """Move only the wall clock, in either direction, as if it was set or the machine slept. Raises `InvalidRequest`."""
        moved = check_duration("seconds", seconds, -LONGEST)
        with self._lock:
            self._now += timedelta(seconds=moved)
